package gvisor_test

import (
	"os"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestSlice(t *testing.T) {
	f := newFixture(t)
	dir, _ := os.MkdirTemp("", "gvisor-slice-")
	e := f.open(t, dir, nil)
	defer e.Close()
	ctx := t.Context()
	t0 := time.Now()
	slot, err := e.Prepare(ctx, engine.PrepareSpec{Kind: engine.KindBoot, Resources: lehr.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 128}})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("prepare", time.Since(t0))
	t0 = time.Now()
	err = e.Start(ctx, slot, engine.StartSpec{Image: f.image, Guest: f.guest, Hostname: "probe", Init: probewire.Init(), Env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("start", time.Since(t0))
	sb := e.Sandbox(slot)
	for {
		out, err := enginetest.Run(ctx, sb, "whoami")
		if err == nil {
			t.Log(out, time.Since(t0))
			break
		}
		if time.Since(t0) > 5*time.Second {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	st, err := sb.Status(ctx)
	t.Logf("%+v %v", st, err)
	t0 = time.Now()
	if err := e.Destroy(ctx, slot); err != nil {
		t.Fatal(err)
	}
	t.Log("destroy", time.Since(t0))
}
