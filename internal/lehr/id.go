package lehr

import (
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// Ids are a prefix and the 26 lower-case Crockford base32 characters of a
// UUIDv7 (RFC 9562), so they sort by creation time. Each noun has its own type.
type (
	// BuildID names a build: "bld-" + 26 characters.
	BuildID string
	// TemplateID names a template: "tpl-" + 26 characters.
	TemplateID string
	// VersionID names one immutable version of a template: "ver-" + 26 characters.
	VersionID string
	// HostID names a host: "host-" + 26 characters.
	HostID string
	// TeamID names a team: "team-" + 26 characters.
	TeamID string
	// KeyID names an API key (not its secret): "key-" + 26 characters.
	KeyID string
	// SandboxID names a sandbox: "sb" + 26 characters, without a hyphen so that
	// it can be part of a host name.
	SandboxID string
)

// Prefixes of the ids.
const (
	buildPrefix    = "bld-"
	templatePrefix = "tpl-"
	versionPrefix  = "ver-"
	hostPrefix     = "host-"
	teamPrefix     = "team-"
	keyPrefix      = "key-"
	sandboxPrefix  = "sb"
)

// PlatformTeam owns the templates that every team may use. It exists from the
// first migration.
const PlatformTeam = TeamID(teamPrefix + "00000000000000000000000000")

const idChars = 26

var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns 26 characters of a fresh UUIDv7. The 128 bits are left-padded
// to 130 as in ULID, which keeps them sortable.
func newID(prefix string) string {
	u, err := uuid.NewV7()
	if err != nil {
		panic("lehr: no randomness: " + err.Error()) // crypto/rand never fails on Linux
	}
	return prefix + encodeID(u)
}

func encodeID(u [16]byte) string {
	var padded [17]byte // 136 bits; the leading 6 zero bits are cut off below
	copy(padded[1:], u[:])
	shifted := shiftLeft6(padded)
	return crockford.EncodeToString(shifted[:])[:idChars]
}

// shiftLeft6 moves the 130 significant bits of b to its front.
func shiftLeft6(b [17]byte) [17]byte {
	var out [17]byte
	for i := range b {
		out[i] = b[i] << 6
		if i+1 < len(b) {
			out[i] |= b[i+1] >> 2
		}
	}
	return out
}

// NewBuildID returns a fresh build id.
func NewBuildID() BuildID { return BuildID(newID(buildPrefix)) }

// NewTemplateID returns a fresh template id.
func NewTemplateID() TemplateID { return TemplateID(newID(templatePrefix)) }

// NewVersionID returns a fresh version id.
func NewVersionID() VersionID { return VersionID(newID(versionPrefix)) }

// NewHostID returns a fresh host id.
func NewHostID() HostID { return HostID(newID(hostPrefix)) }

// NewTeamID returns a fresh team id.
func NewTeamID() TeamID { return TeamID(newID(teamPrefix)) }

// NewKeyID returns a fresh key id.
func NewKeyID() KeyID { return KeyID(newID(keyPrefix)) }

// NewSandboxID returns a fresh sandbox id.
func NewSandboxID() SandboxID { return SandboxID(newID(sandboxPrefix)) }

// ParseBuildID checks the form of s.
func ParseBuildID(s string) (BuildID, error) { return parseID[BuildID](s, buildPrefix) }

// ParseTemplateID checks the form of s.
func ParseTemplateID(s string) (TemplateID, error) { return parseID[TemplateID](s, templatePrefix) }

// ParseVersionID checks the form of s.
func ParseVersionID(s string) (VersionID, error) { return parseID[VersionID](s, versionPrefix) }

// ParseHostID checks the form of s.
func ParseHostID(s string) (HostID, error) { return parseID[HostID](s, hostPrefix) }

// ParseTeamID checks the form of s.
func ParseTeamID(s string) (TeamID, error) { return parseID[TeamID](s, teamPrefix) }

// ParseKeyID checks the form of s.
func ParseKeyID(s string) (KeyID, error) { return parseID[KeyID](s, keyPrefix) }

// ParseSandboxID checks the form of s.
func ParseSandboxID(s string) (SandboxID, error) { return parseID[SandboxID](s, sandboxPrefix) }

func parseID[T ~string](s, prefix string) (T, error) {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok || len(rest) != idChars || strings.Trim(rest, "0123456789abcdefghjkmnpqrstvwxyz") != "" {
		return "", fmt.Errorf("malformed id %q: want %q and %d characters of lower-case Crockford base32", clip(s), prefix, idChars)
	}
	return T(s), nil
}

// clip bounds hostile input that is quoted in an error.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
