package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/assets"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/gvisor"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/hostnet"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Folders in the data folder.
const (
	binDir       = "bin"
	engineDir    = "engine"
	imagesDir    = "images"
	sandboxesDir = "sandboxes"
	snapshotsDir = "snapshots"
	hostIDFile   = "host-id"
	lockFile     = "agent.lock"
)

// guestPath is where the guest daemon lies in every sandbox.
const guestPath = engine.GuestMount + "/" + assets.Guest

// parts are what an agent consists of, in the order in which they are closed.
type parts struct {
	lock    *flock.Flock // on the data folder, held until the rest is closed
	host    *host.Host
	engine  *gvisor.Engine
	network *hostnet.Network
	images  *image.Store
	bin     string // folder of this release's sentry
}

// openParts opens everything; after a failure nothing is left open.
func openParts(ctx context.Context, o Options) (*parts, error) {
	p := &parts{}
	if err := p.open(ctx, o); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *parts) open(ctx context.Context, o Options) (err error) {
	if p.lock, err = lockData(ctx, o.Data); err != nil {
		return err
	}
	sentry, _, err := assets.Extract(filepath.Join(o.Data, binDir), assets.Sentry)
	if err != nil {
		return err
	}
	p.bin = filepath.Dir(sentry)
	if p.images, err = image.OpenStore(filepath.Join(o.Data, imagesDir)); err != nil {
		return err
	}
	guest, err := guestImage(ctx, p.images)
	if err != nil {
		return err
	}
	if err := p.openEngine(ctx, o, sentry); err != nil {
		return err
	}
	id, err := hostID(filepath.Join(o.Data, hostIDFile))
	if err != nil {
		return err
	}
	capacity, err := capacity(o.Data)
	if err != nil {
		return err
	}
	p.host, err = host.Open(ctx, host.Options{
		ID: id, Engine: p.engine, Images: newImages(p.images, filepath.Join(o.Data, minimalFile), &registries{path: o.Registries, log: o.Log}),
		Guest: guest, Connect: connect, StateDir: filepath.Join(o.Data, sandboxesDir), SnapshotDir: filepath.Join(o.Data, snapshotsDir),
		ResolvConf: hostnet.ResolvConf(), Capacity: capacity, Pool: *o.Pool, Log: o.Log,
		Disk: func() (total, free int64, err error) { return diskOf(o.Data) },
	})
	return err
}

// openEngine opens the network and the engine on it. Networks that the engine
// did not adopt with their sandboxes are nobody's.
func (p *parts) openEngine(ctx context.Context, o Options, sentry string) (err error) {
	p.network, err = hostnet.Open(ctx, hostnet.Options{Instance: instance(o.Data), Logger: o.Log})
	if err != nil {
		return err
	}
	p.engine, err = gvisor.Open(ctx, gvisor.Options{
		StateDir: filepath.Join(o.Data, engineDir), Sentry: sentry, Network: network{p.network}, Log: o.Log,
	})
	if err != nil {
		return err
	}
	if swept, err := p.network.Sweep(ctx); err != nil || swept > 0 {
		// What stays behind costs a device, not correctness.
		o.Log.Warn("networks of nobody were taken away", "count", swept, "error", err)
	}
	return nil
}

// lockTime is how long a new agent waits for the one before it, whose parent
// was killed and which ends within stopTime.
const lockTime = stopTime + 3*time.Second

// lockData makes sure that no other agent works on the folder.
func lockData(ctx context.Context, data string) (*flock.Flock, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "agent.lockData", "the data folder cannot be made")
	}
	lock := flock.New(filepath.Join(data, lockFile))
	wait, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	held, err := lock.TryLockContext(wait, 20*time.Millisecond)
	if err != nil && wait.Err() == nil {
		return nil, errs.Wrap(err, errs.Unavailable, "agent.lockData", "the data folder cannot be locked")
	}
	if !held {
		return nil, errs.New(errs.Conflict, "another agent works on %s", data).WithCode("data_in_use")
	}
	return lock, nil
}

// close closes what is open; sandboxes keep running.
func (p *parts) close() error {
	var failed []error
	if p.host != nil {
		failed = append(failed, p.host.Close())
	}
	if p.engine != nil {
		failed = append(failed, p.engine.Close())
	}
	if p.network != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		failed = append(failed, p.network.Close(ctx))
	}
	if p.images != nil {
		failed = append(failed, p.images.Close())
	}
	if p.lock != nil {
		failed = append(failed, p.lock.Close())
	}
	return errors.Join(failed...)
}

// instance names the agent's part of the host's network after its data folder.
func instance(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:6])
}

// guestImage packs the guest daemon into an image: the same daemon, the same
// digest.
func guestImage(ctx context.Context, store *image.Store) (host.GuestImage, error) {
	f, err := assets.Open(assets.Guest)
	if err != nil {
		return host.GuestImage{}, err
	}
	defer f.Close()
	daemon, err := io.ReadAll(f)
	if err != nil {
		return host.GuestImage{}, errs.Wrap(err, errs.Internal, "agent.guestImage", "the embedded guest daemon cannot be read")
	}
	info, err := store.WriteFiles(ctx, []image.File{{Path: assets.Guest, Mode: 0o755, Data: daemon}})
	if err != nil {
		return host.GuestImage{}, err
	}
	path, err := store.Path(ctx, info.Digest)
	if err != nil {
		return host.GuestImage{}, err
	}
	return host.GuestImage{Rootfs: engine.Rootfs{Path: path, Digest: info.Digest}, Init: []string{guestPath}}, nil
}

// hostID returns the id that this installation gave itself at its first start.
func hostID(path string) (lehr.HostID, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		id := lehr.NewHostID()
		if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
			return "", errs.Wrap(err, errs.Unavailable, "agent.hostID", "the host's id cannot be written down")
		}
		return id, nil
	}
	if err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "agent.hostID", "the host's id cannot be read")
	}
	id, err := lehr.ParseHostID(strings.TrimSpace(string(b)))
	if err != nil {
		return "", errs.New(errs.Corrupt, "%s: %w", path, err).WithRemedy("remove the file; the host gets a new id")
	}
	return id, nil
}

// diskOf returns the size of the disk that a folder is on, and what of it
// services may still take.
func diskOf(dir string) (total, free int64, err error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return 0, 0, fmt.Errorf("read the size of the disk of %s: %w", dir, err)
	}
	return int64(disk.Blocks) * disk.Bsize, int64(disk.Bavail) * disk.Bsize, nil
}

// capacity returns what the machine has: processors, memory, and the size of
// the disk that the data folder is on.
func capacity(data string) (lehr.Resources, error) {
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return lehr.Resources{}, fmt.Errorf("read the machine's memory: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(data, &disk); err != nil {
		return lehr.Resources{}, fmt.Errorf("read the size of the disk of %s: %w", data, err)
	}
	return lehr.Resources{
		VCPUs:    int32(runtime.NumCPU()),
		MemoryMB: int32(uint64(memory.Totalram) * uint64(memory.Unit) >> 20),
		DiskMB:   int32(min(disk.Blocks*uint64(disk.Bsize)>>20, 1<<31-1)),
	}, nil
}
