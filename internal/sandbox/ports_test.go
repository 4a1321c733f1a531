package sandbox

import "testing"

func TestLowestPort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		exposed []string
		want    uint16
	}{
		{nil, 0},
		{[]string{"10000/tcp", "80/tcp", "9/tcp"}, 9},
		{[]string{"53/udp", "8080"}, 8080},
		{[]string{"1/sctp", "/tcp", "0/tcp", "65536/tcp", "x", "-1/tcp"}, 0},
		{[]string{"443/TCP"}, 443},
	} {
		if got := lowestPort(c.exposed); got != c.want {
			t.Errorf("lowestPort(%q) = %d, want %d", c.exposed, got, c.want)
		}
	}
}
