package lehr

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest is the content address "sha256:" + 64 lower-case hex digits. The
// empty digest means none.
type Digest string

const digestPrefix = "sha256:"

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(digestPrefix + hex.EncodeToString(sum[:]))
}

// DigestFrom returns the digest that h, a SHA-256, has summed so far.
func DigestFrom(h hash.Hash) Digest {
	return Digest(digestPrefix + hex.EncodeToString(h.Sum(nil)))
}

// ParseDigest checks the form of s.
func ParseDigest(s string) (Digest, error) {
	rest, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(rest) != sha256.Size*2 || strings.Trim(rest, "0123456789abcdef") != "" {
		return "", fmt.Errorf("malformed digest %q: want sha256: and 64 lower-case hex digits", clip(s))
	}
	return Digest(s), nil
}

// Hex returns the 64 hex digits, which are safe as a file name once the digest
// came from this package or ParseDigest.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), digestPrefix) }
