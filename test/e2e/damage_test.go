package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/test/world"
)

// damages are what may happen to a file on a disk.
func damages() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		"a bit flipped": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"cut":           func(b []byte) []byte { return b[:len(b)*2/3] },
		"a page zeroed": func(b []byte) []byte {
			const page = 4096
			at := len(b) / 3 / page * page
			for i := at; i < min(at+page, len(b)); i++ {
				b[i] = ^b[i] // zeroes may be there already
			}
			return b
		},
		"emptied": func([]byte) []byte { return nil },
	}
}

// TestDamage breaks what is on the disk while lehr is down: everything broken is
// refused by name and never run, and comes back to work when it is mended.
func TestDamage(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	mustBuild(t, w, "FROM minimal\nRUN echo whole > /whole", "-t", "plain")
	snap := mustBuild(t, w, "FROM plain\nSTART exec sleep 100000\nHEALTHCHECK --interval=50ms --timeout=5s true", "-t", "warm")
	plain := mustBuild(t, w, "FROM plain\nRUN echo more > /more", "-t", "second")
	hex := func(d string) string { return strings.TrimPrefix(d, "sha256:") }
	image := filepath.Join(w.Data(), "images", "sha256", hex(plain.Artifact.ImageDigest))
	snapshot := filepath.Join(w.Data(), "snapshots", "sha256", hex(*snap.Artifact.SnapshotDigest))
	t.Run("image", func(t *testing.T) {
		for _, file := range filesOf(t, image) {
			testDamagedFile(t, w, file, "second")
		}
	})
	t.Run("snapshot", func(t *testing.T) {
		for _, file := range filesOf(t, snapshot) {
			testDamagedFile(t, w, file, "warm")
		}
	})
	t.Run("database", func(t *testing.T) { testDamagedDatabase(t, w) })
	if got := w.OK("run", "second", "--", "cat", "/whole", "/more"); got != "whole\nmore\n" {
		t.Errorf("after all was mended the template says %q", got)
	}
}

// filesOf lists the file, or the files of a folder, that a digest names.
func filesOf(t *testing.T, path string) (files []string) {
	t.Helper()
	found, err := filepath.Glob(path + "*")
	if err != nil || len(found) == 0 {
		t.Fatalf("nothing is at %s: %v", path, err)
	}
	for _, f := range found {
		err := filepath.WalkDir(f, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func testDamagedFile(t *testing.T, w *world.World, file, template string) {
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole) == 0 {
		return // there is nothing to break
	}
	for name, damage := range damages() {
		t.Run(filepath.Base(file)+" "+name, func(t *testing.T) {
			w.In(t)
			w.Stop()
			overwrite(t, file, damage(bytes.Clone(whole)))
			w.Up()
			sub := w.In(t)
			r := sub.Run("run", template, "--", "sh", "-c", "echo it ran")
			if r.Code != 125 || strings.Contains(r.Stdout, "it ran") || !strings.Contains(r.Stderr, "[") {
				t.Errorf("run of a damaged template = %d %q %q, want a refusal with a code", r.Code, r.Stdout, r.Stderr)
			}
			if lower := strings.ToLower(r.Stderr); !strings.Contains(lower, "corrupt") && !strings.Contains(lower, "damaged") && !strings.Contains(lower, "missing") {
				t.Errorf("the refusal is %q, want it to say what is wrong", r.Stderr)
			}
			w.Stop()
			overwrite(t, file, whole)
			w.Up()
		})
	}
	if r := w.Run("run", template, "--", "sh", "-c", "echo it runs"); r.Stdout != "it runs\n" {
		t.Errorf("the mended template = %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
}

// overwrite replaces the content of a file, which may be read-only.
func overwrite(t *testing.T, path string, content []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// testDamagedDatabase wants lehr up to end by name and to leave the file alone.
func testDamagedDatabase(t *testing.T, w *world.World) {
	w.Stop()
	file := filepath.Join(w.Data(), "lehr.db")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"text":        []byte(strings.Repeat("no database ", 1000)),
		"cut in half": whole[:len(whole)/2/4096*4096],
		"flipped": func() []byte {
			b := bytes.Clone(whole)
			for i := 4096; i < len(b); i += 4096 {
				b[i] ^= 0x55
			}
			return b
		}(),
	}
	for name, content := range bad {
		overwrite(t, file, content)
		code, text := endedUp(t, w)
		if code != 3 || !strings.Contains(text, "database_corrupt") || !strings.Contains(text, "try:") {
			t.Errorf("lehr up on a database that is %s = %d %q, want 3, database_corrupt and a way out", name, code, text)
		}
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, content) {
			t.Errorf("the damaged database was changed: %v", err)
		}
	}
	overwrite(t, file, whole)
	w.Up()
}

// endedUp starts lehr up, which must end by itself.
func endedUp(t *testing.T, w *world.World) (int, string) {
	t.Helper()
	cmd := w.Command("up", "--data", w.Data(), "--listen", "127.0.0.1:0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(wireLimit):
		_ = cmd.Process.Signal(os.Interrupt)
		<-ended
		t.Errorf("lehr up did not end by itself\n%s", out.String())
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// TestFullDisk runs the platform on a file system that fills up while a build
// writes its layer, its image or its snapshot: the build fails and names the
// disk, nothing half-made is left, and once there is room everything works.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	world.Program(t)
	mount := t.TempDir()
	const room = 700 // MB beside what a new world takes: one image of minimal has 130
	size := goldenSize(t) + room<<20
	resize := func(size int64, flags uintptr) error {
		return unix.Mount("full", mount, "tmpfs", flags, fmt.Sprintf("size=%d", size))
	}
	if err := resize(size, 0); err != nil {
		t.Skip("SKIP-ENV: no tmpfs can be mounted: " + err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
	folder := filepath.Join(mount, "world")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	w := world.Start(t, world.WithFolder(folder))
	mustBuild(t, w, "RUN echo before > /before", "-t", "before", "--disk", "100")
	whole := artifacts(w)
	for _, c := range fullDiskCases() {
		b, r := build(t, w, c.recipe, "-t", "full", "--skip-pre-post", "--disk", "800", "--memory", c.memory)
		if b.Status != "failed" || b.Error == nil {
			t.Errorf("a build of %s = %s, want failed\n%s", c.name, b.Status, r.Stderr)
			continue
		}
		// The database is on the same disk: while a step keeps that full nobody can
		// write down why an attempt ended, and it counts as lost.
		untold := c.step && b.Error.Code == "attempts_exhausted"
		if text := strings.ToLower(b.Error.Code + b.Error.Message + r.Stderr); !untold && !strings.Contains(text, "disk") && !strings.Contains(text, "space") {
			t.Errorf("a build of %s fails with %+v, want the disk to be named\n%s", c.name, b.Error, r.Stderr)
		}
		if b.Error.Fault != "platform" {
			t.Errorf("a build of %s is the fault of %s, want the platform's: its own disk has room", c.name, b.Error.Fault)
		}
		t.Logf("a build of %s: %+v after %d attempts", c.name, *b.Error, b.Attempt)
		if left := artifacts(w); !slices.Equal(left, whole) {
			t.Errorf("a build of %s left %q, before there was %q", c.name, left, whole)
		}
		if got := w.OK("run", "before", "--", "cat", "/before"); got != "before\n" {
			t.Errorf("after a full disk a sandbox says %q", got)
		}
	}
	if err := resize(size+2<<30, unix.MS_REMOUNT); err != nil {
		t.Fatal(err)
	}
	mustBuild(t, w, "RUN head -c 260M /dev/urandom > /large", "-t", "after", "--disk", "650")
}

// fullDiskCase is a build for which a disk has no room, though its sandbox has.
type fullDiskCase struct {
	name, recipe, memory string
	step                 bool // the step's own writes fill the disk
}

// fullDiskCases differ in what does not fit any more: the image, part of it, the
// layer itself, or the memory of a snapshot. A tmpfs counts as memory of who
// writes, which is the sandbox here.
func fullDiskCases() []fullDiskCase {
	const live = "START exec sleep 100000\nHEALTHCHECK --interval=50ms --timeout=5s true\n"
	var all []fullDiskCase
	for _, c := range []struct {
		mb    int
		after string
	}{{260, ""}, {420, live}, {720, ""}} {
		all = append(all, fullDiskCase{fmt.Sprintf("%d MB", c.mb), fmt.Sprintf("RUN head -c %dM /dev/urandom > /large\n", c.mb) + c.after, "1024", c.mb == 720})
	}
	return append(all, fullDiskCase{
		"600 MB of memory",
		"START head -c 600M /dev/urandom > /dev/shm/large && exec sleep 100000\n" +
			"HEALTHCHECK --interval=50ms --timeout=5s test $(stat -c %s /dev/shm/large) = 629145600\n", "3072", false,
	})
}

// artifacts are the images and snapshots of a world, and what is on its way to
// be one.
func artifacts(w *world.World) []string {
	i := w.Inventory()
	return slices.Concat(i.Images, i.Snapshots, i.Leftovers)
}

// goldenSize is what a new world takes, in bytes.
func goldenSize(t *testing.T) int64 {
	t.Helper()
	out, err := exec.Command("du", "-sxB1", world.Golden(t)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	if _, err := fmt.Sscan(string(out), &n); err != nil {
		t.Fatal(err)
	}
	return n
}
