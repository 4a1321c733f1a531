package host

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// manifestFormat is the version of the manifest's form.
const manifestFormat = 1

// maxManifest bounds what is read of a manifest.
const maxManifest = 1 << 20

// manifest describes a snapshot. The digest of its JSON names the snapshot, and
// through the files' digests covers every byte of it.
type manifest struct {
	Format int                 `json:"format"`
	Guest  string              `json:"guest"` // of the guest daemon in it
	Info   engine.SnapshotInfo `json:"info"`
	Files  []manifestEntry     `json:"files"` // sorted by name
}

// manifestEntry is one file of a snapshot.
type manifestEntry struct {
	Name   string      `json:"name"`
	Size   int64       `json:"size"`
	Digest lehr.Digest `json:"digest"`
}

func (m *manifest) bytes() int64 {
	var sum int64
	for _, f := range m.Files {
		sum += f.Size
	}
	return sum
}

// newManifest reads every file below dir.
func newManifest(ctx context.Context, dir, guest string, info engine.SnapshotInfo) (*manifest, error) {
	files, err := readEntries(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &manifest{Format: manifestFormat, Guest: guest, Info: info, Files: files}, nil
}

// verify reads every file below dir and compares.
func (m *manifest) verify(ctx context.Context, dir string) error {
	files, err := readEntries(ctx, dir)
	if err != nil {
		return err
	}
	if !slices.Equal(files, m.Files) {
		return errs.New(errs.Corrupt, "the snapshot's files do not match its manifest").
			WithCode("snapshot_corrupt").WithRemedy("remove it; its template is made again from image and plan")
	}
	return nil
}

func readEntries(ctx context.Context, dir string) ([]manifestEntry, error) {
	var files []manifestEntry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return errs.New(errs.Corrupt, "%s of the snapshot is not a regular file", name)
		}
		size, digest, err := digestFile(ctx, path)
		files = append(files, manifestEntry{Name: name, Size: size, Digest: digest})
		return err
	})
	if err != nil {
		if errs.KindOf(err) != errs.Internal {
			return nil, err
		}
		return nil, diskError(err, "host.readSnapshot")
	}
	return files, nil // WalkDir goes in lexical order
}

func digestFile(ctx context.Context, path string) (int64, lehr.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, &ctxReader{ctx: ctx, r: f}, make([]byte, 1<<20))
	return n, lehr.DigestFrom(h), err
}

// ctxReader reads until ctx ends.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one copy
	r   io.Reader
}

// Read reads on while ctx lasts.
func (c *ctxReader) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(b)
}

// readManifest reads the manifest of the snapshot named d.
func readManifest(path string, d lehr.Digest) (*manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, diskError(err, "host.readManifest")
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, diskError(err, "host.readManifest")
	}
	if lehr.DigestOf(b) != d {
		return nil, errs.New(errs.Corrupt, "the manifest of snapshot %s is damaged", d).WithCode("snapshot_corrupt")
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, errs.Wrap(err, errs.Corrupt, "host.readManifest", "the snapshot's manifest cannot be read")
	}
	if m.Format != manifestFormat {
		return nil, errs.New(errs.Unsupported, "the snapshot has format %d, this host knows %d", m.Format, manifestFormat).
			WithCode("snapshot_unfit")
	}
	return &m, nil
}
