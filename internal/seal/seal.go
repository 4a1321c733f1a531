// Package seal keeps an installation's secret key and what is made from it:
// the access tokens of sandboxes, and sealed texts, which can be stored where
// others read.
//
// Every use has a key of its own, derived with HKDF-SHA256 (RFC 5869), so that
// what one use shows says nothing about another.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// keyBytes is the length of the secret and of every key derived from it.
const keyBytes = 32

// The uses of the secret. A name is part of what it makes: changing it changes
// every token, or makes what was sealed unreadable.
const (
	useTokens  = "lehr access tokens v1"
	useSeal    = "lehr seal v1"
	useDigests = "lehr digests v1"
)

// sealVersion is the first byte of a sealed text: AES-256-GCM with a random
// nonce of 96 bits in front.
const sealVersion = 1

// Key is the secret key of an installation. It is safe for concurrent use, and
// never shows itself in texts.
type Key struct {
	tokens  []byte
	digests []byte
	seal    cipher.AEAD
}

// newKey derives what is used from the secret.
func newKey(secret []byte) (*Key, error) {
	const op = "seal.newKey"
	tokens, err := hkdf.Key(sha256.New, secret, nil, useTokens, keyBytes)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, op, "the secret key cannot be used")
	}
	digests, err := hkdf.Key(sha256.New, secret, nil, useDigests, keyBytes)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, op, "the secret key cannot be used")
	}
	sealing, err := hkdf.Key(sha256.New, secret, nil, useSeal, keyBytes)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, op, "the secret key cannot be used")
	}
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, op, "the secret key cannot be used")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, op, "the secret key cannot be used")
	}
	return &Key{tokens: tokens, digests: digests, seal: aead}, nil
}

// AccessToken returns the token that admits users to the guest daemon of a
// sandbox: always the same for the same sandbox, 64 hex digits.
func (k *Key) AccessToken(id lehr.SandboxID) string {
	mac := hmac.New(sha256.New, k.tokens)
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

// Digest tells texts apart without telling anything about them: the digest of a
// text that may hold secrets can be stored, because without the key nobody can
// try guesses against it.
func (k *Key) Digest(text []byte) lehr.Digest {
	mac := hmac.New(sha256.New, k.digests)
	mac.Write(text)
	return lehr.DigestFrom(mac)
}

// Seal encrypts plaintext. Only Open with the same context, by the holder of
// the same key, returns it: name in context what the text is and whose, so that
// one cannot be put in the place of another. Sealing the same twice gives two
// different texts.
func (k *Key) Seal(context string, plaintext []byte) []byte {
	return k.seal.Seal([]byte{sealVersion}, nil, plaintext, []byte(context))
}

// Open returns what Seal was given. A text that was changed, cut, sealed by
// another key or for another context is Corrupt with code "seal_broken".
func (k *Key) Open(context string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return nil, broken()
	}
	plaintext, err := k.seal.Open(nil, nil, sealed[1:], []byte(context))
	if err != nil {
		return nil, broken()
	}
	return plaintext, nil
}

func broken() error {
	return errs.New(errs.Corrupt, "a sealed text cannot be opened").WithCode("seal_broken").
		WithRemedy("it was changed, or the secret key of the data folder is not the one it was sealed with")
}

// String hides the key from texts.
func (k *Key) String() string { return "seal.Key" }

// GoString hides the key from %#v.
func (k *Key) GoString() string { return "seal.Key" }

// LogValue hides the key from logs.
func (k *Key) LogValue() slog.Value { return slog.StringValue("seal.Key") }
