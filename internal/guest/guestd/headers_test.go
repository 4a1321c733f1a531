package guestd

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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

func TestChooseCoding(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"": "identity", " ": "identity", "identity": "identity", "*": "identity", "br, deflate": "identity", ",;": "identity",
		"gzip": "gzip", "GZIP;Q=1": "gzip", "gzip, deflate": "gzip", "br;q=1.0, gzip;q=0.5": "gzip", "gzip;q=nonsense": "gzip",
		"gzip;q=0.1, identity;q=0.2": "identity", "gzip;q=0": "identity", "*;q=0.5, gzip;q=0": "identity",
		"identity;q=0, *": "gzip", "identity;q=0, gzip;q=0.001": "gzip", "*;q=0, gzip": "gzip",
		"identity;q=0": "", "identity; q=0.000, br": "", "*;q=0": "", "IDENTITY;Q=0": "", "identity;q=0, gzip;q=0": "",
		"*;q=0, identity": "identity",
	} {
		if got := chooseCoding(accept); got != want {
			t.Errorf("chooseCoding(%q) = %q, want %q", accept, got, want)
		}
	}
}

func FuzzChooseCoding(f *testing.F) {
	f.Add("gzip;q=0.5, identity;q=0, *;q=NaN")
	f.Fuzz(func(t *testing.T, accept string) {
		switch got := chooseCoding(accept); got {
		case "gzip":
			lower := strings.ToLower(accept)
			if !strings.Contains(lower, "gzip") && !strings.Contains(lower, "*") {
				t.Errorf("chooseCoding(%q) = gzip, which was not asked for", accept)
			}
		case "identity", "":
		default:
			t.Errorf("chooseCoding(%q) = %q", accept, got)
		}
	})
}

// Whatever headers carry metadata, only what a file can carry passes.
func FuzzMetadata(f *testing.F) {
	f.Add("Author", "mish")
	f.Add("a/b", "x\xff")
	f.Fuzz(func(t *testing.T, key, value string) {
		m := metadataOf(http.Header{metadataHeader + key: {value}, "Other": {"x"}})
		if m.Validate() != nil {
			return
		}
		for k, v := range m {
			if len(k)+len(v) > 4096 || len(k) > 246 || k == "" || k != strings.ToLower(k) || strings.ContainsAny(k, "/\x00 \n") || !utf8.ValidString(v) {
				t.Errorf("metadata %q = %q is accepted", k, v)
			}
		}
	})
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
