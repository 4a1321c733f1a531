package files

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Compose makes destination of the contents of sources, in order, and removes
// the sources. Until all of it is there, destination is what it was. A source
// that cannot be removed is an error though destination is complete. Errors: as
// Open and Write; Invalid when a source is the destination; the cause of ctx.
func Compose(ctx context.Context, u account.User, sources []string, destination string) error {
	for _, source := range sources {
		if source == destination {
			return errs.New(errs.Invalid, "source path '%s' is the destination", source).WithField("source_paths")
		}
	}
	temporary, err := concatenate(ctx, u, sources, destination)
	if err != nil {
		return err
	}
	return pathError(u.Do(func() error {
		if err := os.Rename(temporary, destination); err != nil {
			_ = os.Remove(temporary)
			return err
		}
		for _, source := range sources {
			// One that is named twice is gone the second time.
			if err := os.Remove(source); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	}), destination)
}

// concatenate writes the sources to a new file beside destination.
func concatenate(ctx context.Context, u account.User, sources []string, destination string) (temporary string, err error) {
	temporary = filepath.Join(filepath.Dir(destination), ".lehr-compose-"+rand.Text())
	var file *os.File
	err = u.Do(func() error {
		if info, err := os.Lstat(destination); err == nil && info.IsDir() {
			return syscall.EISDIR
		}
		if err := os.MkdirAll(filepath.Dir(destination), 0o755); err != nil {
			return err
		}
		file, err = os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		return err
	})
	if err != nil {
		return "", pathError(err, destination)
	}
	for _, source := range sources {
		if err = appendFile(ctx, u, source, file); err != nil {
			break
		}
	}
	if closing := file.Close(); err == nil {
		err = pathError(closing, destination)
	}
	if err != nil {
		_ = u.Do(func() error { return os.Remove(temporary) })
	}
	return temporary, err
}

func appendFile(ctx context.Context, u account.User, source string, to *os.File) error {
	from, _, err := Open(u, source)
	if err != nil {
		return err
	}
	defer from.Close()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, err := io.CopyN(to, from, composeStep)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return pathError(err, source)
		}
	}
}

// composeStep is how much is copied between looks at the context, in bytes.
const composeStep = 16 << 20
