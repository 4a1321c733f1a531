package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// MaxProcesses is how many processes a simulated sandbox can have.
const MaxProcesses = 512

// Program is the first process of a simulated sandbox. It runs until ctx ends;
// when it returns earlier, the sandbox has lost its first process. Goroutines
// that it starts go through Machine.Go.
type Program func(ctx context.Context, m *Machine) error

// Process is one entry of a machine's process table.
type Process struct {
	PID     int       `json:"pid"`
	Args    []string  `json:"args"`
	Started time.Time `json:"started"`
}

// Machine is the inside of one simulated sandbox. It is safe for concurrent use.
type Machine struct {
	Tree      *Tree
	Clock     clock.Clock
	Resources lehr.Resources
	Spec      engine.StartSpec
	Restored  bool // it came from a snapshot

	world *World
	slot  engine.SlotID
	ctx   context.Context //nolint:containedctx // the machine's life, ended by end
	stop  context.CancelFunc
	work  sync.WaitGroup // the program and what it started
	net   network

	mu       sync.Mutex
	hostname string
	memoryMB int
	values   map[string]string
	procs    map[int]Process
	killed   map[int]chan struct{} // closed when the process ends
	lastPID  int
	resumed  chan struct{} // closed while the machine runs, open while it is paused
	awake    time.Duration // until awakeAt
	awakeAt  time.Time     // zero while paused
	cpu      time.Duration
	exit     *engine.Exit
	done     chan struct{} // closed when exit is set
}

func newMachine(w *World, slot engine.SlotID, res lehr.Resources, spec engine.StartSpec, tree *Tree) *Machine {
	ctx, stop := context.WithCancel(context.Background())
	running := make(chan struct{})
	close(running)
	return &Machine{
		Tree: tree, Clock: w.clock, Resources: res, Spec: spec, Restored: spec.Snapshot != nil,
		world: w, slot: slot, ctx: ctx, stop: stop, hostname: spec.Hostname,
		values: map[string]string{}, procs: map[int]Process{}, killed: map[int]chan struct{}{}, lastPID: 1,
		resumed: running, awakeAt: w.clock.Now(), done: make(chan struct{}),
	}
}

// boot runs the first process.
func (m *Machine) boot(p Program) {
	m.work.Go(func() {
		err := p(m.ctx, m)
		detail := "the first process exited"
		if err != nil {
			detail += ": " + err.Error()
		}
		m.end(lehr.ReasonGuestLost, detail)
	})
}

// Go runs f as a part of the machine; f ends when ctx does.
func (m *Machine) Go(f func(ctx context.Context)) {
	m.work.Go(func() { f(m.ctx) })
}

// end ends the machine; the first reason stays.
func (m *Machine) end(reason lehr.SandboxReason, detail string) {
	m.mu.Lock()
	if m.exit != nil {
		m.mu.Unlock()
		return
	}
	m.exit = &engine.Exit{Reason: reason, Detail: detail, At: m.Clock.Now()}
	for _, c := range m.killed {
		close(c)
	}
	m.procs, m.killed = map[int]Process{}, map[int]chan struct{}{}
	close(m.done)
	m.mu.Unlock()
	m.stop()
	m.net.shut()
}

// Exit ends the first process.
func (m *Machine) Exit(detail string) { m.end(lehr.ReasonGuestLost, detail) }

// Slot names the machine.
func (m *Machine) Slot() engine.SlotID { return m.slot }

// Hostname returns the machine's name; SetHostname changes it.
func (m *Machine) Hostname() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hostname
}

// SetHostname changes the machine's name.
func (m *Machine) SetHostname(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hostname = name
}

// Value reads the machine's memory, which snapshots keep and reboots lose.
func (m *Machine) Value(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key]
}

// SetValue writes the machine's memory.
func (m *Machine) SetValue(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[key] = value
}

// Grow takes mb mebibytes of memory; beyond the limit the machine ends.
func (m *Machine) Grow(mb int) error {
	m.mu.Lock()
	m.memoryMB += mb
	over := m.memoryMB > int(m.Resources.MemoryMB)
	m.mu.Unlock()
	if over {
		m.end(lehr.ReasonOOM, fmt.Sprintf("more than %d MB", m.Resources.MemoryMB))
		return syscall.ENOMEM
	}
	return nil
}

// Spawn adds a process; EAGAIN when there are too many.
func (m *Machine) Spawn(args ...string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.procs) >= MaxProcesses {
		return 0, syscall.EAGAIN
	}
	m.lastPID++
	m.addLocked(Process{PID: m.lastPID, Args: slices.Clone(args), Started: m.Clock.Now()})
	return m.lastPID, nil
}

func (m *Machine) addLocked(p Process) {
	m.procs[p.PID] = p
	m.killed[p.PID] = make(chan struct{})
}

// Killed returns a channel that is closed when the process has ended; of one
// that does not exist it is closed.
func (m *Machine) Killed(pid int) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.killed[pid]; c != nil {
		return c
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

// Ended returns a channel that is closed when the machine has ended.
func (m *Machine) Ended() <-chan struct{} { return m.done }

// Kill ends a process; ESRCH when there is none. Pid 1 ends the machine.
func (m *Machine) Kill(pid int) error {
	if pid == 1 {
		m.Exit("the first process was killed")
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.procs[pid]; !ok {
		return syscall.ESRCH
	}
	delete(m.procs, pid)
	close(m.killed[pid])
	delete(m.killed, pid)
	return nil
}

// Processes returns the process table but for the first process, by pid.
func (m *Machine) Processes() []Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.procs), func(a, b Process) int { return a.PID - b.PID })
}

// Gate waits while the machine is paused; it returns an error when ctx or the
// machine ends.
func (m *Machine) Gate(ctx context.Context) error {
	for {
		m.mu.Lock()
		resumed := m.resumed
		m.mu.Unlock()
		select {
		case <-m.ctx.Done():
			return m.ctx.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-resumed:
		}
		m.mu.Lock()
		same := resumed == m.resumed
		m.mu.Unlock()
		if same {
			return nil
		}
	}
}

// Awake returns how long the machine has run, pauses left out; a restored one
// goes on from its snapshot.
func (m *Machine) Awake() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.awakeLocked()
}

func (m *Machine) awakeLocked() time.Duration {
	if m.awakeAt.IsZero() {
		return m.awake
	}
	return m.awake + m.Clock.Now().Sub(m.awakeAt)
}

// Burn keeps threads busy for d and returns the CPU time charged, which the
// quota bounds.
func (m *Machine) Burn(ctx context.Context, threads int, d time.Duration) (time.Duration, error) {
	if err := m.Clock.Sleep(ctx, d); err != nil {
		return 0, err
	}
	charged := d * time.Duration(min(threads, int(m.Resources.VCPUs)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cpu += charged
	return charged, nil
}

// CPU returns the CPU time charged so far.
func (m *Machine) CPU() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cpu
}

// pause freezes the machine, resume lets it go on; both report false when it
// has ended.
func (m *Machine) pause() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.exit != nil {
		return false
	}
	if !m.awakeAt.IsZero() {
		m.awake, m.awakeAt = m.awakeLocked(), time.Time{}
		m.resumed = make(chan struct{})
	}
	return true
}

func (m *Machine) resume() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.exit != nil {
		return false
	}
	if m.awakeAt.IsZero() {
		m.awakeAt = m.Clock.Now()
		close(m.resumed)
	}
	return true
}

// state returns where the machine stands.
func (m *Machine) state() (engine.State, *engine.Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.exit != nil:
		exit := *m.exit
		return engine.StateEnded, &exit
	case m.awakeAt.IsZero():
		return engine.StatePaused, nil
	}
	return engine.StateRunning, nil
}
