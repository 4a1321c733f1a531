package hosttest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Guest stands for the guest daemon of a simulated sandbox. Its state is in the
// machine's memory, so snapshots keep it and any number of clients agree.
type Guest struct {
	world *fake.World
	slot  engine.SlotID
}

var _ host.Guest = (*Guest)(nil)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	identityKey = "guest.identity" // in the machine's memory
)

// machine returns the inside of the sandbox once it is not paused.
func (g *Guest) machine(ctx context.Context) (*fake.Machine, error) {
	m := g.world.Machine(g.slot)
	if m == nil || m.Gate(ctx) != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, errs.New(errs.Unavailable, "the guest daemon does not answer")
	}
	return m, nil
}

// Health answers at once: the simulated daemon runs when the machine does.
func (g *Guest) Health(ctx context.Context) (string, error) {
	_, err := g.machine(ctx)
	return "hosttest", err
}

// Close does nothing: there are no connections.
func (g *Guest) Close() error { return nil }

// Init records whom the daemon serves.
func (g *Guest) Init(ctx context.Context, id host.Identity) error {
	m, err := g.machine(ctx)
	if err != nil {
		return err
	}
	b, err := json.Marshal(id)
	if err != nil {
		return errs.Wrap(err, errs.Internal, "hosttest.Init", "the identity cannot be encoded")
	}
	m.SetValue(identityKey, string(b))
	m.SetHostname(id.Hostname)
	return nil
}

func identityOf(m *fake.Machine) (host.Identity, error) {
	var id host.Identity
	if err := json.Unmarshal([]byte(m.Value(identityKey)), &id); err != nil {
		return id, errs.New(errs.Unavailable, "the guest daemon serves nobody yet")
	}
	return id, nil
}

// Quiesce ends every process.
func (g *Guest) Quiesce(ctx context.Context) error {
	m, err := g.machine(ctx)
	if err != nil {
		return err
	}
	for _, p := range m.Processes() {
		_ = m.Kill(p.PID) // it can only be gone already
	}
	return nil
}

// Environment returns the default environment, completed by PATH and HOME.
func (g *Guest) Environment(ctx context.Context, _ lehr.SandboxID) ([]lehr.EnvVar, error) {
	m, err := g.machine(ctx)
	if err != nil {
		return nil, err
	}
	id, err := identityOf(m)
	if err != nil {
		return nil, err
	}
	u, err := findUser(m, id.User)
	if err != nil {
		return nil, err
	}
	return complete(id.Env, u), nil
}

// complete adds PATH and HOME where they are missing.
func complete(env []lehr.EnvVar, u user) []lehr.EnvVar {
	env = slices.Clone(env)
	for _, v := range []lehr.EnvVar{{Name: "PATH", Value: defaultPath}, {Name: "HOME", Value: u.home}} {
		if !slices.ContainsFunc(env, func(e lehr.EnvVar) bool { return e.Name == v.Name }) {
			env = append(env, v)
		}
	}
	return env
}

// user is an account of the sandbox.
type user struct {
	name     string
	uid, gid int
	home     string
}

// findUser looks a user up in /etc/passwd; a number needs no entry.
func findUser(m *fake.Machine, name string) (user, error) {
	name = cmp.Or(name, "root")
	passwd, err := m.Tree.Read("/etc/passwd")
	if err != nil && name == "root" {
		return user{name: "root", home: "/"}, nil
	}
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 6 || (f[0] != name && f[2] != name) {
			continue
		}
		uid, _ := strconv.Atoi(f[2])
		gid, _ := strconv.Atoi(f[3])
		return user{name: f[0], uid: uid, gid: gid, home: f[5]}, nil
	}
	if uid, err := strconv.Atoi(name); err == nil {
		return user{name: name, uid: uid, gid: uid, home: "/"}, nil
	}
	return user{}, errs.New(errs.Invalid, "there is no user %q", name).WithCode("user_unknown")
}

// place is who works where.
type place struct {
	m   *fake.Machine
	id  host.Identity
	u   user
	dir string
}

// locate resolves user and directory of a request.
func (g *Guest) locate(ctx context.Context, userName, dir string) (place, error) {
	m, err := g.machine(ctx)
	if err != nil {
		return place{}, err
	}
	id, err := identityOf(m)
	if err != nil {
		return place{}, err
	}
	u, err := findUser(m, cmp.Or(userName, id.User))
	if err != nil {
		return place{}, err
	}
	base := cmp.Or(id.Workdir, u.home)
	if dir != "" && !path.IsAbs(dir) {
		dir = path.Join(base, dir)
	}
	return place{m: m, id: id, u: u, dir: cmp.Or(dir, base)}, nil
}

// Exec runs one command of the tiny shell; see Shell.
func (g *Guest) Exec(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	var exit agent.Exit
	err := g.world.Do(ctx, fake.OpExec, g.slot, func() error {
		at, err := g.locate(ctx, r.User, r.Workdir)
		if err != nil {
			return err
		}
		if st, err := at.m.Tree.Stat(at.dir); err != nil || st.Type != fake.TypeDir {
			return errs.New(errs.Invalid, "there is no directory %q", at.dir).WithCode("workdir_missing")
		}
		exit, err = run(ctx, at, r, out)
		return err
	})
	return exit, err
}

// run runs the command as a process of the machine until it ends, is killed,
// or its time is over.
func run(ctx context.Context, at place, r agent.Exec, out agent.Output) (agent.Exit, error) {
	env := r.Env
	if !r.CleanEnv {
		env = append(complete(at.id.Env, at.u), r.Env...)
	}
	sh := newShell(at, env, r.Stdin, out)
	if err := sh.find(r.Args[0]); err != nil {
		return agent.Exit{}, err
	}
	pid, err := at.m.Spawn(r.Args...)
	if err != nil {
		return agent.Exit{}, errs.New(errs.Exhausted, "the command could not be started: %w", err)
	}
	end := &ending{}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	at.m.Go(func(context.Context) { end.watch(life, cancel, at.m, pid, r) })
	if !r.Linger {
		defer context.AfterFunc(ctx, cancel)()
	}
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := sh.command(life, r.Args)
		_ = at.m.Kill(pid)
		done <- result{code, err}
	}()
	select {
	case res := <-done:
		if ctx.Err() != nil && !end.timedOut() {
			return agent.Exit{}, context.Cause(ctx)
		}
		return end.exit(at.m, res.code, res.err)
	case <-ctx.Done():
		if !r.Linger {
			<-done
		}
		return agent.Exit{}, context.Cause(ctx)
	}
}

// ending is what ended a command from outside.
type ending struct {
	mu             sync.Mutex
	killed, timeUp bool
}

// watch ends the command when it is killed, or its time is over.
func (e *ending) watch(life context.Context, cancel func(), m *fake.Machine, pid int, r agent.Exec) {
	defer cancel()
	var due <-chan time.Time
	if r.Timeout > 0 {
		timer := m.Clock.NewTimer(r.Timeout)
		defer timer.Stop()
		due = timer.C()
	}
	select {
	case <-life.Done():
	case <-m.Killed(pid):
		e.set(&e.killed)
	case <-due:
		e.set(&e.timeUp)
	}
}

func (e *ending) set(what *bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*what = true
}

func (e *ending) timedOut() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.timeUp
}

// exit tells how a command ended that came back with code and err.
func (e *ending) exit(m *fake.Machine, code int, err error) (agent.Exit, error) {
	select {
	case <-m.Ended():
		return agent.Exit{}, errs.New(errs.Unavailable, "the connection to the guest daemon broke")
	default:
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return agent.Exit{}, err
	}
	if err != nil || e.timedOut() {
		return agent.Exit{Code: 128 + int32(syscall.SIGKILL), Signal: int32(syscall.SIGKILL), TimedOut: e.timedOut()}, nil
	}
	if code > 128 {
		return agent.Exit{Code: int32(code), Signal: int32(code - 128)}, nil
	}
	return agent.Exit{Code: int32(code)}, nil
}

// ReadFile streams a file to w.
func (g *Guest) ReadFile(ctx context.Context, f agent.File, w io.Writer) error {
	at, err := g.locate(ctx, f.User, path.Dir(f.Path))
	if err != nil {
		return err
	}
	b, err := at.m.Tree.Read(path.Join(at.dir, path.Base(f.Path)))
	if err != nil {
		return fileError(f.Path, err)
	}
	_, err = io.Copy(w, bytes.NewReader(b))
	return err
}

// WriteFile creates or replaces a file and its missing parents.
func (g *Guest) WriteFile(ctx context.Context, f agent.File, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	at, err := g.locate(ctx, f.User, path.Dir(f.Path))
	if err != nil {
		return err
	}
	if err := at.m.Tree.MkdirAll(at.dir, 0o755); err != nil {
		return fileError(f.Path, err)
	}
	name := path.Join(at.dir, path.Base(f.Path))
	if err := at.m.Tree.Write(name, b, 0o644); err != nil {
		return fileError(f.Path, err)
	}
	return fileError(f.Path, at.m.Tree.Chown(name, at.u.uid, at.u.gid))
}

// MakeDir makes a directory and its missing parents.
func (g *Guest) MakeDir(ctx context.Context, f agent.File) error {
	at, err := g.locate(ctx, f.User, f.Path)
	if err != nil {
		return err
	}
	return fileError(f.Path, at.m.Tree.MkdirAll(at.dir, 0o755))
}

// fileError translates a system call's error; nil stays nil.
func fileError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOENT):
		return errs.New(errs.NotFound, "there is no file %q", name)
	case errors.Is(err, syscall.ENOSPC):
		return errs.New(errs.Exhausted, "the sandbox's disk is full").WithCode("disk_full")
	}
	return errs.New(errs.Invalid, "%q: %w", name, err)
}
