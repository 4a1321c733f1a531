package config

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Up configures `lehr up`.
type Up struct {
	Data      string   // data folder, absolute
	Listen    string   // HOST:PORT of the API
	Workers   int      // builds at the same time
	HostNames []string // further names that requests may carry in Host
	Domain    string   // sandboxes are served under its subdomains
	PublicURL *url.URL // how callers reach the server through a proxy; nil: directly
	LogLevel  string   // debug, info, warn, error
	CacheMB   int64    // what bases from registries may take; 0: a fifth of the disk
	// Registries is the absolute path of the registries file; empty: none.
	Registries string
}

// Bounds and defaults of Up.
const (
	DefaultListen  = "127.0.0.1:5347"
	DefaultData    = "/var/lib/lehr"
	DefaultWorkers = 2
	DefaultDomain  = "localhost"
	MaxWorkers     = 64
	MaxCacheMB     = 1 << 30
)

// maxData leaves room for the name of a unix socket, whose address may have 107
// bytes.
const maxData = 90

// Source gives a value by its flag name; ok is false where it was not given.
type Source func(name string) (value string, ok bool)

// Layered asks the sources in order; the first that has a value wins.
func Layered(sources ...Source) Source {
	return func(name string) (string, bool) {
		for _, s := range sources {
			if v, ok := s(name); ok {
				return v, true
			}
		}
		return "", false
	}
}

// Environment reads LEHR_<NAME> with hyphens as underscores. An empty variable
// counts as not set.
func Environment(lookup func(string) (string, bool)) Source {
	return func(name string) (string, bool) {
		v, ok := lookup("LEHR_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
		return v, ok && v != ""
	}
}

// LoadUp fills an Up and reports all problems at once.
func LoadUp(src Source) (Up, error) {
	var p problems
	up := Up{
		Data:     or(src, "data", DefaultData),
		Listen:   or(src, "listen", DefaultListen),
		LogLevel: or(src, "log-level", "info"),
	}
	if abs, err := filepath.Abs(up.Data); up.Data == "" {
		p.add("data", "is empty") // not the current folder
	} else if err != nil {
		p.add("data", "%v", err)
	} else {
		up.Data = abs
	}
	if len(up.Data) > maxData {
		p.add("data", "%d bytes long: want at most %d, because a socket inside has to fit", len(up.Data), maxData)
	}
	if info, err := os.Stat(up.Data); err == nil && !info.IsDir() {
		p.add("data", "%s is not a folder", up.Data)
	}
	if _, port, err := net.SplitHostPort(up.Listen); err != nil {
		p.add("listen", "%q: want HOST:PORT", up.Listen)
	} else if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		p.add("listen", "port %q: want 0 to 65535", port)
	}
	workers, err := strconv.Atoi(or(src, "workers", strconv.Itoa(DefaultWorkers)))
	if err != nil || workers < 1 || workers > MaxWorkers {
		p.add("workers", "want a number from 1 to %d", MaxWorkers)
	}
	up.Workers = workers
	cache, err := strconv.ParseInt(or(src, "cache-mb", "0"), 10, 64)
	if err != nil || cache < 0 || cache > MaxCacheMB {
		p.add("cache-mb", "want a number of MB from 1 to %d, or 0 for a fifth of the disk", int64(MaxCacheMB))
	}
	up.CacheMB = cache
	switch up.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		p.add("log-level", "%q: want debug, info, warn or error", up.LogLevel)
	}
	up.Registries = p.registries(or(src, "registries", ""))
	if names, ok := src("host-name"); ok && names != "" {
		up.HostNames = strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
	}
	up.Domain = strings.ToLower(strings.TrimSuffix(or(src, "domain", DefaultDomain), "."))
	if !isDomain(up.Domain) {
		p.add("domain", "%.80q: want a domain name such as localhost or boxes.example.com, at most %d characters long", up.Domain, maxDomain)
	}
	if given := or(src, "public-url", ""); given != "" {
		up.PublicURL = publicURL(given)
		if up.PublicURL == nil {
			p.add("public-url", "%.80q: want http://NAME[:PORT] or https://NAME[:PORT] and nothing else", given)
		} else {
			up.HostNames = append(up.HostNames, up.PublicURL.Hostname())
		}
	}
	return up, p.err()
}

// maxDomain leaves room for a port and an id in front, in the 253 characters
// that a name may have.
const maxDomain = 253 - len("65535-sb00000000000000000000000000.")

// domainLabel is one part of a domain name.
var domainLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// isDomain reports whether a name can have subdomains: an address cannot.
func isDomain(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if !domainLabel.MatchString(label) {
			return false
		}
	}
	return len(name) <= maxDomain && net.ParseIP(name) == nil
}

// publicURL reads a URL of scheme, name and port; nil for any other.
func publicURL(text string) *url.URL {
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil
	}
	if plain := (&url.URL{Scheme: u.Scheme, Host: u.Host}); plain.String() != u.String() {
		return nil
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil
		}
	}
	return u
}

func or(src Source, name, fallback string) string {
	if v, ok := src(name); ok {
		return v
	}
	return fallback
}

// problems gathers what is wrong, so that one run reports it all.
type problems []string

func (p *problems) add(name, format string, args ...any) {
	*p = append(*p, "--"+name+": "+errs.New(errs.Invalid, format, args...).Message)
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return errs.New(errs.Invalid, "%s", strings.Join(p, "; ")).WithCode("config_invalid").
		WithRemedy("see the flags with --help; each can also be given as LEHR_<NAME>")
}
