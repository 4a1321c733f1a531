package lehr

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Bounds of the metadata of a build or sandbox. Sizes are bytes.
const (
	MaxMetadata      = 64
	MaxMetadataName  = 128
	MaxMetadataValue = 1024
)

var metadataName = regexp.MustCompile(`^[A-Za-z0-9._/:@-]+$`)

// CheckMetadata refuses what metadata cannot hold: more than MaxMetadata
// entries, names that are not 1 to MaxMetadataName letters, digits and any of
// ._/:@-, values above MaxMetadataValue or that are not text.
func CheckMetadata(m map[string]string) error {
	if len(m) > MaxMetadata {
		return fmt.Errorf("has %d entries, want at most %d", len(m), MaxMetadata)
	}
	for name, value := range m {
		switch {
		case len(name) > MaxMetadataName || !metadataName.MatchString(name):
			return fmt.Errorf("name %q is not 1 to %d letters, digits and any of ._/:@-", clip(name), MaxMetadataName)
		case len(value) > MaxMetadataValue:
			return fmt.Errorf("the value of %s has %d bytes, want at most %d", name, len(value), MaxMetadataValue)
		case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			return fmt.Errorf("the value of %s is not UTF-8, or has a NUL", name)
		}
	}
	return nil
}

// MaxIdempotencyKey bounds an idempotency key, in bytes.
const MaxIdempotencyKey = 255

// CheckIdempotencyKey refuses what is no key: more than MaxIdempotencyKey bytes,
// or anything but printable ASCII. The empty key is none, and good.
func CheckIdempotencyKey(key string) error {
	if len(key) > MaxIdempotencyKey {
		return fmt.Errorf("has %d bytes, want at most %d", len(key), MaxIdempotencyKey)
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("has characters that are not printable ASCII")
	}
	return nil
}
