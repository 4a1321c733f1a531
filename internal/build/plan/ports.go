package plan

import (
	"fmt"
	"strconv"
	"strings"
)

// parsePorts reads "8080", "53/udp" or "8000-8010/tcp", as EXPOSE takes it.
func parsePorts(word string) (first, last int, proto string, err error) {
	ports, proto, named := strings.Cut(word, "/")
	if !named {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return 0, 0, "", fmt.Errorf("%q: unknown protocol %q", clip(word), clip(proto))
	}
	from, to, isRange := strings.Cut(ports, "-")
	if !isRange {
		to = from
	}
	first, ok := parsePort(from)
	last, ok2 := parsePort(to)
	if !ok || !ok2 || first > last {
		return 0, 0, "", fmt.Errorf("%q is not a port or a range of ports", clip(word))
	}
	return first, last, proto, nil
}

func parsePort(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0
}
