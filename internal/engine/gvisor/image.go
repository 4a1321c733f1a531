package gvisor

import (
	"errors"
	"os"
	"path/filepath"

	erofs "github.com/erofs/go-erofs"

	"github.com/lehr-dev/lehr/internal/engine/pause"
	"github.com/lehr-dev/lehr/internal/errs"
)

// pauseImageName is the root image of every pause container.
const pauseImageName = "pause.erofs"

// writePauseImage writes the image with the pause program into dir and returns
// its path.
func writePauseImage(dir string) (string, error) {
	program, err := pause.Program()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, pauseImageName)
	next := path + ".next"
	if err := writeImage(next, program); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot write the image of the pause program")
	}
	if err := os.Rename(next, path); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot replace the image of the pause program")
	}
	return path, nil
}

// writeImage makes an image of the pause program and of the folders that the
// sentry mounts its own file systems on.
func writeImage(path string, program []byte) (err error) {
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := erofs.Create(out, erofs.WithBuildTime(0, 0)) // the same bytes everywhere
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp"} {
		if err := w.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	file, err := w.Create(pauseBinary)
	if err != nil {
		return err
	}
	if _, err := file.Write(program); err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(0o755), file.Close()); err != nil {
		return err
	}
	return w.Close()
}
