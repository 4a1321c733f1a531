package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

// remoteTarget is where a copy goes in the sandbox.
type remoteTarget struct {
	path   string // absolute
	isDir  bool   // a folder is there already
	isFile bool   // something else is
}

// remoteTarget finds out where dst is: inside of a folder that is there, or
// dst itself. name is the source's, "" where it has none.
func (c *copying) remoteTarget(ctx context.Context, dst, name string) (remoteTarget, error) {
	e, err := c.guest.Files.Stat(ctx, dst)
	if err != nil && !nothing(err) {
		return remoteTarget{}, err
	}
	isFolder := err == nil && e.GetType() == filesystem.FileType_FILE_TYPE_DIRECTORY
	switch {
	case isFolder && name != "":
		inside := path.Join(e.GetPath(), name)
		in, err := c.guest.Files.Stat(ctx, inside)
		if nothing(err) {
			return remoteTarget{path: inside}, nil
		}
		folder := in.GetType() == filesystem.FileType_FILE_TYPE_DIRECTORY
		return remoteTarget{path: inside, isDir: folder, isFile: !folder}, err
	case isFolder:
		return remoteTarget{path: e.GetPath(), isDir: true}, nil
	case err == nil:
		at := e.GetPath()
		if e.SymlinkTarget != nil {
			at = e.GetSymlinkTarget() // written through, as a shell does
		}
		return remoteTarget{path: at, isFile: true}, nil
	case strings.HasSuffix(dst, "/") && name == "":
		return remoteTarget{}, usage("%s is a folder: name the file in it", dst)
	case strings.HasSuffix(dst, "/"):
		dst = path.Join(dst, name)
	}
	// Only an absolute path means the same to files and commands.
	parent := path.Dir(dst)
	if err := c.guest.Files.MakeDir(ctx, parent); err != nil {
		return remoteTarget{}, err
	}
	e, err = c.guest.Files.Stat(ctx, parent)
	return remoteTarget{path: path.Join(e.GetPath(), path.Base(dst))}, err
}

// uploadLocal copies a file or folder of this machine.
func (c *copying) uploadLocal(ctx context.Context, src, dst string) error {
	whole, err := filepath.Abs(src)
	if err != nil {
		return err
	}
	info, err := os.Stat(whole)
	if err != nil {
		return localError(err)
	}
	name := filepath.Base(whole)
	if baseOf(filepath.ToSlash(src)) == "" || name == "/" {
		name = "" // "." and ".." mean what is in them
	}
	at, err := c.remoteTarget(ctx, dst, name)
	switch {
	case err != nil:
		return err
	case info.IsDir() && at.isFile:
		return errs.New(errs.Exists, "%s is there and is no folder", at.path)
	case !info.IsDir() && at.isDir:
		return errs.New(errs.Exists, "%s is there and is a folder", at.path)
	case info.IsDir():
		return c.uploadTree(ctx, whole, at)
	case !info.Mode().IsRegular():
		return errs.New(errs.Invalid, "%s is no file and no folder", src)
	}
	f, err := os.Open(whole)
	if err != nil {
		return localError(err)
	}
	defer f.Close()
	return c.uploadFile(ctx, f, at.path, info.Mode().Perm())
}

// localError is a failure of this machine's file system: the user's to mend.
func localError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.NotFound, "%w", err)
	}
	return errs.New(errs.Invalid, "%w", err)
}

// The modes that the guest daemon gives.
const (
	defaultFile = 0o644
	defaultDir  = 0o755
)

// uploadFile writes one file under another name and renames it. mode 0 leaves
// the default.
func (c *copying) uploadFile(ctx context.Context, r io.Reader, at string, mode fs.FileMode) (err error) {
	temp := path.Join(path.Dir(at), tempName())
	defer func() {
		if err != nil {
			c.away(ctx, temp)
		}
	}()
	if err := c.send(ctx, temp, r); err != nil {
		return err
	}
	if mode != 0 && mode != defaultFile {
		modes := modeList{mode: {temp}}
		if err := c.setModes(ctx, modes); err != nil {
			return err
		}
	}
	if err := c.guest.Files.Move(ctx, temp, at); err != nil {
		return err
	}
	c.files.Add(1)
	return nil
}

// send writes a file in the sandbox. A source that fails, or an interrupt, ends
// the call in order: were it cut, the guest daemon could make the file after it
// was removed.
func (c *copying) send(ctx context.Context, at string, r io.Reader) error {
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(shortly, cancel) })
	defer stop()
	in, out := io.Pipe()
	hurry := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer hurry()
	failed := make(chan error, 1)
	go func() { // a read of standard input may end with the process only
		_, err := io.Copy(out, counted{r, &c.bytes})
		failed <- err
		_ = out.Close()
	}()
	err := c.guest.Files.Write(call, at, in)
	_ = in.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return <-failed
}

// modeList is paths by the mode they get.
type modeList map[fs.FileMode][]string

// tree is a folder on its way into the sandbox.
type tree struct {
	*copying
	from, to string
	staged   bool // to is new: nobody sees it before it is whole
	modes    modeList
	dirModes modeList
	links    [][2]string // target, path
}

// uploadTree copies a folder: into a new one that is renamed at the end, or
// into one that is there, file by file.
func (c *copying) uploadTree(ctx context.Context, src string, at remoteTarget) (err error) {
	t := &tree{copying: c, from: src, to: at.path, staged: !at.isDir, modes: modeList{}, dirModes: modeList{}}
	if t.staged {
		t.to = path.Join(path.Dir(at.path), tempName())
		defer func() {
			if err != nil {
				c.away(ctx, t.to)
			}
		}()
		if err := c.guest.Files.MakeDir(ctx, t.to); err != nil {
			return err
		}
	}
	if err := t.walk(ctx); err != nil {
		return err
	}
	if err := c.setModes(ctx, t.modes); err != nil {
		return err
	}
	if err := c.setLinks(ctx, t.links); err != nil {
		return err
	}
	if err := c.setModes(ctx, t.dirModes); err != nil { // last: one may forbid writing
		return err
	}
	if !t.staged {
		return nil
	}
	return c.guest.Files.Move(ctx, t.to, at.path)
}

// walk makes folders in order and sends files next to each other.
func (t *tree) walk(ctx context.Context) error {
	jobs, ctx := errgroup.WithContext(ctx)
	jobs.SetLimit(copyJobs)
	err := filepath.WalkDir(t.from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return localError(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(t.from, name)
		if err != nil {
			return err
		}
		at := path.Join(t.to, filepath.ToSlash(rel))
		if err := t.count(strings.Count(rel, "/")); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return localError(err)
		}
		return t.entry(ctx, jobs, name, at, info)
	})
	if sending := jobs.Wait(); sending != nil {
		return sending
	}
	return err
}

func (t *tree) entry(ctx context.Context, jobs *errgroup.Group, name, at string, info fs.FileInfo) error {
	mode := info.Mode()
	switch {
	case mode.IsDir():
		if at == t.to && !t.staged {
			return nil // theirs
		}
		if mode.Perm() != defaultDir {
			t.dirModes[mode.Perm()] = append(t.dirModes[mode.Perm()], at)
		}
		if at == t.to {
			return nil
		}
		return t.guest.Files.MakeDir(ctx, at)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return localError(err)
		}
		t.links = append(t.links, [2]string{target, at})
		return nil
	case !mode.IsRegular():
		t.leave(name, "it is no file, folder or link")
		return nil
	}
	if t.staged && mode.Perm() != defaultFile {
		t.modes[mode.Perm()] = append(t.modes[mode.Perm()], at)
	}
	jobs.Go(func() error { return t.file(ctx, name, at, mode.Perm()) })
	return nil
}

func (t *tree) file(ctx context.Context, name, at string, mode fs.FileMode) error {
	f, err := os.Open(name)
	if err != nil {
		return localError(err)
	}
	defer f.Close()
	if !t.staged {
		return t.uploadFile(ctx, f, at, mode)
	}
	if err := t.send(ctx, at, f); err != nil {
		return err
	}
	t.files.Add(1)
	return nil
}

// batch bounds the arguments of one command.
const batch = 200

// setModes runs chmod in the sandbox, which the guest daemon's protocol has no
// call for.
func (c *copying) setModes(ctx context.Context, modes modeList) error {
	for mode, paths := range modes {
		for some := range slices.Chunk(paths, batch) {
			args := append([]string{"chmod", fmt.Sprintf("%04o", mode)}, some...)
			if err := c.inside(ctx, args, some, "the sandbox has no chmod, so it has the default mode"); err != nil {
				return err
			}
		}
	}
	return nil
}

// setLinks makes symbolic links with the sandbox's ln.
func (c *copying) setLinks(ctx context.Context, links [][2]string) error {
	const script = `while [ $# -gt 0 ]; do ln -sfn -- "$1" "$2" || exit; shift 2; done`
	for some := range slices.Chunk(links, batch) {
		args := []string{"sh", "-c", script, "sh"}
		paths := make([]string, 0, len(some))
		for _, l := range some {
			args, paths = append(args, l[0], l[1]), append(paths, l[1])
		}
		if err := c.inside(ctx, args, paths, "the sandbox has no sh to make links with"); err != nil {
			return err
		}
	}
	return nil
}

// inside runs a command in the sandbox for some paths; without such a command
// they are left out, and why is said.
func (c *copying) inside(ctx context.Context, args, paths []string, why string) error {
	_, stderr, exit, err := c.guest.Processes.Output(ctx, sdk.Command{Args: args, Cwd: "/"}, 0)
	if sdk.ErrorDetail(err).GetCode() == "command_not_found" {
		for _, p := range paths {
			c.leave(p, why)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return errs.New(errs.Invalid, "%s in the sandbox failed with exit code %d: %s", args[0], exit.Code, strings.Join(cleanLines(string(stderr)), "; "))
	}
	return nil
}
