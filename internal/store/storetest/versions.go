package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func versionScenarios() []scenario {
	return []scenario{
		{"Unknown", versionUnknown},
		{"Unreferenced", unreferenced},
		{"ForgetSharedDigests", forgetSharedDigests},
		{"SandboxProtects", sandboxProtects},
	}
}

func (b *bench) garbage() []string {
	b.Helper()
	found, err := b.Templates().Unreferenced(b.ctx, 10)
	b.ok(err, "Unreferenced()")
	return labels(found, func(v lehr.Version) string { return string(v.ID) })
}

func versionUnknown(b *bench) {
	_, err := b.Templates().Version(b.ctx, lehr.NewVersionID())
	b.kind(err, errs.NotFound, "Version(unknown)")
	_, _, err = b.Templates().Forget(b.ctx, lehr.NewVersionID())
	b.kind(err, errs.NotFound, "Forget(unknown)")
	_, err = b.Templates().Unreferenced(b.ctx, 0)
	b.kind(err, errs.Invalid, "Unreferenced(0)")
	used, err := b.Templates().Referenced(b.ctx, "")
	if used || err != nil {
		b.Errorf("Referenced(none) = %v, %v; want false, nil", used, err)
	}
}

func unreferenced(b *bench) {
	first, second := b.publish("app"), b.publish("app")
	b.equal(b.garbage(), []string{string(first.ID)}, "Unreferenced()")
	_, _, err := b.Templates().Forget(b.ctx, second.ID)
	b.kind(err, errs.Conflict, "Forget(tagged)")
	image, snapshot, err := b.Templates().Forget(b.ctx, first.ID)
	if err != nil || !image || !snapshot {
		b.Errorf("Forget() = %v, %v, %v; want true, true, nil", image, snapshot, err)
	}
	b.equal(b.garbage(), []string{}, "Unreferenced() after Forget()")
	b.ok(b.Templates().Remove(b.ctx, b.team, "app", ""), "Remove()")
	b.equal(b.garbage(), []string{string(second.ID)}, "Unreferenced() after Remove()")
	b.equal(b.get(first.BuildID).Artifact.Version, first.ID, "the artifact of a forgotten version's build")
}

func forgetSharedDigests(b *bench) {
	old, now := version(b.team), version(b.team)
	old.SnapshotDigest = ""
	now.ImageDigest = old.ImageDigest
	for _, v := range []*lehr.Version{old, now} {
		_, err := b.Templates().PutVersion(b.ctx, "app", "default", *v)
		b.ok(err, "PutVersion()")
	}
	image, snapshot, err := b.Templates().Forget(b.ctx, old.ID)
	if err != nil || image || snapshot {
		b.Errorf("Forget(shared image, no snapshot) = %v, %v, %v; want false, false, nil", image, snapshot, err)
	}
	for digest, want := range map[lehr.Digest]bool{now.ImageDigest: true, now.SnapshotDigest: true, lehr.DigestOf([]byte("x")): false} {
		used, err := b.Templates().Referenced(b.ctx, digest)
		if err != nil || used != want {
			b.Errorf("Referenced(%s) = %v, %v; want %v, nil", digest, used, err, want)
		}
	}
}

func sandboxProtects(b *bench) {
	v := b.publish("app")
	sandbox := b.newSandbox(v.ID)
	b.publish("app")
	b.equal(b.garbage(), []string{}, "Unreferenced() while a sandbox lives")
	_, _, err := b.Templates().Forget(b.ctx, v.ID)
	b.kind(err, errs.Conflict, "Forget(in use)")
	_, err = b.Sandboxes().Move(b.ctx, sandbox, lehr.SandboxKilled, lehr.ReasonUser)
	b.ok(err, "Move(killed)")
	b.equal(b.garbage(), []string{string(v.ID)}, "Unreferenced() after its end")
	_, _, err = b.Templates().Forget(b.ctx, v.ID)
	b.ok(err, "Forget()")
	kept, err := b.Sandboxes().Get(b.ctx, b.team, sandbox)
	b.ok(err, "Get(sandbox of a forgotten version)")
	b.equal(kept.VersionID, v.ID, "its version")
	gone := b.sandboxOf(v.ID)
	_, _, err = b.Sandboxes().Create(b.ctx, gone)
	b.kind(err, errs.NotFound, "Create(sandbox of a forgotten version)")
}
