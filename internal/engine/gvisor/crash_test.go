package gvisor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/engine/gvisor"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// holderVariable makes the test binary a process that opens an engine, starts a
// sandbox and waits to be killed; its value is what it needs, in JSON.
const holderVariable = "LEHR_TEST_HOLDER"

type holder struct {
	Dir, Sentry  string
	Group        string
	Image, Guest engine.Rootfs
}

var smallShape = lehr.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 128}

// hold runs as the holder; it prints the slot once the sandbox runs.
func hold(encoded string) error {
	var h holder
	if err := json.Unmarshal([]byte(encoded), &h); err != nil {
		return err
	}
	ctx := context.Background()
	e, err := gvisor.Open(ctx, gvisor.Options{StateDir: h.Dir, Sentry: h.Sentry, CgroupParent: h.Group})
	if err != nil {
		return err
	}
	if _, err := e.Prepare(ctx, engine.PrepareSpec{Kind: engine.KindBoot, Resources: smallShape}); err != nil {
		return err // a second slot, never started
	}
	slot, err := e.Prepare(ctx, engine.PrepareSpec{Kind: engine.KindBoot, Resources: smallShape, Labels: map[string]string{"a": "b"}})
	if err != nil {
		return err
	}
	spec := engine.StartSpec{Image: h.Image, Guest: h.Guest, Init: probewire.Init(), Hostname: "held"}
	if err := e.Start(ctx, slot, spec); err != nil {
		return err
	}
	fmt.Println("slot", slot)
	select {} // until it is killed
}

// TestKilledCreator kills a real process with kill -9: its sandbox does not
// notice, and the next engine has it.
func TestKilledCreator(t *testing.T) {
	f := newFixture(t)
	w := &world{f: f, dir: t.TempDir()}
	before, err := w.leaks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot := killHolder(t, f, w.dir)
	w.reopen(t)
	list, err := w.e.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("List() after kill -9 = %+v, %v, want one sandbox", list, err)
	}
	if st := list[0]; st.Slot != slot || st.State != engine.StateRunning || st.Labels["a"] != "b" {
		t.Errorf("List() after kill -9 = %+v, want %s running with its labels", st, slot)
	}
	sb := w.e.Sandbox(slot)
	awaitProbe(t, sb)
	if out, err := enginetest.Run(t.Context(), sb, "whoami"); err != nil || !strings.Contains(out, "hostname=held") {
		t.Errorf("whoami after kill -9 = %q, %v", out, err)
	}
	if err := sb.Stop(t.Context()); err != nil {
		t.Errorf("Stop() = %v", err)
	}
	if exit, err := sb.Wait(t.Context()); err != nil || exit.Reason != lehr.ReasonUser {
		t.Errorf("Wait() = %+v, %v, want reason user", exit, err)
	}
	if err := w.e.Destroy(t.Context(), slot); err != nil {
		t.Errorf("Destroy() = %v", err)
	}
	if err := w.e.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	after, err := w.leaks(t.Context())
	if err != nil || len(after) > len(before) {
		t.Errorf("left behind: %q, %v, before %q", after, err, before)
	}
}

// killHolder starts a holder, kills it once its sandbox answers, and returns the
// slot.
func killHolder(t *testing.T, f fixture, dir string) engine.SlotID {
	t.Helper()
	config, err := json.Marshal(holder{Dir: dir, Group: testGroup, Sentry: f.sentry, Image: f.image, Guest: f.guest})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderVariable+"="+string(config))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // ends although the sandbox lives: it holds no pipe of ours
	}()
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		id, ok := strings.CutPrefix(strings.TrimSpace(text), "slot ")
		if !ok {
			t.Fatalf("the holder said %q", text)
		}
		return engine.SlotID(id)
	case <-time.After(time.Minute):
		t.Fatal("the holder's sandbox did not start")
	}
	return ""
}
