package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/errs"
)

// The file is one line: this word, the secret in hex, and the first bytes of
// its SHA-256 in hex, by which a damaged line is told from a good one.
const (
	fileWord = "lehr-secret-1"
	sumBytes = 8
	maxFile  = 4 << 10 // more is no key
)

// Load returns the key in the file, which it makes where it is missing; made
// says so. A new key is on the disk before it is returned. A file that holds no
// key, or a damaged one, is Corrupt with code "secret_key_damaged" and stays as
// it is. One process at a time may make a key.
func Load(path string) (key *Key, made bool, err error) {
	const op = "seal.Load"
	secret, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		made = true
		secret, err = create(path)
	}
	var own *errs.Error
	if errors.As(err, &own) {
		return nil, false, err
	}
	if err != nil {
		return nil, false, errs.Wrap(err, errs.Unavailable, op, "the secret key cannot be read or written").
			WithRemedy("look at %s", path)
	}
	key, err = newKey(secret)
	return key, made, err
}

// read returns the secret of a file, and makes the file private again where it
// is not.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, damaged(path)
	}
	if info.Mode().Perm() != 0o600 {
		if err := f.Chmod(0o600); err != nil {
			return nil, err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	return parse(path, b)
}

func parse(path string, b []byte) ([]byte, error) {
	parts := bytes.Fields(b)
	if len(parts) != 3 || string(parts[0]) != fileWord {
		return nil, damaged(path)
	}
	secret, err := hex.DecodeString(string(parts[1]))
	if err != nil || len(secret) != keyBytes || string(parts[2]) != sum(secret) {
		return nil, damaged(path)
	}
	return secret, nil
}

func create(path string) ([]byte, error) {
	secret := make([]byte, keyBytes)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	line := fileWord + " " + hex.EncodeToString(secret) + " " + sum(secret) + "\n"
	if err := config.WritePrivate(path, []byte(line)); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return secret, errors.Join(dir.Sync(), dir.Close())
}

func sum(secret []byte) string {
	s := sha256.Sum256(secret)
	return hex.EncodeToString(s[:sumBytes])
}

func damaged(path string) error {
	return errs.New(errs.Corrupt, "%s holds no secret key, or a damaged one", path).WithCode("secret_key_damaged").
		WithRemedy("put the file back from a backup; or remove it: then running sandboxes must be created anew, and stored logins given again")
}
