package lehr

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// DefaultRegistry is the registry of image references that name none.
const DefaultRegistry = "docker.io"

// Bounds of image references; those of name and tag are Docker's.
const (
	maxImageRef  = 512
	maxImageName = 255
)

var (
	registryPattern   = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	imageTagPattern   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
)

// ImageRef names a container image in a registry. References that mean the
// same are equal.
type ImageRef struct {
	Registry   string // HOST[:PORT], lower-cased; "docker.io" by default
	Repository string // "library/python"
	Tag        string // "latest" by default; empty where only a digest is given
	Digest     Digest // empty where none is given
}

// ParseImageRef reads "[HOST[:PORT]/]NAME[:TAG][@sha256:…]" as Docker does:
// the first part is a host when it has a dot or a colon or is "localhost".
func ParseImageRef(s string) (ImageRef, error) {
	if len(s) > maxImageRef {
		return ImageRef{}, fmt.Errorf("the reference has more than %d bytes", maxImageRef)
	}
	var r ImageRef
	rest, digest, pinned := strings.Cut(s, "@")
	if pinned {
		d, err := ParseDigest(digest)
		if err != nil {
			return ImageRef{}, err
		}
		r.Digest = d
	}
	if slash, colon := strings.LastIndexByte(rest, '/'), strings.LastIndexByte(rest, ':'); colon > slash {
		rest, r.Tag = rest[:colon], rest[colon+1:]
		if !imageTagPattern.MatchString(r.Tag) {
			return ImageRef{}, fmt.Errorf("tag %q does not match %s", clip(r.Tag), imageTagPattern)
		}
	}
	if r.Tag == "" && !pinned {
		r.Tag = "latest"
	}
	host, path, slashed := strings.Cut(rest, "/")
	if slashed && (strings.ContainsAny(host, ".:") || strings.EqualFold(host, "localhost")) {
		if err := checkRegistry(host); err != nil {
			return ImageRef{}, err
		}
		r.Registry, rest = strings.ToLower(host), path
	}
	switch r.Registry {
	case "", "index.docker.io", "registry-1.docker.io":
		r.Registry = DefaultRegistry
	}
	if r.Registry == DefaultRegistry && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	r.Repository = rest
	if !repositoryPattern.MatchString(rest) || len(r.Name()) > maxImageName {
		return ImageRef{}, fmt.Errorf("%q is not the name of an image: want small letters, digits and single . _ - or /", clip(s))
	}
	return r, nil
}

// ParseRegistry reads "HOST[:PORT]" as it stands in an ImageRef.
func ParseRegistry(s string) (string, error) {
	if err := checkRegistry(s); err != nil {
		return "", err
	}
	s = strings.ToLower(s)
	if s == "index.docker.io" || s == "registry-1.docker.io" {
		s = DefaultRegistry
	}
	return s, nil
}

func checkRegistry(s string) error {
	host, port, found := s, "", false
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port, found = s[:i], s[i+1:], true
	}
	if n, err := strconv.ParseUint(port, 10, 16); found && (err != nil || n == 0 || port[0] == '+') {
		return fmt.Errorf("%q is not a registry: %q is not a port", clip(s), clip(port))
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if addr, err := netip.ParseAddr(inner); !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
			return fmt.Errorf("%q is not a registry: want HOST[:PORT]", clip(s))
		}
		return nil
	}
	if len(host) > 253 || !registryPattern.MatchString(host) {
		return fmt.Errorf("%q is not a registry: want HOST[:PORT]", clip(s))
	}
	return nil
}

// Name returns "docker.io/library/python", without tag and digest.
func (r ImageRef) Name() string { return r.Registry + "/" + r.Repository }

// Tagged returns "docker.io/library/python:3.12", without digest.
func (r ImageRef) Tagged() string {
	if r.Tag == "" {
		return r.Name()
	}
	return r.Name() + ":" + r.Tag
}

// String returns "docker.io/library/python:3.12@sha256:…".
func (r ImageRef) String() string {
	if r.Digest == "" {
		return r.Tagged()
	}
	return r.Tagged() + "@" + string(r.Digest)
}

// Pinned returns the reference with the digest d.
func (r ImageRef) Pinned(d Digest) ImageRef {
	r.Digest = d
	return r
}
