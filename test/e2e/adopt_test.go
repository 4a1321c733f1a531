package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/test/world"
)

// eventually asks again until f is true.
func eventually(t *testing.T, w *world.World, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s\n%s", what, w.Log())
		}
	}
}

// writer starts a loop in a sandbox that writes a rising number, and returns its
// process id there.
func writer(t *testing.T, w *world.World, id string) (pid string) {
	t.Helper()
	w.OK("sandbox", "exec", id, "--", "sh", "-c", `setsid sh -c 'echo $$ > /pid; i=0; while :; do i=$((i+1)); echo $i >> /numbers; sleep 0.01; done' > /dev/null 2>&1 &`)
	return w.OK("sandbox", "exec", id, "--", "sh", "-c", "while [ ! -s /pid ]; do sleep 0.01; done; cat /pid")
}

// hostClient speaks to the agent itself.
func hostClient(t *testing.T, w *world.World) *hostrpc.Client {
	t.Helper()
	c := hostrpc.DialUnix(filepath.Join(w.Data(), "run", strconv.Itoa(w.PID())+".sock"))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func sentryFiles(t *testing.T, w *world.World) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(w.Data(), "bin", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// TestUpgrade replaces lehr by one with another version, sentry and guest daemon
// under a running sandbox, a running build, an open command and a follower: the
// sandbox does not notice and can be used, flattened, snapshotted and killed; its
// sentry's file stays for as long as it lives, and goes after it.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"stop", "kill"} {
		t.Run(how, func(t *testing.T) { testUpgrade(t, how == "kill") })
	}
}

func testUpgrade(t *testing.T, kill bool) {
	w := world.Start(t)
	mustBuild(t, w, "START sleep 100000\nHEALTHCHECK --interval=50ms true", "-t", "warm", "--base", "tar:"+tinyTar(t))
	id := create(t, w, "minimal").ID
	pid := writer(t, w, id)
	before, err := hostClient(t, w).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b built
	w.JSONInput("RUN echo begun; sleep 2; echo over", &b, "build", "-t", "across", "-f", "-", "--skip-pre-post", "--detach")
	awaitLine(t, w, b.ID, "begun")
	open := w.Command("sandbox", "exec", id, "--", "sh", "-c", "echo $$ > /open; sleep 100000")
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "while [ ! -s /open ]; do sleep 0.01; done")
	sentry := w.Sentry(id)

	upgraded := w.Upgraded()
	if kill {
		w.Kill9()
	} else {
		w.Stop()
	}
	w.UpWith(upgraded)
	if err := open.Wait(); err == nil {
		t.Error("a command whose server went away ended with 0, want an error")
	}
	host := hostClient(t, w)
	after, err := host.Info(t.Context())
	if err != nil || after.EngineDigest == before.EngineDigest || after.Guest == before.Guest {
		t.Fatalf("after the upgrade the host has engine %s and guest %s (%v), before %s and %s", after.EngineDigest, after.Guest, err, before.EngineDigest, before.Guest)
	}
	if now := w.Sentry(id); now != sentry {
		t.Errorf("the sentry is %v, was %v", now, sentry)
	}
	checkNumbers(t, w, id, pid)
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "! kill -0 $(cat /open) 2> /dev/null") // ended with its caller
	w.OK("builds", "logs", "-f", b.ID)
	if w.JSON(&b, "builds", "get", b.ID); b.Status != "success" {
		t.Errorf("the build across the upgrade is %s, want success", b.Status)
	}
	checkSeqs(t, w, b.ID)
	if r := w.Run("sandbox", "create", "warm"); r.Code == 0 {
		t.Error("a snapshot of another sentry was started, want a refusal")
	}

	image, err := host.FlattenRootfs(t.Context(), lehr.SandboxID(id))
	if err != nil {
		t.Errorf("FlattenRootfs() of a sandbox of the earlier release = %v", err)
	}
	snapshot, err := host.CreateSnapshot(t.Context(), lehr.SandboxID(id))
	if err != nil || snapshot.EngineDigest != before.EngineDigest || snapshot.Guest != before.Guest {
		t.Errorf("CreateSnapshot() = %+v, %v, want it to name the sentry and guest daemon it was made with", snapshot, err)
	}
	for _, d := range []lehr.Digest{image.Digest, snapshot.Digest} {
		if err := host.RemoveArtifact(t.Context(), d); err != nil {
			t.Errorf("RemoveArtifact() = %v", err)
		}
	}
	if files := sentryFiles(t, w); len(files) != 2 {
		t.Errorf("sentry files while a sandbox runs on the old one = %q, want both", files)
	}
	w.OK("sandbox", "kill", id)
	if b := get(t, w, id); b.State != "killed" || reason(b) != "user" {
		t.Errorf("sandbox = %s (%s), want killed (user)", b.State, reason(b))
	}
	eventually(t, w, "the old sentry's file to go", func() bool { return len(sentryFiles(t, w)) == 1 })
	if got := w.OK("run", "minimal", "--", "echo", "new"); got != "new\n" {
		t.Errorf("a sandbox of the new release says %q", got)
	}
}

// TestReboot takes everything away that a reboot takes away, and keeps the data
// folder: the sandboxes are recorded as failed, everything works again, and what
// has the number of a process of before is left alone.
func TestReboot(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	w.WatchSlots()
	id, expiring := create(t, w, "minimal").ID, create(t, w, "minimal", "--ttl", "1h").ID
	mustBuild(t, w, "RUN echo kept > /kept", "-t", "kept")
	w.Kill9()
	for _, p := range w.Sentries() {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, w, "the sentries' end", func() bool { return len(w.Inventory().Sentries) == 0 })
	forgetKernelState(t, w)
	bystander := otherLife(t, w, id)
	w.Up()
	for _, box := range []string{id, expiring} {
		eventually(t, w, "the sandbox's end", func() bool { return get(t, w, box).State != "running" })
		if b := get(t, w, box); b.State != "failed" || reason(b) != "engine" {
			t.Errorf("sandbox after the reboot = %s (%s), want failed (engine)", b.State, reason(b))
		}
	}
	if err := bystander(); err != nil {
		t.Errorf("a process with the number of a sentry: %v", err)
	}
	if got := w.OK("run", "kept", "--", "cat", "/kept"); got != "kept\n" {
		t.Errorf("a template of before the reboot holds %q", got)
	}
	eventually(t, w, "an idle platform", func() bool {
		v := w.Inventory()
		return len(v.Slots) == pooled && len(v.Groups) == pooled && len(v.Devices) == pooled && len(v.Sentries) == pooled
	})
}

// forgetKernelState removes devices, rules and control groups of a world.
func forgetKernelState(t *testing.T, w *world.World) {
	t.Helper()
	v := w.Inventory()
	for _, name := range v.Devices {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil && !strings.Contains(err.Error(), "not found") {
			t.Fatalf("remove %s: %v", name, err)
		}
	}
	rules, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := rules.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if table.Name == w.NetworkTable() {
			rules.DelTable(table)
		}
	}
	if err := rules.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, slot := range v.Groups {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/lehr/" + slot)
		for _, dir := range append(dirs, filepath.Join("/sys/fs/cgroup/lehr", slot)) {
			if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
}

// otherLife writes the number of a process of ours into the record of a sandbox's
// sentry, with the start time that is there: the number was given to somebody
// else. The result says whether that process lives.
func otherLife(t *testing.T, w *world.World, id string) func() error {
	t.Helper()
	bystander := w.Bystander()
	path := w.SlotRecord(id)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), fmt.Sprintf(`"pid":%d`, w.Sentry(id).PID), fmt.Sprintf(`"pid":%d`, bystander), 1)
	if text == string(b) {
		t.Fatalf("the record names no pid: %s", b)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() error {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", bystander))
		if err != nil {
			return err
		}
		if strings.Contains(string(state), ") Z ") {
			return fmt.Errorf("it was killed")
		}
		return nil
	}
}

// TestWhileNobodyWatched ends sandboxes in every way while neither lehr up nor an
// agent is there, and damages what they are remembered by: the next start says of
// each what became of it, and what it cannot say anything of is gone.
func TestWhileNobodyWatched(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	w.WatchSlots()
	kept := create(t, w, "minimal").ID
	pid := writer(t, w, kept)
	killed := create(t, w, "minimal").ID
	expired := create(t, w, "minimal", "--ttl", "2s").ID
	halfRecord, noRecord, halfSlot, noDevice := create(t, w, "minimal").ID, create(t, w, "minimal").ID, create(t, w, "minimal").ID, create(t, w, "minimal").ID
	until := time.Now().Add(2 * time.Second)
	w.Kill9()
	eventually(t, w, "the agent's end", func() bool { return len(w.Agents()) == 0 })
	if err := w.Sentry(killed).Kill(); err != nil {
		t.Fatal(err)
	}
	cut(t, filepath.Join(w.Data(), "sandboxes", halfRecord+".json"))
	if err := os.Remove(filepath.Join(w.Data(), "sandboxes", noRecord+".json")); err != nil {
		t.Fatal(err)
	}
	cut(t, w.SlotRecord(halfSlot))
	dropDevice(t, w, noDevice)
	time.Sleep(time.Until(until)) // the time-to-live has to pass
	w.Up()
	eventually(t, w, "the ends to be recorded", func() bool {
		for _, id := range []string{killed, expired, halfRecord, noRecord, halfSlot} {
			if b := get(t, w, id); b.State == "running" {
				return false
			}
		}
		return true
	})
	for id, want := range map[string]string{
		killed: "failed (engine)", expired: "killed (ttl)", halfRecord: "failed (host_lost)",
		noRecord: "failed (host_lost)", halfSlot: "failed (engine)",
	} {
		if b := get(t, w, id); fmt.Sprintf("%s (%s)", b.State, reason(b)) != want {
			t.Errorf("sandbox = %s (%s), want %s", b.State, reason(b), want)
		}
	}
	checkNumbers(t, w, kept, pid)
	if got := w.OK("sandbox", "exec", noDevice, "--", "echo", "here"); got != "here\n" { // by way of its sentry
		t.Errorf("a sandbox without its network says %q", got)
	}
	w.OK("sandbox", "kill", noDevice)
	w.OK("sandbox", "kill", kept)
	eventually(t, w, "nothing to be left", func() bool {
		v := w.Inventory()
		return len(v.Slots) == pooled && len(v.Groups) == pooled && len(v.Devices) == pooled && len(v.Sentries) == pooled && len(v.Records) <= 5
	})
}

// cut halves a file.
func cut(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// dropDevice removes a sandbox's network device from the host.
func dropDevice(t *testing.T, w *world.World, id string) {
	t.Helper()
	link, err := netlink.LinkByName(w.Device(id))
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}
