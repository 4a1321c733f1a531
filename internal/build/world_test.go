package build

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// world is a control plane on SQLite in memory with scripted hosts, inside a
// bubble whose time passes only when everything waits.
type world struct {
	t     *testing.T
	store store.Store
	bus   *wires
	hosts []*agenttest.Host
	fails *failpoint.Set
	svc   *BuildService
	team  lehr.TeamID

	mu   sync.Mutex
	next int // host that SelectHost returns next
	full error
}

// inWorld runs f in a bubble with a world; workers that f started are stopped.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, bus: newWires(), hosts: []*agenttest.Host{agenttest.NewHost()}, fails: failpoint.NewSet()}
		s, err := lite.Open(context.Background(), lite.Options{Path: lite.Memory})
		if err != nil {
			t.Fatalf("opening the store: %v", err)
		}
		t.Cleanup(func() { _ = s.Close() })
		w.store = s
		team, err := s.Accounts().EnsureTeam(t.Context(), "testers")
		if err != nil {
			t.Fatalf("EnsureTeam() = %v", err)
		}
		w.team = team.ID
		w.svc = w.service()
		f(w)
	})
}

// service returns another control-plane process on the same store.
func (w *world) service() *BuildService {
	return New(Options{Store: w.store, Bus: w.bus, Scheduler: w, Pool: w, Bases: w})
}

func (w *world) host() *agenttest.Host { return w.hosts[0] }

// SelectHost takes the hosts in turn, but for those to be avoided.
func (w *world) SelectHost(_ context.Context, p lehr.Placement) (lehr.HostID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full != nil {
		return "", w.full
	}
	for range w.hosts {
		h := w.hosts[w.next%len(w.hosts)]
		if p.Resources != (lehr.Resources{}) {
			w.next++
		}
		if !slices.Contains(p.Avoid, h.ID) {
			return h.ID, nil
		}
	}
	return w.hosts[0].ID, nil
}

func (w *world) setFull(err error) { w.mu.Lock(); defer w.mu.Unlock(); w.full = err }

// GetForHost finds a host by its id.
func (w *world) GetForHost(id lehr.HostID) (agent.Agent, error) {
	for _, h := range w.hosts {
		if h.ID == id {
			return h, nil
		}
	}
	return nil, errs.New(errs.Unavailable, "no host %s", id).WithCode("host_unreachable")
}

// Minimal makes the base on the host; it is recorded nowhere.
func (w *world) Minimal(ctx context.Context, a agent.Agent) (lehr.Tagged, error) {
	image, err := a.MakeMinimal(ctx)
	return lehr.Tagged{Version: lehr.Version{ImageDigest: image.Digest, Config: image.Config}}, err
}

// ctx is the context of the world's workers and calls, with its failpoints.
func (w *world) ctx() context.Context { return failpoint.With(context.Background(), w.fails) }

// work starts workers of svc, stopped by the function returned or the test's
// end.
func (w *world) work(svc *BuildService, o WorkerOptions) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx())
	wait, err := svc.StartWorkers(ctx, o)
	if err != nil {
		w.t.Fatalf("StartWorkers() = %v, want nil", err)
	}
	stop = sync.OnceFunc(func() { cancel(); wait() })
	w.t.Cleanup(stop)
	return stop
}

// request is a build of steps without pre- and post-build.
func (w *world) request(recipe ...string) CreateParams {
	return CreateParams{TeamID: w.team, Name: "web", Recipe: recipe, SkipPrePost: true}
}

func (w *world) create(p CreateParams) lehr.Build {
	w.t.Helper()
	b, created, err := w.svc.Create(w.ctx(), p)
	if err != nil || !created {
		w.t.Fatalf("Create() = %v, %v, want a new build", created, err)
	}
	return b
}

func (w *world) get(id lehr.BuildID) lehr.Build {
	w.t.Helper()
	b, err := w.svc.Get(w.ctx(), w.team, id)
	if err != nil {
		w.t.Fatalf("Get(%s) = %v, want nil", id, err)
	}
	return b
}

// wait lets time pass until the build has ended and is cleaned up.
func (w *world) wait(id lehr.BuildID) lehr.Build {
	w.t.Helper()
	for i := range 10_000 {
		b := w.get(id)
		unclean, err := w.store.Queue().Unclean(w.ctx(), 100)
		if err != nil {
			w.t.Fatalf("Unclean() = %v", err)
		}
		if b.Status.Terminal() && len(unclean) == 0 {
			return b
		}
		time.Sleep(min(time.Duration(i+1)*10*time.Millisecond, 5*time.Second))
	}
	w.t.Fatalf("build %s has not ended: %+v", id, w.get(id))
	return lehr.Build{}
}

// build creates a build and waits for its end.
func (w *world) build(p CreateParams) lehr.Build { w.t.Helper(); return w.wait(w.create(p).ID) }

// lines returns a build's log as "stream: text".
func (w *world) lines(id lehr.BuildID) (lines []string) {
	w.t.Helper()
	for batch, err := range w.svc.Logs(w.ctx(), LogQuery{BuildID: id}) {
		if err != nil {
			w.t.Fatalf("Logs() = %v", err)
		}
		for _, l := range batch {
			lines = append(lines, fmt.Sprintf("%s: %s", l.Stream, l.Text))
		}
	}
	return lines
}

// wantEnd checks status and, for failed builds, code and fault.
func (w *world) wantEnd(b lehr.Build, status lehr.BuildStatus, code string, fault lehr.Fault) {
	w.t.Helper()
	if b.Status != status {
		w.t.Fatalf("status = %q (%+v), want %q\n%s", b.Status, b.Error, status, strings.Join(w.lines(b.ID), "\n"))
	}
	if status == lehr.BuildFailed && (b.Error.Code != code || b.Error.Fault != fault) {
		w.t.Errorf("error = %+v, want code %q and fault %q", b.Error, code, fault)
	}
}

// wantNothingLeft checks that no sandbox and no unpublished artifact is left.
func (w *world) wantNothingLeft() {
	w.t.Helper()
	minimal := lehr.DigestOf([]byte("minimal"))
	for _, h := range w.hosts {
		if live := h.Live(); len(live) != 0 {
			w.t.Errorf("sandboxes left: %+v", live)
		}
		for _, d := range h.ArtifactList() {
			used, err := w.store.Templates().Referenced(w.ctx(), d)
			if err != nil || !used && d != minimal {
				w.t.Errorf("artifact %s left, which no version names (%v)", d, err)
			}
		}
	}
}

// wantGapless checks a log's seqs.
func (w *world) wantGapless(id lehr.BuildID) {
	w.t.Helper()
	next := int64(1)
	for batch, err := range w.svc.Logs(w.ctx(), LogQuery{BuildID: id}) {
		if err != nil {
			w.t.Fatalf("Logs() = %v", err)
		}
		for _, l := range batch {
			if l.Seq != next {
				w.t.Fatalf("seq %d follows %d", l.Seq, next-1)
			}
			next++
		}
	}
}

// versions returns how many versions of a template exist.
func (w *world) versions(name string) int {
	w.t.Helper()
	all, err := w.store.Templates().List(w.ctx(), store.ListTemplates{TeamID: w.team, Name: name, Limit: 100})
	if err != nil {
		w.t.Fatalf("List() = %v", err)
	}
	return len(all)
}

// shell is a script by the last argument of the command: output, exit or
// waiting.
func shell(play map[string]agenttest.Script) agenttest.Script {
	return func(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
		if f, ok := play[r.Args[len(r.Args)-1]]; ok {
			return f(ctx, r, out)
		}
		return agent.Exit{}, nil
	}
}

// exits ends with a code after writing to both streams.
func exits(code int32, stdout, stderr string) agenttest.Script {
	return func(_ context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		if err := out(lehr.StreamStdout, []byte(stdout)); err != nil {
			return agent.Exit{}, err
		}
		return agent.Exit{Code: code}, out(lehr.StreamStderr, []byte(stderr))
	}
}

// runs takes a time, or until its time limit.
func runs(d time.Duration) agenttest.Script {
	return func(ctx context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
		limit := time.Duration(1 << 62)
		if r.Timeout > 0 {
			limit = r.Timeout
		}
		select {
		case <-time.After(min(d, limit)):
		case <-ctx.Done():
			return agent.Exit{}, context.Cause(ctx)
		}
		if limit < d {
			return agent.Exit{Code: 137, Signal: 9, TimedOut: true}, nil
		}
		return agent.Exit{}, nil
	}
}

// wires is the bus in memory with a switch that cuts it.
type wires struct {
	*membus.Bus
	mu  sync.Mutex
	cut bool
}

func newWires() *wires { return &wires{Bus: membus.New()} }

func (b *wires) setCut(cut bool) { b.mu.Lock(); defer b.mu.Unlock(); b.cut = cut }

func (b *wires) broken() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return errs.New(errs.Unavailable, "the bus is down")
	}
	return nil
}

func (b *wires) PushBuild(ctx context.Context, id lehr.BuildID) error {
	if err := b.broken(); err != nil {
		return err
	}
	return b.Bus.PushBuild(ctx, id)
}

func (b *wires) PopBuild(ctx context.Context, wait time.Duration) (lehr.BuildID, bool, error) {
	if err := b.broken(); err != nil {
		return "", false, err
	}
	return b.Bus.PopBuild(ctx, wait)
}

func (b *wires) Publish(ctx context.Context, topic bus.Topic) error {
	if err := b.broken(); err != nil {
		return err
	}
	return b.Bus.Publish(ctx, topic)
}

func (b *wires) Subscribe(ctx context.Context, topic bus.Topic) (<-chan struct{}, error) {
	if err := b.broken(); err != nil {
		return nil, err
	}
	return b.Bus.Subscribe(ctx, topic)
}
