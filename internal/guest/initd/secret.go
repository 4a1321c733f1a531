package initd

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"os"
)

// specEnviron shows, under gVisor, the environment given to the sandbox when it
// was last started or restored; the daemon's own environment is that of the
// first start.
const specEnviron = "/proc/gvisor/spec_environ"

// Digest is the SHA-256 of an operator's secret.
type Digest [sha256.Size]byte

// Secret knows the digest of the operator's secret of this sandbox. The secret
// itself never enters the sandbox except in the operator's calls. It is safe
// for concurrent use.
type Secret struct {
	name string   // of the environment variable
	own  string   // its value in the daemon's own environment
	spec *os.File // nil where the kernel shows no other environment
}

// OpenSecret returns the secret whose digest is in the environment variable
// name. value is that of the daemon's own environment, which counts only where
// the file spec ("": gVisor's /proc/gvisor/spec_environ) does not exist. The
// file is kept open: it is read at every check.
func OpenSecret(name, value, spec string) *Secret {
	if spec == "" {
		spec = specEnviron
	}
	s := &Secret{name: name, own: value}
	if file, err := os.Open(spec); err == nil {
		s.spec = file
	}
	return s
}

// Close releases the kept file.
func (s *Secret) Close() error {
	if s.spec == nil {
		return nil
	}
	return s.spec.Close()
}

// maxEnviron bounds what is read of the environment, in bytes.
const maxEnviron = 1 << 20

// Current returns the digest in force. It is asked for at every check, because
// a restored sandbox has another operator than the one its memory remembers.
// There is none when the variable is missing or no digest, or the file cannot
// be read any more: nobody is operator then.
func (s *Secret) Current() (Digest, bool) {
	value := s.own
	if s.spec != nil {
		env, err := io.ReadAll(io.NewSectionReader(s.spec, 0, maxEnviron))
		if err != nil {
			return Digest{}, false
		}
		value = lookup(env, s.name)
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
func (s *Secret) Matches(secret string) bool {
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
