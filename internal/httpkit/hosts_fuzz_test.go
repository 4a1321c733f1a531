package httpkit_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/httpkit"
)

// FuzzHosts reads any Host. Ours are addresses, localhost and the names given,
// and none at all: nothing that a page of another name can send.
func FuzzHosts(f *testing.F) {
	for _, s := range []string{"localhost:80", "127.0.0.1", "[::1]:5347", "evil.example", "lehr.example.", "LEHR.example:1", "a@127.0.0.1", "127.0.0.1.evil.example", "[::1%25eth0]"} {
		f.Add(s)
	}
	hosts := httpkit.NewHosts("lehr.example")
	f.Fuzz(func(t *testing.T, host string) {
		if !hosts.Own(host) {
			return
		}
		name := strings.ToLower(strings.TrimSuffix(httpkit.Hostname(host), "."))
		_, err := netip.ParseAddr(strings.Trim(name, "[]"))
		if name != "" && name != "localhost" && name != "lehr.example" && !strings.HasSuffix(name, ".localhost") && err != nil {
			t.Errorf("Own(%q) = true, of the name %q", host, name)
		}
	})
}
