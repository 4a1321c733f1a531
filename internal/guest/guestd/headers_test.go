package guestd

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

func TestTimeLimit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		ours, connect string
		want          time.Duration
		ok            bool
	}{
		{"", "", 0, true},
		{"1500", "", 1500 * time.Millisecond, true},
		{"", "20", 20 * time.Millisecond, true},
		{"5", "20", 5 * time.Millisecond, true},
		{"9999999999", "", 9999999999 * time.Millisecond, true},
		{"99999999999", "", 0, false},
		{"-1", "", 0, false},
		{"1s", "", 0, false},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set(wire.HeaderTimeLimit, tt.ours)
		h.Set(wire.HeaderConnectTimeout, tt.connect)
		got, err := timeLimit(h)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("timeLimit(%q, %q) = %v, %v, want %v", tt.ours, tt.connect, got, err, tt.want)
		}
	}
}

func TestKeepalive(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"": keepaliveDefault, "0": keepaliveDefault, "x": keepaliveDefault, "-1": keepaliveDefault,
		"50": 50 * time.Second, "65536": keepaliveDefault,
	} {
		h := http.Header{}
		h.Set(wire.HeaderKeepalive, text)
		if got := keepalive(h); got != want {
			t.Errorf("keepalive(%q) = %v, want %v", text, got, want)
		}
	}
}

func FuzzTimeLimit(f *testing.F) {
	f.Add("1", "2")
	f.Fuzz(func(t *testing.T, ours, connect string) {
		h := http.Header{wire.HeaderTimeLimit: {ours}, wire.HeaderConnectTimeout: {connect}, wire.HeaderKeepalive: {ours}}
		if d, err := timeLimit(h); err == nil && (d < 0 || d > 116*24*time.Hour) {
			t.Errorf("timeLimit(%q, %q) = %v", ours, connect, d)
		}
		if d := keepalive(h); d <= 0 {
			t.Errorf("keepalive(%q) = %v", ours, d)
		}
	})
}

func TestAcceptsIdentity(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"": true, "gzip": true, "gzip, br": true, "*": true, "identity": true, "gzip;q=1, identity;q=0.5": true,
		"identity;q=0": false, "identity; q=0.000": false, "gzip, *;q=0": false, "*;q=0, identity": true,
		"IDENTITY;Q=0": false, "identity;q=0.01": true,
	} {
		if got := acceptsIdentity(accept); got != want {
			t.Errorf("acceptsIdentity(%q) = %t, want %t", accept, got, want)
		}
	}
}

func FuzzSignature(f *testing.F) {
	f.Add("path=/x&signature=v1_abc&signature_expiration=12")
	f.Fuzz(func(t *testing.T, query string) {
		if strings.ContainsAny(query, " #\x00\r\n") {
			return
		}
		s := New(Options{Secret: initd.OpenSecret("X", "", "/nowhere")})
		r := httptest.NewRequest(http.MethodGet, "/files", nil)
		r.URL.RawQuery = query
		if err := s.checkSignature(r, time.Unix(0, 0)); err == nil {
			t.Errorf("checkSignature(%q) succeeded without a token", query)
		}
	})
}

func TestPairs(t *testing.T) {
	t.Parallel()
	got := pairs(map[string]string{"B": "2", "A": "1=1", "": "x", "C=D": "x", "E\x00": "x", "F": "x\x00y", "G": ""})
	if want := "A=1=1 B=2 G="; strings.Join(got, " ") != want {
		t.Errorf("pairs = %q, want %q", got, want)
	}
}
