package initd

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"os"
)

// specEnviron shows, under gVisor, the environment given to the sandbox when it
// was last started or restored; the daemon's own environment is that of the
// first start.
const specEnviron = "/proc/gvisor/spec_environ"

// Digest is the SHA-256 of an operator's secret.
type Digest [sha256.Size]byte

// Secret knows the digest of the operator's secret of this sandbox, under the
// name of its environment variable. The secret itself never enters the sandbox
// except in the operator's calls.
type Secret struct {
	Name     string // of the environment variable
	Value    string // the variable in the daemon's own environment
	SpecFile string // "" is gVisor's /proc/gvisor/spec_environ
}

// Current returns the digest in force. It is asked for at every check, because
// a restored sandbox has another operator than the one its memory remembers.
// There is none when the variable is missing or no digest: nobody is operator
// then.
func (s Secret) Current() (Digest, bool) {
	path := s.SpecFile
	if path == "" {
		path = specEnviron
	}
	value := s.Value
	if env, err := os.ReadFile(path); err == nil {
		value = lookup(env, s.Name)
	}
	var d Digest
	raw, err := hex.DecodeString(value)
	if err != nil || len(raw) != len(d) {
		return Digest{}, false
	}
	copy(d[:], raw)
	return d, true
}

// Matches reports whether secret is the operator's, in constant time.
func (s Secret) Matches(secret string) bool {
	want, ok := s.Current()
	got := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok && secret != ""
}

// lookup finds a variable in NUL-separated K=V pairs.
func lookup(env []byte, name string) string {
	for pair := range bytes.SplitSeq(env, []byte{0}) {
		if v, ok := bytes.CutPrefix(pair, []byte(name+"=")); ok {
			return string(v)
		}
	}
	return ""
}
