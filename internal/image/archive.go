package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
)

// endOfArchive is how many zero bytes end a tar; without them it was cut off
// between two entries, which the tar reader alone does not notice.
const endOfArchive = 1024

// rules say how the entries of one archive are understood.
type rules struct {
	absolute bool      // names that begin with a slash count from the root
	follow   bool      // names may lead through symbolic links
	replace  bool      // an entry may come twice; the last one counts
	endless  bool      // the zero bytes at the end may be missing
	deletion deletions // how the archive removes entries of lower layers
	foreign  errs.Kind // of an error that the archive is to blame for
}

// deletions are the ways in which a layer removes what is below it.
type deletions uint8

const (
	deleteNothing  deletions = iota
	deleteByName             // OCI: files named ".wh.NAME" and ".wh..wh..opq"
	deleteByDevice           // overlayfs: character devices 0:0, opaque directories
)

// The rules of each kind of archive. An archive from a caller is read strictly:
// what is ambiguous there is a mistake or an attack. OCI layers are read as
// container runtimes read them; their digest says that they are whole. Writable
// layers come from our own engine.
var (
	archiveRules  = rules{foreign: errs.Invalid}
	ociRules      = rules{absolute: true, follow: true, replace: true, endless: true, deletion: deleteByName, foreign: errs.Invalid}
	overlayRules  = rules{follow: true, replace: true, foreign: errs.Invalid}
	writableRules = rules{deletion: deleteByDevice, foreign: errs.Corrupt}
)

// ReadArchive reads a whole file system from a tar archive, plain or compressed
// with gzip or zstd. Errors: Invalid, naming the entry, for names that are
// absolute, contain "..", a zero byte or more than 255 bytes in a part, lead
// through a symbolic link, or come twice, for hard links to nothing or to
// directories, for unknown types, for an archive that is empty, damaged or cut
// off, and with CodeTooLarge for more than the limits; Unsupported for other
// compressions; Unavailable when r fails.
func (t *Tree) ReadArchive(ctx context.Context, r io.Reader) error {
	n, err := t.read(ctx, r, archiveRules)
	if err == nil && n == 0 {
		return errs.New(errs.Invalid, "the archive is empty").WithRemedy("Send a tar archive of a root file system")
	}
	return err
}

// ReadOCILayer reads one layer of an OCI image over what the tree holds, with
// the whiteouts of the OCI image specification. Names may be absolute, may lead
// through symbolic links inside the image, and may come twice. Errors as for
// ReadArchive.
func (t *Tree) ReadOCILayer(ctx context.Context, r io.Reader) error {
	_, err := t.read(ctx, r, ociRules)
	return err
}

// ReadWritableLayer reads what a sandbox wrote over what the tree holds: an
// overlayfs-style tar in which character devices 0:0, and hard links to them,
// are whiteouts. Errors as for ReadArchive, but with kind Corrupt for an entry
// that no engine writes.
func (t *Tree) ReadWritableLayer(ctx context.Context, r io.Reader) error {
	_, err := t.read(ctx, r, writableRules)
	return err
}

// read reads one archive and returns how many entries it had.
func (t *Tree) read(ctx context.Context, r io.Reader, rules rules) (entries int, err error) {
	src := &source{ctx: ctx, r: r}
	in, err := decompress(src, t.budget.limits)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	t.begin(rules)
	a := &archive{tree: t, tar: tar.NewReader(in), whiteouts: make(map[string]bool)}
	for ; ; entries++ {
		h, err := a.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = a.add(h)
		}
		if err != nil {
			return entries, a.failure(src, err)
		}
	}
	if !rules.endless && in.zeros < endOfArchive {
		return entries, a.failure(src, io.ErrUnexpectedEOF)
	}
	return entries, t.spool.flush()
}

// archive is one tar that is being read into a tree.
type archive struct {
	tree      *Tree
	tar       *tar.Reader
	whiteouts map[string]bool // names of the character devices 0:0 so far
	last      string          // name of the entry that was read last
}

// failure returns err as what it is, with the entry it is about where the
// archive is to blame.
func (a *archive) failure(src *source, err error) error {
	var known *errs.Error
	if err = src.failure(err); !errors.As(err, &known) {
		return err
	}
	named := *known
	switch known.Kind {
	case errs.Invalid, errs.Unsupported:
		if a.last != "" {
			named.Message = fmt.Sprintf("entry %q: %s", clip(a.last), known.Message)
		}
	}
	if known.Kind == errs.Invalid && known.Code == "" {
		named.Kind = a.tree.rules.foreign
	}
	return &named
}

// add reads the entry h and its content into the tree.
func (a *archive) add(h *tar.Header) error {
	a.last = h.Name
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := a.split(h.Name)
	if err != nil {
		return err
	}
	switch {
	case len(name) > 0 && name[0] == machineDir:
		return nil
	case len(name) == 0:
		return a.addRoot(h)
	}
	last := len(name) - 1
	if done, err := a.removed(h, name); done || err != nil {
		return err
	}
	dir, err := a.tree.dirAt(name[:last], true)
	if err != nil {
		return err
	}
	return a.addAt(h, entry{dir, name[last]})
}

// addRoot applies the entry of the root itself.
func (a *archive) addRoot(h *tar.Header) error {
	n, err := a.node(h)
	if err != nil {
		return err
	}
	if !n.IsDir() {
		return errs.New(errs.Invalid, "is the root, but not a directory")
	}
	if a.opaque(h) {
		a.tree.hideChildren(a.tree.root)
	}
	setAttributes(a.tree.root, n)
	return nil
}

// addAt adds the entry h at e.
func (a *archive) addAt(h *tar.Header, e entry) error {
	if h.Typeflag == tar.TypeLink {
		return a.addLink(h, e)
	}
	n, err := a.node(h)
	if err != nil {
		return err
	}
	if err := a.tree.put(e, n); err != nil {
		return err
	}
	if n.IsDir() && a.opaque(h) {
		a.tree.hideChildren(e.node())
	}
	if !n.IsRegular() {
		return nil
	}
	if err := a.tree.budget.takeBytes(h.Size); err != nil {
		return err
	}
	n.Content, err = a.tree.spool.add(a.tar, h.Size)
	return err
}

func (a *archive) addLink(h *tar.Header, e entry) error {
	target, err := a.split(h.Linkname)
	if err != nil {
		return errs.New(errs.Invalid, "is a hard link whose target %w", err)
	}
	n, err := a.tree.lookup(target)
	if errors.Is(err, errMissing) {
		return errs.New(errs.Invalid, "is a hard link to %q, which is not in the archive before it", clip(h.Linkname))
	}
	if err != nil {
		return errs.New(errs.Invalid, "is a hard link whose target %w", err)
	}
	return a.tree.link(e, n)
}

// node returns the inode that h describes, without content.
func (a *archive) node(h *tar.Header) (*erofs.Node, error) {
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return nil, errs.New(errs.Invalid, "has the owner %d:%d", h.Uid, h.Gid)
	}
	n := &erofs.Node{
		Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid),
		Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond()),
	}
	var err error
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= unix.S_IFREG
	case tar.TypeDir:
		n.Mode |= unix.S_IFDIR
	case tar.TypeFifo:
		n.Mode |= unix.S_IFIFO
	case tar.TypeSymlink:
		n.Mode, n.Target = unix.S_IFLNK|0o777, h.Linkname
		err = erofs.CheckTarget(h.Linkname)
	case tar.TypeChar:
		n.Mode |= unix.S_IFCHR
		n.Rdev, err = erofs.Dev(h.Devmajor, h.Devminor)
	case tar.TypeBlock:
		n.Mode |= unix.S_IFBLK
		n.Rdev, err = erofs.Dev(h.Devmajor, h.Devminor)
	default:
		err = fmt.Errorf("the type %q is unknown", h.Typeflag)
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "cannot be in an image: %w", err)
	}
	return n, nil
}

// split returns the parts of a name, none for the root.
func (a *archive) split(name string) ([]string, error) {
	if strings.HasPrefix(name, "/") && !a.tree.rules.absolute {
		return nil, errs.New(errs.Invalid, "has an absolute name").WithRemedy("Pack it with tar -C DIRECTORY -c .")
	}
	if len(name) > erofs.MaxPath {
		return nil, errs.New(errs.Invalid, "has a name of %d bytes, more than %d", len(name), erofs.MaxPath)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." {
			continue
		}
		if err := erofs.CheckName(part); err != nil {
			return nil, errs.New(errs.Invalid, "has a bad name: %w", err)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// clip bounds a hostile name that is quoted in an error.
func clip(name string) string {
	const most = 120
	if len(name) > most {
		return name[:most] + "…"
	}
	return path.Clean(name)
}
