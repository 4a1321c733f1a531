package gvisor_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func busyboxImage(t *testing.T) engine.Rootfs {
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755})
	}
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(b))})
	w.Write(b)
	for _, l := range []string{"sh", "sleep", "cat", "dd", "ls", "mkdir", "df", "free", "mount", "seq", "nproc", "ping"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + l, Linkname: "busybox"})
	}
	w.Close()
	img, err := imageFromTar("busybox", buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestShellMem(t *testing.T) {
	f := newFixture(t)
	img := busyboxImage(t)
	e := f.open(t, t.TempDir(), nil)
	defer e.Close()
	ctx := t.Context()
	for _, n := range []int{1, 100, 200, 400, 800} {
		slot, err := e.Prepare(ctx, engine.PrepareSpec{Kind: engine.KindBoot, Resources: lehr.Resources{VCPUs: 1, MemoryMB: 4096, DiskMB: 128}})
		if err != nil {
			t.Fatal(err)
		}
		err = e.Start(ctx, slot, engine.StartSpec{Image: img, Guest: f.guest, Hostname: "probe", Init: []string{"/bin/sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep 1000 & i=$((i+1)); done; wait", n)}, Env: []string{"PATH=/bin"}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		d, _ := os.ReadFile("/sys/fs/cgroup/memory/lehr-test/" + string(slot) + "/memory.max_usage_in_bytes")
		k, _ := os.ReadFile("/sys/fs/cgroup/memory/lehr-test/" + string(slot) + "/memory.kmem.max_usage_in_bytes")
		p, _ := os.ReadFile("/sys/fs/cgroup/pids/lehr-test/" + string(slot) + "/pids.current")
		t.Logf("%d  %s %s %s", n, d, k, p)
		e.Destroy(ctx, slot)
	}
}
