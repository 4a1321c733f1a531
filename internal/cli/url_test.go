package cli

import (
	"testing"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

func TestPortURL(t *testing.T) {
	t.Parallel()
	domain, any, exposed := "boxes.test", "https://{port}-sb1.boxes.test", "https://80-sb1.boxes.test"
	for name, c := range map[string]struct {
		box  *lehrv1.Sandbox
		port []string
		want string
		kind errs.Kind
	}{
		"exposed":        {&lehrv1.Sandbox{Domain: &domain, PortUrl: &any, Url: &exposed}, nil, exposed, ""},
		"a port":         {&lehrv1.Sandbox{Domain: &domain, PortUrl: &any, Url: &exposed}, []string{"0081"}, "https://81-sb1.boxes.test", ""},
		"nothing":        {&lehrv1.Sandbox{Domain: &domain, PortUrl: &any}, nil, "", errs.NotFound},
		"ended":          {&lehrv1.Sandbox{Domain: &domain, State: "killed"}, []string{"80"}, "", errs.Conflict},
		"without domain": {&lehrv1.Sandbox{}, []string{"80"}, "", errs.Unsupported},
	} {
		if got, err := portURL(c.box, c.port); got != c.want || errs.KindOf(err) != c.kind {
			t.Errorf("%s: portURL() = %q, %v, want %q, kind %q", name, got, err, c.want, c.kind)
		}
	}
	for _, args := range [][]string{{}, {"sb1", "0"}, {"sb1", "65536"}, {"sb1", "x"}, {"sb1", "80", "81"}} {
		if err := urlArgs(nil, args); err == nil {
			t.Errorf("urlArgs(%q) = nil, want it refused", args)
		}
	}
}
