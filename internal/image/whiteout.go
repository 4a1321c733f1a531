package image

import (
	"archive/tar"
	"errors"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
)

// Names with which OCI layers remove entries.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."     // bookkeeping of AUFS, ignored
	whiteoutOpaque = ".wh..wh..opq" // hides everything that lower layers have beside it
)

// removed handles an entry that removes something below, or that stands for
// nothing at all, and reports whether h was one.
func (a *archive) removed(h *tar.Header, name []string) (bool, error) {
	switch a.tree.rules.deletion {
	case deleteByName:
		return a.removedByName(name)
	case deleteByDevice:
		return a.removedByDevice(h, name)
	}
	return false, nil
}

func (a *archive) removedByName(name []string) (bool, error) {
	last := len(name) - 1
	for i, part := range name {
		switch {
		case i == last && part == whiteoutOpaque:
			return true, a.within(name[:last], a.tree.hideChildren)
		case strings.HasPrefix(part, whiteoutMeta):
			return true, nil
		case i < last && strings.HasPrefix(part, whiteoutPrefix):
			return true, errs.New(errs.Invalid, "is inside of a whiteout")
		}
	}
	victim, found := strings.CutPrefix(name[last], whiteoutPrefix)
	if !found {
		return false, nil
	}
	if err := erofs.CheckName(victim); err != nil {
		return true, errs.New(errs.Invalid, "is a whiteout of nothing: %w", err)
	}
	return true, a.within(name[:last], func(dir *erofs.Node) { a.tree.hide(entry{dir, victim}) })
}

// removedByDevice handles the whiteouts of overlayfs. The engine gives them one
// inode, so that all but the first arrive as hard links to it.
func (a *archive) removedByDevice(h *tar.Header, name []string) (bool, error) {
	if h.PAXRecords["SCHILY.xattr.trusted.overlay.redirect"] != "" || h.PAXRecords["SCHILY.xattr.trusted.overlay.metacopy"] != "" {
		return false, errs.New(errs.Unsupported, "is an overlay entry that refers to another file")
	}
	switch {
	case h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0:
	case h.Typeflag == tar.TypeLink && a.isWhiteout(h.Linkname):
	default:
		return false, nil
	}
	a.whiteouts[strings.Join(name, "/")] = true
	last := len(name) - 1
	return true, a.within(name[:last], func(dir *erofs.Node) { a.tree.hide(entry{dir, name[last]}) })
}

func (a *archive) isWhiteout(target string) bool {
	name, err := a.split(target)
	return err == nil && a.whiteouts[strings.Join(name, "/")]
}

// within calls do with the directory at path, if there is one.
func (a *archive) within(path []string, do func(*erofs.Node)) error {
	dir, err := a.tree.dirAt(path, false)
	if errors.Is(err, errMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	do(dir)
	return nil
}

// opaque reports whether the directory h hides what lower layers have in it.
// The engine says so of every directory that it made anew, too.
func (a *archive) opaque(h *tar.Header) bool {
	return a.tree.rules.deletion == deleteByDevice && h.PAXRecords["SCHILY.xattr.trusted.overlay.opaque"] == "y"
}
