package fake

import (
	"context"
	"io"
	"net"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Sandbox is a handle of one slot.
type Sandbox struct {
	engine *Engine
	id     engine.SlotID
}

var _ engine.Sandbox = (*Sandbox)(nil)

// machine returns the inside of the sandbox.
func (s *Sandbox) machine() (*Machine, error) {
	m := s.engine.world.Machine(s.id)
	if m == nil {
		return nil, gone(s.id)
	}
	return m, nil
}

// live returns the inside of a sandbox that has not ended.
func (s *Sandbox) live() (*Machine, error) {
	m, err := s.machine()
	if err != nil {
		return nil, err
	}
	if _, exit := m.state(); exit != nil {
		return nil, ended(*exit)
	}
	return m, nil
}

func ended(exit engine.Exit) error {
	return errs.New(errs.Conflict, "the sandbox has ended (%s)", exit.Reason).WithCode("sandbox_ended")
}

// do runs a call on the live machine, through the faults.
func (s *Sandbox) do(ctx context.Context, op Op, f func(m *Machine) error) error {
	m, err := s.live()
	if err == nil {
		err = s.engine.world.Do(ctx, op, s.id, func() error { return f(m) })
	}
	return s.engine.traced(op, s.id, err)
}

// Status returns the present state.
func (s *Sandbox) Status(context.Context) (engine.Status, error) {
	sl := s.engine.world.slot(s.id)
	if sl == nil {
		return engine.Status{}, gone(s.id)
	}
	return sl.status(), nil
}

// Wait returns when the sandbox has ended.
func (s *Sandbox) Wait(ctx context.Context) (engine.Exit, error) {
	m, err := s.machine()
	if err != nil {
		return engine.Exit{}, err
	}
	select {
	case <-m.done:
		_, exit := m.state()
		return *exit, nil
	case <-ctx.Done():
		return engine.Exit{}, context.Cause(ctx)
	}
}

// Stop ends every process.
func (s *Sandbox) Stop(ctx context.Context) error {
	m, err := s.machine()
	if err == nil {
		err = s.engine.world.Do(ctx, OpStop, s.id, func() error {
			m.end(lehr.ReasonUser, "stopped")
			m.work.Wait()
			return nil
		})
	}
	return s.engine.traced(OpStop, s.id, err)
}

// Pause freezes the sandbox.
func (s *Sandbox) Pause(ctx context.Context) error {
	return s.do(ctx, OpPause, func(m *Machine) error {
		if !m.pause() {
			return ended(engine.Exit{})
		}
		return nil
	})
}

// Resume lets the sandbox go on.
func (s *Sandbox) Resume(ctx context.Context) error {
	return s.do(ctx, OpResume, func(m *Machine) error {
		if !m.resume() {
			return ended(engine.Exit{})
		}
		return nil
	})
}

// Snapshot writes memory and files into dir.
func (s *Sandbox) Snapshot(ctx context.Context, dir string) (engine.SnapshotInfo, error) {
	var info engine.SnapshotInfo
	err := s.do(ctx, OpSnapshot, func(m *Machine) error {
		size, err := m.snapshot(dir)
		if err != nil {
			return err
		}
		own := s.engine.Info()
		info = engine.SnapshotInfo{
			Engine: own.Digest, CPUFeatures: own.CPUFeatures,
			Image: m.Spec.Image.Digest, Resources: m.Resources, Bytes: size,
		}
		return nil
	})
	return info, err
}

// WritableLayer writes the changes since the image.
func (s *Sandbox) WritableLayer(ctx context.Context, w io.Writer) error {
	return s.do(ctx, OpLayer, func(m *Machine) error { return m.Tree.save(w) })
}

// Dial connects to a port.
func (s *Sandbox) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	var conn net.Conn
	err := s.do(ctx, OpDial, func(m *Machine) error {
		var err error
		if conn, err = m.net.dial(ctx, port); err != nil {
			return errs.Wrap(err, errs.Unavailable, "fake.Dial", "the port does not answer")
		}
		return nil
	})
	return conn, err
}
