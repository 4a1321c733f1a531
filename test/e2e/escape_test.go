package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/test/escape/corpus"
	"github.com/lehr-dev/lehr/test/world"
)

func nsHandle(fd int) netns.NsHandle { return netns.NsHandle(fd) }

// TestEscape tries every way of test/escape/corpus from a sandbox, as root and
// as an ordinary user. The host is a network namespace of the test with the
// whole platform in it; behind every denied address is a listener that must see
// nothing, and every packet on the wire is looked at. That the checks can see
// something is shown first: the same program, run outside, comes through.
func TestEscape(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	o := newOutside(t)
	e := newEscape(t, o)
	e.bites()
	before, mounts := hostState(t, e.env.Canary, e.env.PID), hostMounts(t)
	started, wall := time.Now(), time.Now().Round(0)
	e.sibling()
	o.take() // what of the attempts outside was still on its way
	t.Run("inside", func(t *testing.T) {
		for _, user := range []string{"0:0", "1000:1000"} {
			t.Run("user "+strings.ReplaceAll(user, ":", " "), func(t *testing.T) {
				t.Parallel()
				e.inside(t, user)
			})
		}
	})
	e.silence()
	if after := hostState(t, e.env.Canary, e.env.PID); after != before {
		t.Errorf("the host has changed.\nbefore:\n%s\nafter:\n%s", before, after)
	}
	for line := range hostMounts(t) {
		if !mounts[line] {
			t.Errorf("the host has a new mount: %s", line)
		}
	}
	if drift := time.Now().Round(0).Sub(wall) - time.Since(started); drift.Abs() > time.Second {
		t.Errorf("the host's clock was moved by %s", drift)
	}
	if got := e.w.OK("run", "probe", "--", "/bin/echo", "healthy"); got != "healthy\n" {
		t.Errorf("after all attempts a sandbox says %q", got)
	}
}

// escape is the platform with a template that holds the probe.
type escape struct {
	t     *testing.T
	w     *world.World
	o     *outside
	env   corpus.Env
	probe string // its path outside
	other string // a sandbox that listens, sibling of those that try
}

func newEscape(t *testing.T, o *outside) *escape {
	t.Helper()
	dir, root := t.TempDir(), probeRoot(t)
	e := &escape{t: t, o: o, probe: filepath.Join(root, "probe")}
	e.env = corpus.Env{
		Canary: filepath.Join(dir, "canary"), Secret: "canary of the host " + rand(t), Socket: filepath.Join(dir, "socket"),
		Abstract: "lehr-e2e-" + rand(t), Host: uplinkAddress, Other: otherAddress, Port: knockPort, Public: publicAddress, GuestPort: 49983,
	}
	if err := os.WriteFile(e.env.Canary, []byte(e.env.Secret), 0o644); err != nil {
		t.Fatal(err)
	}
	o.listenOnHost(t, e.env.Socket, e.env.Abstract)
	e.victim()
	e.sharedMemory()
	e.w = world.Start(t)
	fmt.Sscanf(e.w.URL(), "http://127.0.0.1:%d", &e.env.APIPort)
	mustBuild(t, e.w, "RUN true", "-t", "probe", "--base", "dir:"+root)
	return e
}

func rand(t *testing.T) string {
	t.Helper()
	b := make([]byte, 8)
	if _, err := unix.Getrandom(b, 0); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", b)
}

// victim starts a process of the host that sandboxes would like to reach.
func (e *escape) victim() {
	e.t.Helper()
	cmd := exec.Command("sleep", "100000")
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.env.PID = cmd.Process.Pid
	e.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// sharedMemory makes a segment of the host with the secret in it.
func (e *escape) sharedMemory() {
	e.t.Helper()
	e.env.Memory = 0x6c656872 + os.Getpid()
	id, err := unix.SysvShmGet(e.env.Memory, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	b, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	copy(b, e.env.Secret)
}

// bites runs outside what must come through there, and looks whether the
// listeners see it.
func (e *escape) bites() {
	e.t.Helper()
	ran := 0
	for _, a := range corpus.All() {
		if !a.Bites {
			continue
		}
		ran++
		e.o.take()
		cmd := exec.Command(e.probe, "try", a.ID)
		cmd.Stdin = bytes.NewReader(e.input())
		out, err := cmd.CombinedOutput()
		var report corpus.Report
		if err != nil || json.Unmarshal(out, &report) != nil || report.Got != corpus.Breached {
			e.t.Errorf("%s (%s: %s) outside = %s %v, want it breached: inside it proves nothing", a.ID, a.What, a.How, out, err)
		}
		if a.Listens != "" && !e.o.awaits(a.Listens) {
			e.t.Errorf("%s: the listener %q did not see it: its silence proves nothing", a.ID, a.Listens)
		}
	}
	if ran < 20 {
		e.t.Errorf("only %d attempts were shown to bite", ran)
	}
	// And the eyes on the wire.
	cmd := exec.Command(e.probe, "try", "metadata-01")
	cmd.Stdin = bytes.NewReader(e.input())
	_ = cmd.Run()
	if _, packets := e.o.take(); len(packets) == 0 {
		e.t.Error("the watch on the wire does not see a packet to a denied address")
	}
}

func (e *escape) input() []byte {
	e.t.Helper()
	b, err := json.Marshal(e.env)
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

// sibling starts a sandbox in which somebody listens.
func (e *escape) sibling() {
	e.t.Helper()
	e.other = create(e.t, e.w, "probe").ID
	listen := e.w.Command("sandbox", "exec", e.other, "--", "/probe", "listen", fmt.Sprint(knockPort))
	out, err := listen.StdoutPipe()
	if err == nil {
		err = listen.Start()
	}
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = listen.Process.Kill(); _ = listen.Wait() })
	if !bufio.NewScanner(out).Scan() {
		e.t.Fatal("the sibling does not listen")
	}
	if e.env.Siblings = outerAddresses(e.t); len(e.env.Siblings) == 0 {
		e.t.Fatal("the host knows no address of a sandbox")
	}
	if got := e.ask(); got != "0" {
		e.t.Errorf("the sibling's listener counts %q, want 0", got)
	}
}

// ask visits the sibling's listener from the sibling itself.
func (e *escape) ask() string {
	e.t.Helper()
	return strings.TrimSpace(e.w.OK("sandbox", "exec", e.other, "--", "/probe", "ask", fmt.Sprint(knockPort)))
}

// inside tries everything as one user.
func (e *escape) inside(t *testing.T, user string) {
	common := create(t, e.w.In(t), "probe").ID
	for _, a := range corpus.All() {
		t.Run(a.ID, func(t *testing.T) {
			box := common
			w := e.w.In(t)
			if a.Alone {
				t.Parallel()
				box = create(t, w, "probe").ID
			}
			r := w.RunInput(string(e.input()), "sandbox", "exec", box, "-i", "--user", user, "--timeout", "60s", "--", "/probe", "try", a.ID)
			if a.Alone {
				e.stillOurs(t, w, box)
				if r.Code != 0 {
					return // the sandbox ended, by its name
				}
			}
			var report corpus.Report
			if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
				if b := get(t, w, box); b.State != "running" && !a.Alone {
					common = create(e.t, e.w, "probe").ID // for the next attempts
				}
				t.Fatalf("%s, %s = exit code %d, %q, %q", a.What, a.How, r.Code, r.Stdout, r.Stderr)
			}
			if ok := report.Got == a.Want || report.Got == corpus.Refused && a.Want == corpus.Contained; !ok {
				t.Errorf("%s, %s = %s (%s), want %s", a.What, a.How, report.Got, report.Detail, a.Want)
			}
		})
	}
}

// stillOurs looks whether a sandbox in which the guest daemon was attacked works
// or has ended by a name, and can be killed in any case.
func (e *escape) stillOurs(t *testing.T, w *world.World, box string) {
	t.Helper()
	r := w.Run("sandbox", "exec", box, "--timeout", "30s", "--", "/bin/echo", "lives")
	b := get(t, w, box)
	if strings.Contains(r.Stderr, "guest_lost") {
		b = awaitEnd(t, w, box) // the host may know it first
	}
	switch {
	case r.Stdout == "lives\n" && b.State == "running":
	case strings.Contains(r.Stderr, "guest_silent") && b.State == "running": // stopped
	case b.State == "failed" && b.Reason != nil && *b.Reason == "guest_lost":
	default:
		t.Errorf("the sandbox is %s (%s), a command in it = %d %q %q; want it to work or to be lost by name", b.State, reason(b), r.Code, r.Stdout, r.Stderr)
	}
	if r := w.Run("sandbox", "kill", box); r.Code != 0 && b.State == "running" {
		t.Errorf("kill = %d %q", r.Code, r.Stderr)
	}
}

// silence checks that nobody outside saw anything but what is allowed.
func (e *escape) silence() {
	e.t.Helper()
	seen, packets := e.o.take()
	if seen[corpus.ListenOutside("public")] == 0 {
		e.t.Error("the allowed address saw nothing, so the silence of the others proves nothing")
	}
	delete(seen, corpus.ListenOutside("public"))
	if len(seen) > 0 {
		e.t.Errorf("listeners were reached: %v", seen)
	}
	if len(packets) > 0 {
		e.t.Errorf("packets got out: %q", packets[:min(len(packets), 20)])
	}
	if got := e.ask(); got != "1" {
		e.t.Errorf("the sibling's listener counts %q visits, want 1, its own", got)
	}
}
