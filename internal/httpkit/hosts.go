package httpkit

import (
	"net"
	"strings"
)

// Hosts are the names under which requests may reach us, besides addresses and
// localhost.
type Hosts map[string]bool

// NewHosts returns the set of names.
func NewHosts(names ...string) Hosts {
	h := Hosts{}
	for _, n := range names {
		h[Hostname(n)] = true
	}
	return h
}

// Own reports whether a Host header names us: it is an IP address, localhost,
// one of the names, or missing.
func (h Hosts) Own(host string) bool {
	name := Hostname(host)
	return name == "" || name == "localhost" || h[name] || net.ParseIP(name) != nil
}

// Hostname returns the name in a Host header: without the port, a dot at its
// end and the brackets of an address, in small letters.
func Hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}
