package host

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// MakeMinimal returns the minimal base; concurrent calls share the work, which
// goes on when one of them gives up.
func (h *Host) MakeMinimal(ctx context.Context) (agent.Image, error) {
	return h.minimal.do(ctx, h.spawn, func() (agent.Image, error) {
		if err := h.wantDisk(); err != nil {
			return agent.Image{}, err
		}
		img, err := h.opt.Images.Minimal(h.life)
		return img, ownDisk(err)
	})
}

// ImportImage makes an image from a stream.
func (h *Host) ImportImage(ctx context.Context, kind agent.ImportKind, r io.Reader) (agent.Image, error) {
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return agent.Image{}, err
	}
	defer leave()
	if kind != agent.ImportTar && kind != agent.ImportOCI {
		return agent.Image{}, errs.New(errs.Invalid, "there is no import format %q", kind).WithField("kind")
	}
	if err := h.wantDisk(); err != nil {
		return agent.Image{}, err
	}
	img, err := h.opt.Images.Import(ctx, kind, r)
	return img, ownDisk(err)
}

// ownDisk names the disk that is full: "disk_full" alone is a sandbox's.
func ownDisk(err error) error {
	if errs.KindOf(err) != errs.Exhausted || errs.CodeOf(err) != "disk_full" {
		return err
	}
	return errs.Wrap(err, errs.Exhausted, "host.Images", "the host's disk is full").
		WithCode("host_disk_full").WithRemedy("remove unused templates or enlarge the disk")
}

// HasArtifact reports whether an image or snapshot is on the host.
func (h *Host) HasArtifact(_ context.Context, d lehr.Digest) (bool, error) {
	if _, err := lehr.ParseDigest(string(d)); err != nil {
		return false, errs.New(errs.Invalid, "%w", err).WithField("digest")
	}
	return h.opt.Images.Has(d) || h.snapshots.has(d), nil
}

// ListArtifacts returns every image and snapshot but the guest daemon's image.
func (h *Host) ListArtifacts(context.Context) ([]agent.Artifact, error) {
	images, err := h.opt.Images.List()
	if err != nil {
		return nil, err
	}
	images = slices.DeleteFunc(images, func(a agent.Artifact) bool { return a.Digest == h.opt.Guest.Rootfs.Digest })
	for i := range images {
		images[i].Kind = agent.KindImage
	}
	snapshots, err := h.snapshots.list(h.clock.Now())
	return append(images, snapshots...), err
}

// RemoveArtifact deletes an image or snapshot that no sandbox uses.
func (h *Host) RemoveArtifact(ctx context.Context, d lehr.Digest) error {
	if _, err := lehr.ParseDigest(string(d)); err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("digest")
	}
	if err := h.claimArtifact(d); err != nil {
		return err
	}
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.removing, d)
	}()
	if err := failpoint.Hit(ctx, failpoint.HostRemoveBegin); err != nil {
		return err
	}
	err := errors.Join(h.opt.Images.Remove(d), h.snapshots.remove(d))
	if err == nil {
		err = failpoint.Hit(ctx, failpoint.HostRemoveEnd)
	}
	return err
}

// claimArtifact keeps new sandboxes from using d.
func (h *Host) claimArtifact(d lehr.Digest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.removing[d] {
		return errs.New(errs.Conflict, "%s is being removed", d).WithCode("artifact_removing")
	}
	if d == h.opt.Guest.Rootfs.Digest {
		return errs.New(errs.Conflict, "%s is the guest daemon's image", d).WithCode("artifact_in_use")
	}
	for id, s := range h.sandboxes {
		if s.rec.State.Live() && (s.rec.Image == d || s.rec.Snapshot == d || s.rec.Guest == d) {
			return errs.New(errs.Conflict, "sandbox %s uses %s", id, d).
				WithCode("artifact_in_use").WithRemedy("destroy the sandbox first")
		}
	}
	h.removing[d] = true
	return nil
}

// FlattenRootfs merges the sandbox's image and what it wrote into a new image.
// Its processes, but for the guest daemon, are ended first.
func (h *Host) FlattenRootfs(ctx context.Context, id lehr.SandboxID) (agent.Image, error) {
	s, ctx, done, err := h.begin(ctx, id)
	if err != nil {
		return agent.Image{}, err
	}
	defer done()
	if err := h.wantRunning(s); err != nil {
		return agent.Image{}, err
	}
	if err := h.wantDisk(); err != nil {
		return agent.Image{}, err
	}
	if err := s.guest.Quiesce(ctx); err != nil {
		return agent.Image{}, h.ruling(s, err)
	}
	if err := failpoint.Hit(ctx, failpoint.HostFlattenBegin); err != nil {
		return agent.Image{}, err
	}
	img, err := h.flatten(ctx, s)
	if err == nil {
		err = failpoint.Hit(ctx, failpoint.HostFlattenEnd)
	}
	return img, h.ruling(s, err)
}

// flatten streams the writable layer into the image store.
func (h *Host) flatten(ctx context.Context, s *sandbox) (agent.Image, error) {
	raw, rawEnd := io.Pipe()
	clean, cleanEnd := io.Pipe()
	layerErr := make(chan error, 1)
	go func() {
		err := h.opt.Engine.Sandbox(s.slot()).WritableLayer(ctx, rawEnd)
		_ = rawEnd.CloseWithError(err)
		layerErr <- err
	}()
	filtered := make(chan struct{})
	go func() {
		defer close(filtered)
		err := withoutPlaceholders(cleanEnd, raw)
		_ = cleanEnd.CloseWithError(err)
		_ = raw.CloseWithError(err) // ends the engine's writing after a failure
	}()
	img, err := h.opt.Images.Flatten(ctx, s.rec.Image, clean)
	err = ownDisk(err)
	_ = clean.CloseWithError(errLayerUnread)
	<-filtered
	if lerr := <-layerErr; lerr != nil && !errors.Is(lerr, errLayerUnread) && err != nil {
		return agent.Image{}, lerr // the cause; err is what the store made of it
	}
	return img, err
}

var errLayerUnread = errors.New("the image store stopped reading the layer")

// placeholders are the files over which the guest daemon mounts the sandbox's
// identity; where the image has none, it leaves an empty one.
var placeholders = map[string]bool{
	"etc/hostname": true, "etc/hosts": true, "etc/resolv.conf": true,
	"etc/machine-id": true, "var/lib/dbus/machine-id": true,
}

// withoutPlaceholders copies a layer, leaving out what nobody but the guest
// daemon can have written.
func withoutPlaceholders(w io.Writer, r io.Reader) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the writable layer: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		mount := strings.TrimPrefix(engine.GuestMount, "/")
		if name == mount || strings.HasPrefix(name, mount+"/") {
			continue
		}
		if h.Typeflag == tar.TypeReg && h.Size == 0 && placeholders[name] {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("copy %s of the writable layer: %w", name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return fmt.Errorf("copy %s of the writable layer: %w", name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("end the writable layer: %w", err)
	}
	_, err := io.Copy(io.Discard, r) // the archive's padding
	return err
}

// CreateSnapshot writes a durable, verified snapshot of the running sandbox.
func (h *Host) CreateSnapshot(ctx context.Context, id lehr.SandboxID) (agent.Snapshot, error) {
	s, ctx, done, err := h.begin(ctx, id)
	if err != nil {
		return agent.Snapshot{}, err
	}
	defer done()
	if err := h.wantRunning(s); err != nil {
		return agent.Snapshot{}, err
	}
	if err := h.wantDisk(); err != nil {
		return agent.Snapshot{}, err
	}
	sb := h.opt.Engine.Sandbox(s.slot())
	d, m, err := h.snapshots.create(ctx, string(s.rec.Guest), sb.Snapshot)
	if err == nil {
		err = failpoint.Hit(ctx, failpoint.HostSnapshotAfterName)
	}
	if err != nil {
		return agent.Snapshot{}, h.ruling(s, err)
	}
	return agent.Snapshot{
		Digest: d, Image: m.Info.Image, Bytes: m.bytes(), EngineDigest: m.Info.Engine,
		CPUFeatures: m.Info.CPUFeatures, Guest: m.Guest,
	}, nil
}
