package enginetest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

var snapshotTests = []subtest{
	{"the original goes on and two clones have its memory", testClones},
	{"files written before the snapshot are in the clone", testCloneFiles},
	{"a clone can be snapshotted again", testCloneOfClone},
	{"another engine or cpu is refused", testForeignSnapshot},
	{"a cut file is refused", testCutSnapshot},
}

// snapshot writes one and returns what Start needs.
func (b *bench) snapshot(t *testing.T, sb engine.Sandbox) *engine.Snapshot {
	t.Helper()
	dir := t.TempDir()
	info, err := sb.Snapshot(b.ctx(t), dir)
	if err != nil {
		t.Fatalf("Snapshot() = %v", err)
	}
	if e := b.eng.Info(); info.Engine != e.Digest || info.CPUFeatures != e.CPUFeatures || info.Image != b.Image.Digest {
		t.Errorf("Snapshot() = %+v, want engine, cpu and image of %+v", info, e)
	}
	if size := folderSize(t, dir); info.Bytes <= 0 || info.Bytes > size {
		t.Errorf("Snapshot() = %d bytes, the folder has %d", info.Bytes, size)
	}
	return &engine.Snapshot{Dir: dir, Info: info}
}

func folderSize(t *testing.T, dir string) int64 {
	t.Helper()
	var size int64
	for _, name := range regularFiles(t, dir) {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	return size
}

// regularFiles returns every file below dir.
func regularFiles(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// restore starts a snapshot in a new slot and waits for the probe.
func (b *bench) restore(t *testing.T, snap *engine.Snapshot) (engine.SlotID, engine.Sandbox) {
	t.Helper()
	slot := b.prepare(t, engine.KindRestore, snap.Info.Resources)
	spec := b.spec()
	spec.Snapshot = snap
	if err := b.eng.Start(b.ctx(t), slot, spec); err != nil {
		t.Fatalf("Start(%s, snapshot) = %v", slot, err)
	}
	sb := b.eng.Sandbox(slot)
	b.awaitProbe(t, sb)
	return slot, sb
}

func testClones(t *testing.T, b *bench) {
	_, original := b.boot(t, small)
	before := b.fields(t, original, "nonce")
	taken := time.Now()
	snap := b.snapshot(t, original)
	if snap.Info.Resources != small {
		t.Errorf("Snapshot() resources = %+v, want %+v", snap.Info.Resources, small)
	}
	onward := b.fields(t, original, "nonce")
	if onward["nonce"] != before["nonce"] {
		t.Errorf("the original after its snapshot = %v, was %v", onward, before)
	}
	b.awaitRise(t, original, number(t, onward, "counter"))
	for range 2 {
		_, clone := b.restore(t, snap)
		got := b.fields(t, clone, "nonce")
		if got["nonce"] != before["nonce"] {
			t.Errorf("nonce of a clone = %s, want %s", got["nonce"], before["nonce"])
		}
		if n := number(t, got, "counter"); n < number(t, before, "counter") {
			t.Errorf("counter of a clone = %d, want at least %s", n, before["counter"])
		}
		if started := time.Unix(0, number(t, got, "started")); !started.Before(taken) {
			t.Errorf("the clone's process started at %v, want before the snapshot at %v", started, taken)
		}
		b.awaitRise(t, clone, number(t, got, "counter"))
	}
	b.do(t, original, "echo", "alive")
}

func testCloneFiles(t *testing.T, b *bench) {
	_, original := b.boot(t, small)
	b.do(t, original, "put", "/base/new", "new")
	b.do(t, original, "delete", "/base/remove")
	snap := b.snapshot(t, original)
	b.do(t, original, "put", "/base/new", "changed later")
	_, one := b.restore(t, snap)
	_, two := b.restore(t, snap)
	b.do(t, one, "put", "/base/new", "clone one")
	if got := b.do(t, two, "read", "/base/new"); got != "new" {
		t.Errorf("/base/new in the second clone = %q, want %q", got, "new")
	}
	if _, err := b.Run(b.ctx(t), two, "read", "/base/remove"); !hasErrno(err, "ENOENT") {
		t.Errorf("a file removed before the snapshot = %v, want ENOENT", err)
	}
	if got := b.do(t, two, "read", "/base/keep"); got != "keep\n" {
		t.Errorf("a file of the image in the clone = %q", got)
	}
}

func testCloneOfClone(t *testing.T, b *bench) {
	slot, original := b.boot(t, small)
	nonce := b.fields(t, original, "nonce")["nonce"]
	first := b.snapshot(t, original)
	b.destroy(t, slot)
	_, clone := b.restore(t, first)
	b.do(t, clone, "put", "/base/new", "of the clone")
	_, second := b.restore(t, b.snapshot(t, clone))
	if got := b.fields(t, second, "nonce")["nonce"]; got != nonce {
		t.Errorf("nonce of the clone's clone = %s, want %s", got, nonce)
	}
	if got := b.do(t, second, "read", "/base/new"); got != "of the clone" {
		t.Errorf("file of the clone's clone = %q", got)
	}
}

func testForeignSnapshot(t *testing.T, b *bench) {
	_, original := b.boot(t, small)
	snap := b.snapshot(t, original)
	foreign := map[string]func(*engine.SnapshotInfo){
		"engine": func(i *engine.SnapshotInfo) { i.Engine = lehr.DigestOf([]byte("another engine")) },
		"cpu":    func(i *engine.SnapshotInfo) { i.CPUFeatures = lehr.DigestOf([]byte("another cpu")) },
	}
	for name, change := range foreign {
		changed := *snap
		change(&changed.Info)
		b.wantRefused(t, "Start(snapshot of another "+name+")", &changed, errs.Unsupported)
	}
}

func testCutSnapshot(t *testing.T, b *bench) {
	_, original := b.boot(t, small)
	snap := b.snapshot(t, original)
	for _, file := range regularFiles(t, snap.Dir) {
		cut := *snap
		cut.Dir = t.TempDir()
		if err := os.CopyFS(cut.Dir, os.DirFS(snap.Dir)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(cut.Dir, filepath.Base(file))
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() == 0 {
			continue
		}
		if err := os.Truncate(name, fi.Size()/2); err != nil {
			t.Fatal(err)
		}
		b.wantRefused(t, "Start(snapshot with "+filepath.Base(file)+" cut)", &cut, errs.Corrupt)
	}
}

// wantRefused checks that a snapshot is refused by name and never runs.
func (b *bench) wantRefused(t *testing.T, call string, snap *engine.Snapshot, kind errs.Kind) {
	t.Helper()
	slot := b.prepare(t, engine.KindRestore, snap.Info.Resources)
	spec := b.spec()
	spec.Snapshot = snap
	wantKind(t, call, b.eng.Start(b.ctx(t), slot, spec), kind)
	b.destroy(t, slot)
}
