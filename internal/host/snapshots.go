package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Names in the folder of snapshots.
const (
	snapshotsDir = "sha256"        // holds one folder per snapshot, named by its digest
	snapshotTemp = "tmp-"          // prefix of what is being written
	manifestFile = "manifest.json" // its digest is the snapshot's
	engineDir    = "state"         // what the engine wrote
)

// snapshotStore keeps snapshots in a folder. Each is complete and durable before
// it gets its name, and is read as a whole before its first use in a process.
// It is safe for concurrent use.
type snapshotStore struct {
	dir string

	mu     sync.Mutex
	checks map[lehr.Digest]*snapshotCheck
}

// snapshotCheck is whether a snapshot was seen to match its digest. Who holds
// turn looks.
type snapshotCheck struct {
	turn     chan struct{} // capacity 1
	manifest *manifest     // nil: not seen yet
}

// openSnapshots opens the folder and removes what a crash left half-written.
func openSnapshots(dir string) (*snapshotStore, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, diskError(err, "host.openSnapshots")
	}
	s := &snapshotStore{dir: dir, checks: map[lehr.Digest]*snapshotCheck{}}
	if err := os.MkdirAll(filepath.Join(dir, snapshotsDir), 0o700); err != nil {
		return nil, diskError(err, "host.openSnapshots")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, diskError(err, "host.openSnapshots")
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), snapshotTemp) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, diskError(err, "host.openSnapshots")
		}
	}
	return s, nil
}

func (s *snapshotStore) path(d lehr.Digest) string {
	return filepath.Join(s.dir, snapshotsDir, d.Hex())
}

// has reports whether the snapshot is there, without looking into it.
func (s *snapshotStore) has(d lehr.Digest) bool {
	_, err := os.Stat(filepath.Join(s.path(d), manifestFile))
	return err == nil
}

// list returns every snapshot; one that vanishes meanwhile is left out.
func (s *snapshotStore) list(now time.Time) ([]agent.Artifact, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, snapshotsDir))
	if err != nil {
		return nil, diskError(err, "host.ListArtifacts")
	}
	var all []agent.Artifact
	for _, e := range entries {
		d, err := lehr.ParseDigest("sha256:" + e.Name())
		if err != nil {
			continue // not ours
		}
		path := filepath.Join(s.path(d), manifestFile)
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		a := agent.Artifact{Digest: d, Bytes: info.Size(), Age: now.Sub(info.ModTime()), Kind: agent.KindSnapshot}
		if m, err := readManifest(path, d); err == nil { // a damaged one is listed, to be removed
			a.Bytes += m.bytes()
		}
		all = append(all, a)
	}
	return all, nil
}

// create lets write fill a folder and stores it. The same content again is the
// same snapshot.
func (s *snapshotStore) create(ctx context.Context, guest string,
	write func(ctx context.Context, dir string) (engine.SnapshotInfo, error),
) (lehr.Digest, *manifest, error) {
	tmp, err := os.MkdirTemp(s.dir, snapshotTemp)
	if err != nil {
		return "", nil, diskError(err, "host.CreateSnapshot")
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // openSnapshots removes what stays
	state := filepath.Join(tmp, engineDir)
	if err := os.Mkdir(state, 0o700); err != nil {
		return "", nil, diskError(err, "host.CreateSnapshot")
	}
	info, err := write(ctx, state)
	if err != nil {
		return "", nil, err
	}
	m, err := newManifest(ctx, state, guest, info)
	if err != nil {
		return "", nil, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "", nil, errs.Wrap(err, errs.Internal, "host.CreateSnapshot", "the manifest cannot be encoded")
	}
	d := lehr.DigestOf(b)
	if err := failpoint.Hit(ctx, failpoint.HostSnapshotBeforeName); err != nil {
		return "", nil, err
	}
	if err := s.publish(tmp, d, b); err != nil {
		return "", nil, diskError(err, "host.CreateSnapshot")
	}
	s.check(d).seen(m)
	return d, m, nil
}

// publish makes the folder tmp durable and gives it its name.
func (s *snapshotStore) publish(tmp string, d lehr.Digest, manifest []byte) error {
	if err := writeDurable(filepath.Join(tmp, manifestFile), manifest); err != nil {
		return err
	}
	err := filepath.WalkDir(tmp, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(d)); err != nil {
		if !s.has(d) {
			return err
		}
		// The same content again: it counts as young from now on.
		now := time.Now()
		return os.Chtimes(filepath.Join(s.path(d), manifestFile), now, now)
	}
	return syncPath(filepath.Join(s.dir, snapshotsDir))
}

// open returns the folder that the engine wrote. The first call in a process
// reads every byte. Errors: NotFound with code "snapshot_missing", Corrupt.
func (s *snapshotStore) open(ctx context.Context, d lehr.Digest) (string, *manifest, error) {
	c := s.check(d)
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return "", nil, context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if !s.has(d) {
		c.manifest = nil
		return "", nil, errs.New(errs.NotFound, "snapshot %s is not on this host", d).WithCode("snapshot_missing")
	}
	state := filepath.Join(s.path(d), engineDir)
	if c.manifest == nil {
		m, err := readManifest(filepath.Join(s.path(d), manifestFile), d)
		if err != nil {
			return "", nil, err
		}
		if err := m.verify(ctx, state); err != nil {
			return "", nil, err
		}
		c.manifest = m
	}
	return state, c.manifest, nil
}

// remove deletes a snapshot; its name goes first, so that it is never half there.
func (s *snapshotStore) remove(d lehr.Digest) error {
	s.mu.Lock()
	delete(s.checks, d)
	s.mu.Unlock()
	tmp := filepath.Join(s.dir, snapshotTemp+"removed-"+d.Hex())
	if err := os.Rename(s.path(d), tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return diskError(err, "host.RemoveArtifact")
	}
	if err := os.RemoveAll(tmp); err != nil {
		return diskError(err, "host.RemoveArtifact")
	}
	return nil
}

func (s *snapshotStore) check(d lehr.Digest) *snapshotCheck {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checks[d]
	if c == nil {
		c = &snapshotCheck{turn: make(chan struct{}, 1)}
		s.checks[d] = c
	}
	return c
}

// seen records what was verified while it was written.
func (c *snapshotCheck) seen(m *manifest) {
	c.turn <- struct{}{}
	c.manifest = m
	<-c.turn
}

func writeDurable(path string, b []byte) error {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return syncPath(path)
}

// syncPath makes a file, or the names in a directory, durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
