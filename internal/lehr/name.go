package lehr

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultTag is the tag of a reference that names none.
const DefaultTag = "default"

// MinimalTemplate is the reserved name of the platform's Debian base.
const MinimalTemplate = "minimal"

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	tagPattern  = regexp.MustCompile(`^[a-z0-9_][a-z0-9._-]{0,127}$`)
)

// Ref is a template reference "[team/]name[:tag]". Team is empty when the
// caller's own team, then the platform's, is meant; Tag is never empty.
type Ref struct {
	Team, Name, Tag string
}

// ParseRef reads "[team/]name[:tag]", lower-casing it; the tag defaults to
// DefaultTag. The error names the offending part and its pattern.
func ParseRef(s string) (Ref, error) {
	var r Ref
	rest := strings.ToLower(s)
	if team, after, ok := strings.Cut(rest, "/"); ok {
		r.Team, rest = team, after
		if !namePattern.MatchString(r.Team) {
			return Ref{}, fmt.Errorf("team %q does not match %s", clip(r.Team), namePattern)
		}
	}
	name, tag, tagged := strings.Cut(rest, ":")
	if !namePattern.MatchString(name) {
		return Ref{}, fmt.Errorf("name %q does not match %s", clip(name), namePattern)
	}
	if !tagged {
		tag = DefaultTag
	}
	if !tagPattern.MatchString(tag) {
		return Ref{}, fmt.Errorf("tag %q does not match %s", clip(tag), tagPattern)
	}
	r.Name, r.Tag = name, tag
	return r, nil
}

// String returns "[team/]name:tag".
func (r Ref) String() string {
	s := r.Name + ":" + r.Tag
	if r.Team != "" {
		s = r.Team + "/" + s
	}
	return s
}
