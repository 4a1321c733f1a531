package hosttest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// OverAgent is an engine made of an agent, so that the engine suite runs against
// a host and behind its RPC. Slots are sandboxes; what the agent law does not
// have (labels, Stop, the raw writable layer) is Unsupported.
type OverAgent struct {
	Agent agent.Agent
	Boot  []string // run in every booted sandbox, to start the probe; may be nil
	Probe []string // command that answers a verb given as its arguments, in probewire

	mu    sync.Mutex
	slots map[engine.SlotID]*agentSlot
}

// agentSlot is a slot that Prepare promised.
type agentSlot struct {
	spec engine.PrepareSpec
	used bool
}

var _ engine.Engine = (*OverAgent)(nil)

// OverAgentSubtests are the engine suite's subtests that an agent can pass.
func OverAgentSubtests() []string {
	return []string{
		"lifecycle/info is complete and stable",
		"lifecycle/start refuses",
		"lifecycle/wait ends with its context",
		"exec/the guest mount is read-only",
		"exec/dial of a closed port fails, and the sandbox lives",
		"exec/processes of processes",
		"exec/files are the sandbox's own",
		"limits/memory beyond the limit ends it as oom",
		"limits/memory within the limit is there",
		"limits/too many processes fail or end it as pids",
		"limits/a full disk is ENOSPC and the sandbox lives",
		"limits/the disk is larger than the memory",
		"limits/cpu time is throttled to the quota",
		"pause/the counter stands still and goes on",
		"snapshot/the original goes on and two clones have its memory",
		"snapshot/files written before the snapshot are in the clone",
		"snapshot/a clone can be snapshotted again",
		"race/start races with destroy",
		"race/destroy races with destroy",
		"race/a cancelled start leaves a slot to destroy",
	}
}

func sandboxID(slot engine.SlotID) lehr.SandboxID { return lehr.SandboxID("sb" + string(slot)) }

func slotID(id lehr.SandboxID) engine.SlotID {
	return engine.SlotID(strings.TrimPrefix(string(id), "sb"))
}

// Info describes the host's engine.
func (e *OverAgent) Info() engine.Info {
	info, err := e.Agent.Info(context.Background())
	if err != nil {
		return engine.Info{}
	}
	return engine.Info{
		Name: info.Engine, Version: info.Guest, Digest: info.EngineDigest,
		CPUFeatures: info.CPUFeatures, Platform: info.Platform,
	}
}

// Prepare promises a slot; the host is asked at Start.
func (e *OverAgent) Prepare(ctx context.Context, spec engine.PrepareSpec) (engine.SlotID, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.slots == nil {
		e.slots = map[engine.SlotID]*agentSlot{}
	}
	slot := slotID(lehr.NewSandboxID())
	e.slots[slot] = &agentSlot{spec: spec}
	return slot, nil
}

// take uses a slot up.
func (e *OverAgent) take(slot engine.SlotID, restore bool) (engine.PrepareSpec, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.slots[slot]
	switch {
	case s == nil:
		return engine.PrepareSpec{}, errs.New(errs.NotFound, "slot %s does not exist", slot)
	case s.used:
		return engine.PrepareSpec{}, errs.New(errs.Conflict, "slot %s was used already", slot)
	case restore != (s.spec.Kind == engine.KindRestore):
		return engine.PrepareSpec{}, errs.New(errs.Conflict, "slot %s was prepared to %s", slot, s.spec.Kind)
	}
	s.used = true
	return s.spec, nil
}

// Start creates the sandbox and starts the probe in it.
func (e *OverAgent) Start(ctx context.Context, slot engine.SlotID, spec engine.StartSpec) error {
	prepared, err := e.take(slot, spec.Snapshot != nil)
	if err != nil {
		return err
	}
	r := agent.CreateSandbox{
		ID: sandboxID(slot), TeamID: lehr.PlatformTeam, Image: spec.Image.Digest, Resources: prepared.Resources,
	}
	if spec.Snapshot != nil {
		b, err := os.ReadFile(filepath.Join(spec.Snapshot.Dir, digestFile))
		if err != nil {
			return errs.Wrap(err, errs.Corrupt, "hosttest.Start", "the snapshot names nothing")
		}
		r.Snapshot = lehr.Digest(b)
	}
	if _, err := e.Agent.CreateSandbox(ctx, r); err != nil {
		return err
	}
	if spec.Snapshot != nil || e.Boot == nil {
		return nil
	}
	exit, err := e.Agent.Exec(ctx, agent.Exec{SandboxID: r.ID, Args: e.Boot, Linger: true}, func(lehr.LogStream, []byte) error { return nil })
	if err == nil && exit.Code != 0 {
		err = errs.New(errs.Internal, "the probe was not started: exit status %d", exit.Code)
	}
	return err
}

// digestFile holds the digest of a snapshot that the host keeps.
const digestFile = "digest"

// List returns promised slots and the host's sandboxes.
func (e *OverAgent) List(ctx context.Context) ([]engine.Status, error) {
	live, err := e.Agent.ListSandboxes(ctx)
	if err != nil {
		return nil, err
	}
	var all []engine.Status
	known := map[engine.SlotID]bool{}
	for _, s := range live {
		known[slotID(s.ID)] = true
		all = append(all, statusOf(s))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for slot, s := range e.slots {
		if !known[slot] && !s.used {
			all = append(all, engine.Status{Slot: slot, State: engine.StatePrepared, Resources: s.spec.Resources, Labels: s.spec.Labels})
		}
	}
	return all, nil
}

func statusOf(s agent.Sandbox) engine.Status {
	st := engine.Status{Slot: slotID(s.ID), State: engine.StateRunning, Resources: s.Resources}
	switch {
	case !s.State.Live():
		st.State, st.Exit = engine.StateEnded, &engine.Exit{Reason: s.Reason}
	case s.State == lehr.SandboxCreating:
		st.State = engine.StateStarting
	case s.State == lehr.SandboxPaused:
		st.State = engine.StatePaused
	}
	return st
}

// Sandbox returns a handle.
func (e *OverAgent) Sandbox(slot engine.SlotID) engine.Sandbox {
	return agentSandbox{agent: e.Agent, id: sandboxID(slot)}
}

// Destroy destroys the sandbox and forgets the slot.
func (e *OverAgent) Destroy(ctx context.Context, slot engine.SlotID) error {
	e.mu.Lock()
	delete(e.slots, slot)
	e.mu.Unlock()
	return e.Agent.DestroySandbox(ctx, sandboxID(slot))
}

// Close does nothing: the agent is the test's.
func (e *OverAgent) Close() error { return nil }

// Run runs one verb of the probe as a command of the sandbox.
func (e *OverAgent) Run(ctx context.Context, sb engine.Sandbox, verb string, args ...string) (string, error) {
	handle, ok := sb.(agentSandbox)
	if !ok {
		return "", fmt.Errorf("a handle of another engine: %T", sb)
	}
	var out, complaint strings.Builder
	argv := append(append([]string{}, e.Probe...), verb)
	exit, err := e.Agent.Exec(ctx, agent.Exec{SandboxID: handle.id, Args: append(argv, args...)}, func(s lehr.LogStream, b []byte) error {
		if s == lehr.StreamStderr {
			complaint.Write(b)
			return nil
		}
		out.Write(b)
		return nil
	})
	if err != nil {
		return "", err
	}
	if exit.Code != 0 {
		return "", fmt.Errorf("the probe's exit status is %d: %s", exit.Code, complaint.String())
	}
	var reply probewire.Reply
	if err := probewire.Read(strings.NewReader(out.String()), &reply); err != nil {
		return "", fmt.Errorf("the probe says %q: %w", out.String(), err)
	}
	if reply.Err != "" {
		return reply.Out, &enginetest.ProbeError{Text: reply.Err}
	}
	return reply.Out, nil
}

// agentSandbox is a handle of one sandbox.
type agentSandbox struct {
	agent agent.Agent
	id    lehr.SandboxID
}

// Status returns the present state.
func (s agentSandbox) Status(ctx context.Context) (engine.Status, error) {
	got, err := s.agent.GetSandbox(ctx, s.id)
	if err != nil {
		return engine.Status{}, err
	}
	return statusOf(got), nil
}

// Wait asks again and again: a watch that begins after the end of a sandbox
// that is destroyed says nothing.
func (s agentSandbox) Wait(ctx context.Context) (engine.Exit, error) {
	for {
		st, err := s.Status(ctx)
		if err != nil {
			return engine.Exit{}, err
		}
		if st.Exit != nil {
			return engine.Exit{Reason: st.Exit.Reason, At: time.Now()}, nil
		}
		if err := clock.Real().Sleep(ctx, 5*time.Millisecond); err != nil {
			return engine.Exit{}, err
		}
	}
}

// Pause freezes the sandbox.
func (s agentSandbox) Pause(ctx context.Context) error { return s.agent.PauseSandbox(ctx, s.id) }

// Resume lets it go on.
func (s agentSandbox) Resume(ctx context.Context) error { return s.agent.ResumeSandbox(ctx, s.id) }

// Snapshot lets the host keep a snapshot and writes its name into dir.
func (s agentSandbox) Snapshot(ctx context.Context, dir string) (engine.SnapshotInfo, error) {
	got, err := s.agent.GetSandbox(ctx, s.id)
	if err != nil {
		return engine.SnapshotInfo{}, err
	}
	snap, err := s.agent.CreateSnapshot(ctx, s.id)
	if err != nil {
		return engine.SnapshotInfo{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, digestFile), []byte(snap.Digest), 0o600); err != nil {
		return engine.SnapshotInfo{}, err
	}
	return engine.SnapshotInfo{
		Engine: snap.EngineDigest, CPUFeatures: snap.CPUFeatures, Image: snap.Image,
		Resources: got.Resources, Bytes: int64(len(snap.Digest)),
	}, nil
}

func noSuchCall(name string) error {
	return errs.New(errs.Unsupported, "the agent law has no %s", name)
}

// Stop is not in the agent law.
func (s agentSandbox) Stop(context.Context) error { return noSuchCall("Stop") }

// WritableLayer is not in the agent law.
func (s agentSandbox) WritableLayer(context.Context, io.Writer) error {
	return noSuchCall("WritableLayer")
}

// Dial connects to a port.
func (s agentSandbox) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	return s.agent.Dial(ctx, s.id, port)
}
