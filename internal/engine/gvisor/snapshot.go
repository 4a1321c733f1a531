package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"
	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// manifestName lists the files of a snapshot. It is written last: a folder
// without it is not a snapshot.
const manifestName = "lehr-snapshot.json"

// manifest says what a snapshot must look like to be restored.
type manifest struct {
	Version int            `json:"version"`
	Files   []manifestFile `json:"files"`
}

const manifestVersion = 1

type manifestFile struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	CRC   uint32 `json:"crc32c"`
}

// snapshotFiles are the files of a snapshot in the order in which the sentry
// takes them.
func snapshotFiles() []string {
	return []string{
		checkpointfiles.StateFileName,
		checkpointfiles.PagesMetadataFileName,
		checkpointfiles.PagesFileName,
	}
}

// Snapshot implements engine.Sandbox. The sandbox stands still while its memory
// is written, uncompressed and without zero pages; checksums and syncing come
// after it goes on. The writable layer's pages are in the snapshot. A paused
// sandbox stays paused; what is restored from it runs.
func (b *sandbox) Snapshot(ctx context.Context, dir string) (engine.SnapshotInfo, error) {
	var info engine.SnapshotInfo
	err := b.operate(ctx, func(s *slot, _ engine.State) error {
		sentry, err := s.engineDigest()
		if err != nil {
			return err
		}
		err = s.checkpoint(ctx, dir)
		var bytes int64
		if err == nil {
			bytes, err = sealSnapshot(dir)
		}
		if full := diskFull(err, "gvisor.Snapshot"); full != nil {
			return full
		}
		if err != nil {
			return err
		}
		st := s.status()
		info = engine.SnapshotInfo{
			Engine:      sentry,
			CPUFeatures: b.e.info.CPUFeatures,
			Image:       s.image(),
			Resources:   st.Resources,
			Bytes:       bytes,
		}
		return nil
	})
	return info, err
}

func (s *slot) image() lehr.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Image
}

// checkpoint has the sentry write its state into dir.
func (s *slot) checkpoint(ctx context.Context, dir string) error {
	files := &donations{}
	defer files.close()
	for _, name := range snapshotFiles() {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return errs.Wrap(err, errs.Unavailable, "gvisor.Snapshot", "cannot make the files of the snapshot")
		}
		files.add("snapshot", f)
	}
	opts := &control.SaveOpts{
		Metadata:                       statefile.CompressionLevelNone.ToMetadata(),
		AppMFExcludeCommittedZeroPages: true,
		HavePagesFile:                  true,
		Resume:                         true,
	}
	if err := s.ctl.call(ctx, boot.ContMgrCheckpoint, opts, nil, files.files...); err != nil {
		return s.callFailed(ctx, "gvisor.Snapshot", err)
	}
	return nil
}

// sealSnapshot makes the snapshot in dir durable and returns its size.
func sealSnapshot(dir string) (int64, error) {
	m := manifest{Version: manifestVersion}
	var total int64
	for _, name := range snapshotFiles() {
		sealed, err := sealFile(filepath.Join(dir, name))
		if err != nil {
			return 0, errs.Wrap(err, errs.Unavailable, "gvisor.Snapshot", "cannot make the snapshot durable")
		}
		m.Files = append(m.Files, sealed)
		total += sealed.Bytes
	}
	data, err := json.Marshal(m)
	if err != nil {
		return 0, errs.Wrap(err, errs.Internal, "gvisor.Snapshot", "cannot encode the snapshot's list of files")
	}
	if err := writeSynced(dir, manifestName, data); err != nil {
		return 0, errs.Wrap(err, errs.Unavailable, "gvisor.Snapshot", "cannot make the snapshot durable")
	}
	return total + int64(len(data)), nil
}

// sealFile syncs one file and describes it.
func sealFile(path string) (manifestFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifestFile{}, err
	}
	defer func() { _ = f.Close() }()
	described, err := describeFile(f)
	if err != nil {
		return manifestFile{}, err
	}
	return described, f.Sync()
}

func describeFile(f *os.File) (manifestFile, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.CopyBuffer(onlyWriter{sum}, f, make([]byte, 1<<20))
	if err != nil {
		return manifestFile{}, err
	}
	return manifestFile{Name: filepath.Base(f.Name()), Bytes: n, CRC: sum.Sum32()}, nil
}

// onlyWriter hides other methods, so that the buffer given to io.CopyBuffer is
// the one used.
type onlyWriter struct{ io.Writer }

// writeSynced writes a file into dir, durable with its name.
func writeSynced(dir, name string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkFits refuses a snapshot that this engine, processor or slot cannot run.
func (e *Engine) checkFits(info engine.SnapshotInfo, spec engine.StartSpec, shape lehr.Resources) error {
	unfit := func(what string, have, want any) error {
		return errs.New(errs.Unsupported, "the snapshot needs another %s: %v, here is %v", what, want, have).
			WithCode("snapshot_unfit").WithField(what).WithRemedy("make the snapshot again on this host")
	}
	switch {
	case info.Engine != e.info.Digest:
		return unfit("engine", e.info.Digest, info.Engine)
	case info.CPUFeatures != e.info.CPUFeatures:
		return unfit("cpu_features", e.info.CPUFeatures, info.CPUFeatures)
	case info.Resources != shape:
		return unfit("resources", shape, info.Resources)
	case info.Image != spec.Image.Digest:
		return unfit("image", spec.Image.Digest, info.Image)
	}
	return nil
}

// openSnapshot opens the files of a snapshot after checking that they are what
// was written. Errors: Corrupt, Unavailable.
func openSnapshot(dir string) (_ *donations, err error) {
	corrupt := func(cause error, what string) error {
		return errs.Wrap(cause, errs.Corrupt, "gvisor.Start", "the snapshot is damaged: "+what)
	}
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return nil, corrupt(err, "its list of files is missing")
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil || m.Version != manifestVersion || len(m.Files) != len(snapshotFiles()) {
		return nil, corrupt(err, "its list of files is unreadable")
	}
	files := &donations{}
	defer func() {
		if err != nil {
			files.close()
		}
	}()
	for i, name := range snapshotFiles() {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, corrupt(err, name+" is missing")
		}
		if err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, "gvisor.Start", "cannot open the snapshot")
		}
		files.add("snapshot", f)
		found, err := describeFile(f)
		if err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, "gvisor.Start", "cannot read the snapshot")
		}
		if found != m.Files[i] {
			return nil, corrupt(fmt.Errorf("want %+v, got %+v", m.Files[i], found), name+" is not what was written")
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, "gvisor.Start", "cannot read the snapshot")
		}
	}
	return files, nil
}

// restore brings the sandbox of a snapshot to life in this slot.
func (s *slot) restore(ctx context.Context, spec engine.StartSpec, args *boot.StartArgs, files *donations) error {
	saved, err := openSnapshot(spec.Snapshot.Dir)
	if err != nil {
		return err
	}
	defer saved.close()
	if err := s.ctl.call(ctx, boot.ContMgrCreateSubcontainer, &boot.CreateArgs{CID: guestContainer}, nil); err != nil {
		return err
	}
	opts := &boot.RestoreOpts{HavePagesFile: true, Background: true}
	if err := s.ctl.call(ctx, boot.ContMgrRestore, opts, nil, saved.files...); err != nil {
		return err
	}
	if err := s.ctl.call(ctx, boot.ContMgrRestoreSubcontainer, args, nil, files.files...); err != nil {
		return err
	}
	if err := s.limitProcessors(); err != nil {
		return err
	}
	named, err := s.setHostname(ctx, spec.Hostname)
	if err != nil {
		return err
	}
	return named()
}
