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

	"golang.org/x/sync/errgroup"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

// download copies out of the sandbox. Everything that comes is hostile: this
// machine's names are made of the command line, and below it only through an
// os.Root, which follows no link out.
func (c *copying) download(ctx context.Context, src, dst string) error {
	e, err := c.guest.Files.Stat(ctx, src)
	if err != nil {
		return err
	}
	isDir := e.GetType() == filesystem.FileType_FILE_TYPE_DIRECTORY
	switch {
	case !isDir && e.GetType() != filesystem.FileType_FILE_TYPE_FILE:
		return errs.New(errs.Invalid, "%s is no file and no folder", src)
	case dst == standard && isDir:
		return usage("%s is a folder: standard output takes a file", src)
	case dst == standard:
		return c.fetch(ctx, src, c.app.env.Stdout)
	}
	parent, name, err := localTarget(dst, baseOf(src))
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return localError(err)
	}
	defer root.Close()
	if isDir {
		return c.downloadTree(ctx, src, root, name, fs.FileMode(e.GetMode()).Perm())
	}
	if there, err := root.Stat(name); err == nil && there.IsDir() {
		return errs.New(errs.Exists, "%s is there and is a folder", filepath.Join(parent, name))
	}
	return c.save(ctx, src, root, name, fs.FileMode(e.GetMode()).Perm())
}

// localTarget is the folder and the name in it that a copy goes to: inside dst
// where that is a folder, else dst itself. Without a name of the source its
// content goes into the folder.
func localTarget(dst, name string) (parent, base string, err error) {
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir() && name != "":
		return dst, name, nil
	case err == nil || !strings.HasSuffix(dst, "/"):
		whole, err := filepath.Abs(dst)
		return filepath.Dir(whole), filepath.Base(whole), err
	}
	return "", "", localError(err)
}

// fetch writes the content of a file of the sandbox to w.
func (c *copying) fetch(ctx context.Context, src string, w io.Writer) error {
	r, err := c.guest.Files.Read(ctx, src)
	if err != nil {
		return err
	}
	defer r.Close()
	// What has no size is made by the kernel, and small.
	limit := r.Size
	if limit < 0 {
		limit = 1 << 30
	}
	n, err := io.Copy(w, counted{io.LimitReader(r, limit+1), &c.bytes})
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case r.Size >= 0 && n < r.Size:
		return fmt.Errorf("%s: %w", src, io.ErrUnexpectedEOF)
	case n > limit:
		return errs.New(errs.Invalid, "%s has no size and no end", src)
	}
	c.files.Add(1)
	return nil
}

// save writes one file under another name and renames it.
func (c *copying) save(ctx context.Context, src string, root *os.Root, name string, mode fs.FileMode) (err error) {
	temp := path.Join(path.Dir(name), tempName())
	defer func() {
		if err != nil {
			_ = root.Remove(temp) // often it is not even there
		}
	}()
	if err := c.create(ctx, src, root, temp, mode); err != nil {
		return err
	}
	if err := root.Rename(temp, name); err != nil {
		return localError(err)
	}
	return nil
}

// create writes a file that must be new.
func (c *copying) create(ctx context.Context, src string, root *os.Root, name string, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return twice(name)
	}
	if err != nil {
		return localError(err)
	}
	err = c.fetch(ctx, src, f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	var here *fs.PathError
	if errors.As(err, &here) {
		return localError(err)
	}
	return err
}

func twice(name string) error {
	return errs.New(errs.Invalid, "the sandbox has %s twice, or names that differ only by case, which this file system takes for one", cell(name)).WithCode("name_twice")
}

// harvest is a folder on its way out of the sandbox.
type harvest struct {
	*copying
	from   string
	root   *os.Root
	staged bool // root is new: nobody sees it before it is whole
	modes  []dirMode
}

type dirMode struct {
	rel  string
	mode fs.FileMode
}

// folder is one to visit, by its path below the copied one.
type folder struct {
	rel   string
	depth int
}

// downloadTree copies a folder: into a new one that is renamed at the end, or
// into one that is there, file by file.
func (c *copying) downloadTree(ctx context.Context, src string, parent *os.Root, name string, mode fs.FileMode) (err error) {
	h := &harvest{copying: c, from: src, staged: true}
	at := name
	there, err := parent.Stat(name)
	switch {
	case err == nil && !there.IsDir():
		return errs.New(errs.Exists, "%s is there and is no folder", name)
	case err == nil:
		h.staged = false
	case !errors.Is(err, fs.ErrNotExist):
		return localError(err)
	default:
		at = tempName()
		if err := parent.Mkdir(at, 0o700); err != nil {
			return localError(err)
		}
		h.modes = append(h.modes, dirMode{".", mode})
		defer func() {
			if err != nil {
				_ = parent.RemoveAll(at) // the error is what counts
			}
		}()
	}
	if h.root, err = parent.OpenRoot(at); err != nil {
		return localError(err)
	}
	defer h.root.Close()
	if err := h.walk(ctx); err != nil {
		return err
	}
	for _, d := range slices.Backward(h.modes) { // the deepest first: one may forbid entering
		if err := h.root.Chmod(d.rel, d.mode); err != nil {
			return localError(err)
		}
	}
	if !h.staged {
		return nil
	}
	if err := parent.Rename(at, name); err != nil {
		return localError(err)
	}
	return nil
}

func (h *harvest) walk(ctx context.Context) error {
	jobs, ctx := errgroup.WithContext(ctx)
	jobs.SetLimit(copyJobs)
	err := h.folders(ctx, jobs)
	if fetching := jobs.Wait(); fetching != nil {
		return fetching
	}
	return err
}

func (h *harvest) folders(ctx context.Context, jobs *errgroup.Group) error {
	for todo := []folder{{}}; len(todo) > 0; {
		f := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		list, err := h.guest.Files.List(ctx, path.Join(h.from, f.rel), 1)
		if err != nil {
			return err
		}
		more, err := h.visit(ctx, jobs, f, list)
		if err != nil {
			return err
		}
		todo = append(todo, more...)
	}
	return nil
}

// visit takes the entries of one folder and returns the folders among them.
func (h *harvest) visit(ctx context.Context, jobs *errgroup.Group, f folder, list []*filesystem.EntryInfo) (more []folder, err error) {
	var links []*filesystem.EntryInfo
	names := map[string]string{}
	for _, e := range list {
		if err := h.admit(f, names, e.GetName()); err != nil {
			return nil, err
		}
		rel := path.Join(f.rel, e.GetName())
		mode := fs.FileMode(e.GetMode()).Perm()
		switch {
		case e.SymlinkTarget != nil:
			links = append(links, e)
		case e.GetType() == filesystem.FileType_FILE_TYPE_DIRECTORY:
			if err := h.makeDir(rel, mode); err != nil {
				return nil, err
			}
			more = append(more, folder{rel, f.depth + 1})
		case e.GetType() == filesystem.FileType_FILE_TYPE_FILE:
			jobs.Go(func() error {
				if h.staged {
					return h.create(ctx, path.Join(h.from, rel), h.root, rel, mode)
				}
				return h.save(ctx, path.Join(h.from, rel), h.root, rel, mode)
			})
		default:
			h.leave(rel, "it is no file, folder or link")
		}
	}
	for some := range slices.Chunk(links, batch) {
		if err := h.makeLinks(ctx, f, some); err != nil {
			return nil, err
		}
	}
	return more, nil
}

// admit checks a name of a folder. Two that differ by case are refused where
// this file system takes them for one.
func (h *harvest) admit(f folder, names map[string]string, name string) error {
	if why := badName(name); why != "" {
		return errs.New(errs.Invalid, "the sandbox names an entry of %s %.300q: %s", h.from, name, why).WithCode("name_invalid")
	}
	folded := strings.ToLower(name)
	if other, ok := names[folded]; ok {
		if other == name || h.one(path.Join(f.rel, other), path.Join(f.rel, name)) {
			return twice(path.Join(f.rel, name))
		}
	}
	names[folded] = name
	return h.count(f.depth)
}

// one reports whether two names are the same file of this machine.
func (h *harvest) one(a, b string) bool {
	x, err := h.root.Lstat(a)
	if err != nil {
		return false
	}
	y, err := h.root.Lstat(b)
	return err == nil && os.SameFile(x, y)
}

// makeDir makes a folder, open for writing until the end.
func (h *harvest) makeDir(rel string, mode fs.FileMode) error {
	err := h.root.Mkdir(rel, 0o700)
	if errors.Is(err, fs.ErrExist) && !h.staged {
		there, err := h.root.Lstat(rel)
		if err != nil || !there.IsDir() {
			return errs.New(errs.Exists, "%s is there and is no folder", rel)
		}
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return twice(rel)
	}
	if err != nil {
		return localError(err)
	}
	h.modes = append(h.modes, dirMode{rel, mode})
	return nil
}

// makeLinks makes the symbolic links of one folder.
func (h *harvest) makeLinks(ctx context.Context, f folder, list []*filesystem.EntryInfo) error {
	targets, err := h.targets(ctx, f, list)
	if err != nil {
		return err
	}
	for i, e := range list {
		rel := path.Join(f.rel, e.GetName())
		switch {
		case targets == nil:
			h.leave(rel, "the sandbox has no readlink to say where it leads")
			continue
		case leadsOut(rel, targets[i]) && !h.allLinks:
			h.leave(rel, fmt.Sprintf("it leads out, to %s (--all-links keeps it)", cell(targets[i])))
			continue
		}
		temp := path.Join(f.rel, tempName())
		err := h.root.Symlink(targets[i], temp)
		if err == nil {
			err = h.root.Rename(temp, rel)
		}
		if err != nil {
			_ = h.root.Remove(temp) // often it is not even there
			return localError(err)
		}
	}
	return nil
}

// targets asks where links lead: the listing says only where they end. nil where
// the sandbox cannot tell.
func (h *harvest) targets(ctx context.Context, f folder, list []*filesystem.EntryInfo) ([]string, error) {
	const script = `for p; do printf '%s\0' "$(readlink "$p")" || exit; done`
	const longest = 4096
	dir, err := h.guest.Files.Stat(ctx, path.Join(h.from, f.rel))
	if err != nil {
		return nil, err
	}
	args := []string{"sh", "-c", script, "sh"}
	for _, e := range list {
		args = append(args, path.Join("/", dir.GetPath(), e.GetName()))
	}
	out, _, exit, err := h.guest.Processes.Output(ctx, sdk.Command{Args: args, Cwd: "/"}, len(list)*longest)
	if sdk.ErrorDetail(err).GetCode() == "command_not_found" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	targets := strings.Split(string(out), "\x00")
	if exit.Code != 0 || len(targets) != len(list)+1 {
		return nil, nil
	}
	return targets[:len(list)], nil
}
