// Package assets carries the two programs that run beside and inside sandboxes,
// embedded into lehr by `make build`: the sentry and the guest daemon. A plain
// `go build` embeds only the committed placeholder, and Open says so.
package assets

import (
	"crypto/sha256"
	"embed"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// The embedded programs.
const (
	Sentry = "lehr-sentry" // gVisor's sentry; started by the engine
	Guest  = "lehr-init"   // the guest daemon; packed into an image
)

//go:embed all:bin
var files embed.FS

// Open returns an embedded program. Unavailable: this lehr was built without it.
func Open(name string) (fs.File, error) {
	f, err := files.Open("bin/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Unavailable, "this lehr was built without %s", name).
			WithCode("asset_missing").WithRemedy("build it with `make build`")
	}
	return f, err
}

// Extract writes an embedded program to dir/<sha256>/<name>, executable, and
// returns its path and digest. A file that is there already is verified and, if
// it differs, replaced; it appears whole or not at all.
func Extract(dir, name string) (string, lehr.Digest, error) {
	want, err := digest(func() (io.ReadCloser, error) { return Open(name) })
	if err != nil {
		return "", "", err
	}
	folder := filepath.Join(dir, want.Hex())
	path := filepath.Join(folder, name)
	have, err := digest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err == nil && have == want {
		return path, want, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", "", failed(err)
	}
	if err := write(name, path); err != nil {
		return "", "", failed(err)
	}
	return path, want, nil
}

func failed(err error) error {
	return errs.Wrap(err, errs.Unavailable, "assets.Extract", "an embedded program cannot be written")
}

func digest(open func() (io.ReadCloser, error)) (lehr.Digest, error) {
	f, err := open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return lehr.DigestFrom(h), nil
}

func write(name, path string) error {
	src, err := Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(dst.Name()) }() // gone already after the rename
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		return err
	}
	err = errors.Join(dst.Chmod(0o755), dst.Sync(), dst.Close())
	if err != nil {
		return err
	}
	return os.Rename(dst.Name(), path)
}
