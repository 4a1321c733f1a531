package agenttest

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Exec runs the script; the end of the sandbox breaks it off.
func (h *Host) Exec(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	var ended chan struct{}
	err := h.with(ctx, "Exec", r.SandboxID, func(b *box) error {
		ended = b.ended
		return h.move(b, b.State)
	})
	if err != nil || h.Run == nil {
		return agent.Exit{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ended:
			cancel(h.endError(r.SandboxID))
		case <-stop:
		}
	}()
	exit, err := h.Run(ctx, r, out)
	if err == nil && ctx.Err() != nil {
		return agent.Exit{}, context.Cause(ctx)
	}
	return exit, err
}

func (h *Host) endError(id lehr.SandboxID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := lehr.ReasonUser
	if b, ok := h.boxes[id]; ok {
		reason = b.Reason
	}
	return errs.New(errs.Conflict, "sandbox %s ended: %s", id, reason).WithCode("sandbox_ended")
}

// Environment returns the created environment, completed by PATH and HOME.
func (h *Host) Environment(ctx context.Context, id lehr.SandboxID) ([]lehr.EnvVar, error) {
	var env []lehr.EnvVar
	err := h.with(ctx, "Environment", id, func(b *box) error {
		env = slices.Clone(b.request.Config.Env)
		for _, v := range []lehr.EnvVar{{Name: "PATH", Value: "/usr/bin:/bin"}, {Name: "HOME", Value: "/root"}} {
			if !slices.ContainsFunc(env, func(e lehr.EnvVar) bool { return e.Name == v.Name }) {
				env = append(env, v)
			}
		}
		return nil
	})
	return env, err
}

// ReadFile returns what WriteFile wrote.
func (h *Host) ReadFile(ctx context.Context, f agent.File, w io.Writer) error {
	return h.with(ctx, "ReadFile", f.SandboxID, func(b *box) error {
		content, ok := b.files[f.Path]
		if !ok {
			return errs.New(errs.NotFound, "no file %s", f.Path)
		}
		_, err := w.Write(content)
		return err
	})
}

// WriteFile keeps a file in memory.
func (h *Host) WriteFile(ctx context.Context, f agent.File, r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return h.with(ctx, "WriteFile", f.SandboxID, func(b *box) error { b.files[f.Path] = content; return nil })
}

// MakeDir does nothing but count.
func (h *Host) MakeDir(ctx context.Context, f agent.File) error {
	return h.with(ctx, "MakeDir", f.SandboxID, func(*box) error { return nil })
}

// MakeMinimal makes the minimal base, the same each time.
func (h *Host) MakeMinimal(ctx context.Context) (agent.Image, error) {
	if err := h.enter(ctx, "MakeMinimal", ""); err != nil {
		return agent.Image{}, err
	}
	d := lehr.DigestOf([]byte("minimal"))
	h.AddArtifact(d)
	return agent.Image{Digest: d, Bytes: 100, Config: h.Minimal, Source: "scripted"}, nil
}

// ImportImage makes an image named by the digest of its content.
func (h *Host) ImportImage(ctx context.Context, _ agent.ImportKind, r io.Reader) (agent.Image, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return agent.Image{}, err
	}
	if err := h.enter(ctx, "ImportImage", ""); err != nil {
		return agent.Image{}, err
	}
	d := lehr.DigestOf(content)
	h.AddArtifact(d)
	return agent.Image{Digest: d, Bytes: int64(len(content))}, nil
}

// HasArtifact reports whether the host holds d.
func (h *Host) HasArtifact(ctx context.Context, d lehr.Digest) (bool, error) {
	if err := h.enter(ctx, "HasArtifact", ""); err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.artifacts[d], nil
}

// FlattenRootfs makes a new image, never the same twice.
func (h *Host) FlattenRootfs(ctx context.Context, id lehr.SandboxID) (agent.Image, error) {
	var image agent.Image
	err := h.with(ctx, "FlattenRootfs", id, func(b *box) error {
		if err := h.move(b, b.State); err != nil {
			return err
		}
		image = agent.Image{Digest: h.newArtifact("image"), Bytes: 1000}
		return nil
	})
	return image, err
}

// CreateSnapshot makes a new snapshot, never the same twice.
func (h *Host) CreateSnapshot(ctx context.Context, id lehr.SandboxID) (agent.Snapshot, error) {
	var snapshot agent.Snapshot
	err := h.with(ctx, "CreateSnapshot", id, func(b *box) error {
		if err := h.move(b, b.State); err != nil {
			return err
		}
		snapshot = agent.Snapshot{
			Digest: h.newArtifact("snapshot"), Image: b.request.Image, Bytes: 500,
			EngineDigest: lehr.DigestOf([]byte("engine")),
		}
		return nil
	})
	return snapshot, err
}

// newArtifact is called with mu held.
func (h *Host) newArtifact(kind string) lehr.Digest {
	h.made++
	if h.Repeat > 0 {
		h.made %= h.Repeat
	}
	d := lehr.DigestOf(fmt.Appendf(nil, "%s %s %d", h.ID, kind, h.made))
	h.artifacts[d] = true
	return d
}

// ListArtifacts returns what the host holds, all of it ArtifactAge old.
func (h *Host) ListArtifacts(ctx context.Context) ([]agent.Artifact, error) {
	if err := h.enter(ctx, "ListArtifacts", ""); err != nil {
		return nil, err
	}
	var all []agent.Artifact
	for _, d := range h.ArtifactList() {
		a, ok := h.Details[d]
		if !ok {
			a = agent.Artifact{Bytes: 1, Age: h.ArtifactAge, Kind: agent.KindImage}
		}
		a.Digest = d
		all = append(all, a)
	}
	return all, nil
}

// RemoveArtifact deletes an artifact; Conflict while a sandbox uses it.
func (h *Host) RemoveArtifact(ctx context.Context, d lehr.Digest) error {
	if err := h.enter(ctx, "RemoveArtifact", ""); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.boxes {
		if b.request.Image == d || b.request.Snapshot == d {
			return errs.New(errs.Conflict, "sandbox %s uses %s", b.ID, d)
		}
	}
	delete(h.artifacts, d)
	return nil
}
