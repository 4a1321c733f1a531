package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/test/world"
)

// cycles returns how many sandboxes and builds TestLeak makes: 1,000 and 200
// with LEHR_LEAK=full.
func cycles() (boxes, builds int) {
	if os.Getenv("LEHR_LEAK") == "full" {
		return 1000, 200
	}
	return 100, 20
}

// holdings is what a platform holds of its machine. What a cache may keep is not
// in it.
type holdings struct {
	inventory  string // slots, groups, devices, records and leftovers, counted
	images     int    // which garbage collection takes away some time later
	processes  int
	mounts     int
	namespaces int // of the network, in use by the world's processes
	devices    int // of the machine
	control    descriptors
	agent      descriptors
	goroutines int // of lehr up
}

// descriptors is what one process has open.
type descriptors struct{ files, sockets, others int }

// TestLeak makes and ends sandboxes and builds and wants the machine to be as
// before. The first few of each have run when it begins to count, so that
// connections and caches are there.
func TestLeak(t *testing.T) {
	w := world.Start(t)
	w.WatchSlots()
	boxes, builds := cycles()
	cycle := func(boxes, builds int) {
		makeBoxes(t, w, boxes)
		makeBuilds(t, w, builds)
	}
	cycle(10, 4)
	before, memory := settled(t, w, holdings{}), memories(t, w)
	cycle(boxes, builds)
	after := settled(t, w, before)
	t.Logf("after %d sandboxes and %d builds: %+v\nbefore: %+v", boxes, builds, after, before)
	t.Logf("memory after: %s; before: %s", memories(t, w), memory)
	if excess := after.above(before); excess != "" {
		t.Errorf("after %d sandboxes and %d builds more is held than before: %s\nbefore %+v\nafter  %+v", boxes, builds, excess, before, after)
	}
	// The count sees what is there.
	var b box
	w.JSON(&b, "sandbox", "create", "minimal")
	if seen := look(t, w); seen.above(before) == "" {
		t.Errorf("a sandbox that runs is not seen: %+v, without it %+v", seen, before)
	}
	w.OK("sandbox", "kill", b.ID)
}

// above names what h has more of than before, beyond what comes and goes: a few
// kept connections and timers.
func (h holdings) above(before holdings) string {
	const some = 8
	var more []string
	add := func(what string, now, then, slack int) {
		if now > then+slack {
			more = append(more, fmt.Sprintf("%s %d, before %d", what, now, then))
		}
	}
	if h.inventory != before.inventory {
		more = append(more, "inventory "+h.inventory+", before "+before.inventory)
	}
	add("images", h.images, before.images, some)
	add("processes", h.processes, before.processes, 0)
	add("mounts", h.mounts, before.mounts, 0)
	add("network namespaces", h.namespaces, before.namespaces, 0)
	add("files open in lehr up", h.control.files, before.control.files, some)
	add("sockets of lehr up", h.control.sockets, before.control.sockets, some)
	add("others open in lehr up", h.control.others, before.control.others, some)
	add("files open in the agent", h.agent.files, before.agent.files, some)
	add("sockets of the agent", h.agent.sockets, before.agent.sockets, some)
	add("others open in the agent", h.agent.others, before.agent.others, some)
	add("goroutines of lehr up", h.goroutines, before.goroutines, 2*some)
	return strings.Join(more, "; ")
}

// settled looks again until the holdings are those wanted, or do not change any
// more: slots are refilled and removed in the background.
func settled(t *testing.T, w *world.World, wanted holdings) holdings {
	t.Helper()
	const looks, apart, same = 300, 200 * time.Millisecond, 25
	last, unchanged := holdings{}, 0
	for range looks {
		h := look(t, w)
		if wanted.inventory != "" && h.above(wanted) == "" {
			return h
		}
		if h.inventory == last.inventory && h.processes == last.processes {
			unchanged++
		} else {
			unchanged = 0
		}
		if wanted.inventory == "" && unchanged >= same {
			return h
		}
		last = h
		select {
		case <-time.After(apart):
		case <-t.Context().Done():
			t.Fatal("the holdings do not settle")
		}
	}
	return last
}

func look(t *testing.T, w *world.World) holdings {
	t.Helper()
	i := w.Inventory()
	h := holdings{
		inventory: fmt.Sprintf("slots %d, sentries %d, groups %d, devices %d, records %d, snapshots %d, leftovers %d",
			len(i.Slots), len(i.Sentries), len(i.Groups), len(i.Devices), len(i.Records), len(i.Snapshots), len(i.Leftovers)),
		images:    len(i.Images),
		processes: len(w.Processes()), control: opened(w.PID()),
	}
	for _, a := range w.Agents() {
		d := opened(a.PID)
		h.agent.files, h.agent.sockets, h.agent.others = h.agent.files+d.files, h.agent.sockets+d.sockets, h.agent.others+d.others
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", w.PID()))
	if err != nil {
		t.Fatal(err)
	}
	h.mounts = strings.Count(string(mounts), filepath.Dir(w.Data()))
	namespaces := map[string]bool{}
	for _, p := range w.Processes() {
		if ns, err := os.Readlink(filepath.Join(filepath.Dir(strings.Fields(p)[0]), "ns", "net")); err == nil {
			namespaces[ns] = true
		}
	}
	h.namespaces = len(namespaces)
	if all, err := net.Interfaces(); err == nil {
		h.devices = len(all)
	}
	h.goroutines = metric(t, w, "go_goroutines")
	return h
}

// opened counts the descriptors of a process by kind.
func opened(pid int) (d descriptors) {
	list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well-formed
	for _, fd := range list {
		name, err := os.Readlink(fd)
		switch {
		case err != nil:
		case strings.HasPrefix(name, "socket:"):
			d.sockets++
		case strings.HasPrefix(name, "/"):
			d.files++
		default:
			d.others++
		}
	}
	return d
}

// metric reads one number of /metrics.
func metric(t *testing.T, w *world.World, name string) int {
	t.Helper()
	_, text := call(t, w, "GET /metrics", "")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}

func memories(t *testing.T, w *world.World) string {
	t.Helper()
	control, controlPeak := memoryOf(t, w.PID())
	text := fmt.Sprintf("lehr up %d MB (peak %d)", control>>20, controlPeak>>20)
	for _, a := range w.Agents() {
		now, peak := memoryOf(t, a.PID)
		text += fmt.Sprintf(", agent %d MB (peak %d)", now>>20, peak>>20)
	}
	return text
}

// makeBoxes makes sandboxes, four at a time, uses them and kills them; every
// fifth ends by itself and every seventh is cut off while it is made.
func makeBoxes(t *testing.T, w *world.World, n int) {
	t.Helper()
	work := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range work {
				oneBox(t, w, i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	all.Wait()
}

func oneBox(t *testing.T, w *world.World, i int) {
	if i%7 == 6 {
		cmd := w.Command("run", "minimal", "--", "sleep", "100000")
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		time.Sleep(time.Duration(i%5) * 20 * time.Millisecond) // another moment each time
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // its exit code is that of an interrupt
		return
	}
	status, body := call(t, w, "POST /v1/sandboxes", `{"template":"minimal","memory_mb":256}`)
	var b box
	if err := json.Unmarshal([]byte(body), &b); err != nil || status != 201 {
		t.Errorf("create = %d %s", status, body)
		return
	}
	command := `{"cmd":["sh","-c","echo x > /file; sleep 0"]}`
	if i%5 == 4 {
		command = `{"cmd":["sh","-c","kill -9 1; sleep 5"]}`
	}
	call(t, w, "POST /v1/sandboxes/"+b.ID+"/exec", command)
	if status, body := call(t, w, "DELETE /v1/sandboxes/"+b.ID, ""); status != 200 {
		t.Errorf("kill = %d %s", status, body)
	}
}

// makeBuilds builds the same thing again and again, so that the artifacts are
// the same; a third of the builds fails and a third is cancelled.
func makeBuilds(t *testing.T, w *world.World, n int) {
	t.Helper()
	for i := range n {
		recipe := []string{
			"RUN echo same > /same && touch -d @0 /same /",
			"RUN echo broken; exit 3",
			"RUN echo begun; sleep 1000",
		}[i%3]
		body, err := json.Marshal(map[string]any{"name": "leak", "recipe": []string{recipe}, "base_template": "minimal", "skip_pre_post": true})
		if err != nil {
			t.Fatal(err)
		}
		status, answer := call(t, w, "POST /v1/builds", string(body))
		var b built
		if err := json.Unmarshal([]byte(answer), &b); err != nil || status != 201 {
			t.Fatalf("build = %d %s", status, answer)
		}
		if i%3 == 2 {
			if i%2 == 0 {
				awaitLine(t, w, b.ID, "begun")
			}
			call(t, w, "POST /v1/builds/"+b.ID+"/cancel", "")
		}
		call(t, w, "GET /v1/builds/"+b.ID+"/logs?follow=true", "") // until everything is clean
	}
}
