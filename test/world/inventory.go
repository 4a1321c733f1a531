package world

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Inventory is everything of a world that is on its machine, by name.
type Inventory struct {
	Slots     []string // folders of the engine
	Sentries  []string // slots with a process
	Groups    []string // slots with a control group
	Devices   []string // host ends of networks
	Records   []string // of sandboxes, and what lies beside them
	Images    []string // digests in hex
	Snapshots []string // digests in hex
	Leftovers []string // files that are only there while something is written
}

// slotWatch remembers every slot that a world ever had, because control groups
// of several worlds lie in one folder.
type slotWatch struct {
	mu   sync.Mutex
	seen map[string]bool
}

// WatchSlots begins to remember the slots of this world, until the test ends; an
// Inventory has control groups of these only.
func (w *World) WatchSlots() {
	w.slots = &slotWatch{seen: map[string]bool{}}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			w.slots.add(names(filepath.Join(w.Data(), "engine", "slots", "*")))
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	w.t.Cleanup(func() { close(stop); <-done })
}

func (s *slotWatch) add(slots []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range slots {
		s.seen[slot] = true
	}
}

func (s *slotWatch) has(slot string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[slot]
}

// Inventory looks at the machine.
func (w *World) Inventory() Inventory {
	data := w.Data()
	v := Inventory{
		Slots:     names(filepath.Join(data, "engine", "slots", "*")),
		Sentries:  w.sentrySlots(),
		Devices:   names("/sys/class/net/" + w.devicePrefix() + "*"),
		Records:   names(filepath.Join(data, "sandboxes", "*")),
		Images:    names(filepath.Join(data, "images", "sha256", "*")),
		Snapshots: names(filepath.Join(data, "snapshots", "sha256", "*")),
	}
	for i, name := range v.Images {
		v.Images[i] = strings.TrimSuffix(name, ".erofs")
	}
	for _, pattern := range []string{"images/tmp/*", "snapshots/tmp-*", "engine/slots/*/*.next", "bin/*/.new-*"} {
		v.Leftovers = append(v.Leftovers, names(filepath.Join(data, pattern))...)
	}
	if w.slots != nil {
		w.slots.add(v.Slots)
		groups := map[string]bool{}
		for _, pattern := range []string{"/sys/fs/cgroup/*/lehr/*", "/sys/fs/cgroup/lehr/*"} {
			for _, name := range names(pattern) {
				if w.slots.has(name) {
					groups[name] = true
				}
			}
		}
		v.Groups = slices.Sorted(maps.Keys(groups))
	}
	return v
}

func names(pattern string) []string {
	paths, _ := filepath.Glob(pattern) // the pattern is well-formed
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	slices.Sort(paths)
	return paths
}

// sentrySlots lists the slots that have a process: a sentry's last argument is
// its slot.
func (w *World) sentrySlots() []string {
	slots := map[string]bool{}
	for _, p := range w.matching("lehr-sentry\x00") {
		args := strings.Fields(p.Cmdline)
		slots[args[len(args)-1]] = true
	}
	return slices.Sorted(maps.Keys(slots))
}

// Sentries lists the sentry processes of this world, those of the pool included.
func (w *World) Sentries() []Process { return w.matching("lehr-sentry\x00") }

// SlotRecord is the engine's record of a sandbox's slot.
func (w *World) SlotRecord(sandbox string) string {
	w.t.Helper()
	records, _ := filepath.Glob(filepath.Join(w.Data(), "engine", "slots", "*", "slot.json")) // the pattern is well-formed
	for _, path := range records {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), sandbox) {
			return path
		}
	}
	w.t.Fatalf("no slot of the engine holds sandbox %s", sandbox)
	return ""
}

// Device is the host's network device of a sandbox.
func (w *World) Device(sandbox string) string {
	w.t.Helper()
	slot := filepath.Base(filepath.Dir(w.SlotRecord(sandbox)))
	sum := sha256.Sum256([]byte("lehr lease " + slot))
	return w.devicePrefix() + hashAlphabet().EncodeToString(sum[:])[:8]
}

// NetworkTable is the table of this world's network rules.
func (w *World) NetworkTable() string { return "lehr_" + w.instance() }

// Bystander starts a process that has nothing to do with the world and returns
// its number; it ends with the test.
func (w *World) Bystander() int {
	w.t.Helper()
	cmd := exec.Command("sleep", "100000")
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// instance names this world's part of the machine's network, as the agent does.
func (w *World) instance() string {
	sum := sha256.Sum256([]byte(w.Data()))
	return hex.EncodeToString(sum[:6])
}

func hashAlphabet() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// devicePrefix begins the names of this world's network devices, as hostnet
// makes them.
func (w *World) devicePrefix() string {
	sum := sha256.Sum256([]byte("lehr network " + w.instance()))
	return "lh" + hashAlphabet().EncodeToString(sum[:])[:5]
}

// AwaitEnd waits until lehr up has ended by itself, as a failpoint makes it.
func (w *World) AwaitEnd() {
	w.t.Helper()
	select {
	case <-w.ended:
		w.up = nil
	case <-time.After(startLimit):
		w.t.Fatalf("lehr up has not ended\n%s", w.Log())
	}
}

// Ended reports whether lehr up has ended by itself; Up starts it again then.
func (w *World) Ended() bool {
	if w.up == nil {
		return true
	}
	select {
	case <-w.ended:
		w.up = nil
		return true
	default:
		return false
	}
}

// UpMayDie starts lehr up on the same folder and does not wait for it.
func (w *World) UpMayDie() {
	w.t.Helper()
	w.begin()
}

// UpWith starts another program on the same data folder, as an upgrade does.
func (w *World) UpWith(program string) {
	w.t.Helper()
	w.lehr = program
	w.Up()
}
