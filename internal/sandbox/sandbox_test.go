package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// world is a service on SQLite in memory with one scripted host.
type world struct {
	t     *testing.T
	store store.Store
	host  *agenttest.Host
	svc   *Service
	team  lehr.TeamID

	mu   sync.Mutex
	down bool // the host cannot be reached
}

// inWorld runs f in a bubble with a template "web" of type base.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, host: agenttest.NewHost()}
		s, err := lite.Open(context.Background(), lite.Options{Path: lite.Memory})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		w.store = s
		team, err := s.Accounts().EnsureTeam(t.Context(), "testers")
		if err != nil {
			t.Fatal(err)
		}
		w.team = team.ID
		w.setHost(lehr.HostReady)
		w.put("web", func(*lehr.Version) {})
		w.svc = New(Options{Store: s, Scheduler: w, Pool: w, Bases: w})
		f(w)
	})
}

func (w *world) ctx() context.Context { return w.t.Context() }

func (w *world) setHost(state lehr.HostState) {
	w.t.Helper()
	if _, err := w.store.Hosts().Put(w.ctx(), lehr.Host{ID: w.host.ID, State: state}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) setDown(down bool) { w.mu.Lock(); defer w.mu.Unlock(); w.down = down }

func (w *world) SelectHost(context.Context, lehr.Placement) (lehr.HostID, error) {
	return w.host.ID, nil
}

func (w *world) GetForHost(lehr.HostID) (agent.Agent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, errs.New(errs.Unavailable, "down").WithCode("host_unreachable")
	}
	return w.host, nil
}

func (w *world) Minimal(ctx context.Context, a agent.Agent) (lehr.Tagged, error) {
	image, err := a.MakeMinimal(ctx)
	if err != nil {
		return lehr.Tagged{}, err
	}
	return w.store.Templates().PutVersion(ctx, "minimal", "default", lehr.Version{
		ID: lehr.NewVersionID(), TeamID: lehr.PlatformTeam, Type: lehr.TypeBase, Platform: "linux/amd64",
		ImageDigest: image.Digest, Resources: lehr.DefaultResources,
	})
}

// put records a template version with its artifacts on the host.
func (w *world) put(name string, change func(*lehr.Version)) lehr.Tagged {
	w.t.Helper()
	id := lehr.NewVersionID()
	v := lehr.Version{
		ID: id, TeamID: w.team, Type: lehr.TypeBase, Platform: "linux/amd64",
		ImageDigest: lehr.DigestOf([]byte(id)), Resources: lehr.DefaultResources,
		Config: lehr.ImageConfig{Entrypoint: []string{"serve"}, Cmd: []string{"-p", "80"}},
	}
	change(&v)
	w.host.AddArtifact(v.ImageDigest)
	if v.SnapshotDigest != "" {
		w.host.AddArtifact(v.SnapshotDigest)
	}
	got, err := w.store.Templates().PutVersion(w.ctx(), name, "default", v)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) create(p CreateParams) lehr.Sandbox {
	w.t.Helper()
	p.TeamID = w.team
	if p.Template == "" {
		p.Template = "web"
	}
	box, _, err := w.svc.Create(w.ctx(), p)
	if err != nil || box.State != lehr.SandboxRunning {
		w.t.Fatalf("Create() = %q, %v, want running", box.State, err)
	}
	return box
}

// run starts Run, ended with the test or by the function returned.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = w.svc.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	w.t.Cleanup(stop)
	w.pass(3 * time.Second)
	return stop
}

func (w *world) pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

// wantState checks the record of a sandbox.
func (w *world) wantState(id lehr.SandboxID, state lehr.SandboxState, reason lehr.SandboxReason) {
	w.t.Helper()
	got, err := w.svc.Get(w.ctx(), w.team, id)
	if err != nil || got.State != state || got.Reason != reason {
		w.t.Errorf("sandbox is %q (%q), %v, want %q (%q)", got.State, got.Reason, err, state, reason)
	}
}

func (w *world) wantOnHost(want int) {
	w.t.Helper()
	if got := len(w.host.Live()); got != want {
		w.t.Errorf("%d sandboxes on the host, want %d", got, want)
	}
}

func num(n int32) *int32 { return &n }

func TestCreateRunsAndKillEnds(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		box := w.create(CreateParams{Env: map[string]string{"A": "1"}, MemoryMB: num(1024), TTL: time.Hour})
		if box.Template != "web:default" || box.Resources.MemoryMB != 1024 || box.ExpiresAt.IsZero() {
			t.Errorf("sandbox = %+v, want web:default with 1024 MB and an end", box)
		}
		if r := w.host.Request(box.ID); r.Env["A"] != "1" || r.TTL != time.Hour || r.Resources.VCPUs != 1 {
			t.Errorf("the host was asked for %+v, want A=1 and an hour", r)
		}
		for range 2 {
			got, err := w.svc.Kill(w.ctx(), w.team, box.ID)
			if err != nil || got.State != lehr.SandboxKilled || got.Reason != lehr.ReasonUser {
				t.Errorf("Kill() = %q (%q), %v, want killed (user)", got.State, got.Reason, err)
			}
		}
		w.wantOnHost(0)
	})
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.put("warm", func(v *lehr.Version) {
			v.Type, v.SnapshotDigest, v.EngineDigest = lehr.TypeSnapshot, lehr.DigestOf([]byte("snap")), lehr.DigestOf([]byte("engine"))
		})
		tests := []struct {
			name  string
			p     CreateParams
			kind  errs.Kind
			field string
		}{
			{"no such template", CreateParams{Template: "nothing"}, errs.NotFound, ""},
			{"malformed template", CreateParams{Template: "a b"}, errs.Invalid, "template"},
			{"too little memory", CreateParams{Template: "web", MemoryMB: num(1)}, errs.Invalid, "memory_mb"},
			{"another size than the snapshot's", CreateParams{Template: "warm", VCPUs: num(2)}, errs.Invalid, "vcpus"},
			{"malformed variable", CreateParams{Template: "web", Env: map[string]string{"A=B": "1"}}, errs.Invalid, "env"},
			{"negative time", CreateParams{Template: "web", TTL: -1}, errs.Invalid, "timeout"},
		}
		for _, tt := range tests {
			tt.p.TeamID = w.team
			_, _, err := w.svc.Create(w.ctx(), tt.p)
			var e *errs.Error
			if !errs.IsKind(err, tt.kind) || tt.field != "" && (!asError(err, &e) || e.Field != tt.field) {
				t.Errorf("%s: Create() = %v, want %s of %q", tt.name, err, tt.kind, tt.field)
			}
		}
		box := w.create(CreateParams{Template: "warm", VCPUs: num(1)})
		if r := w.host.Request(box.ID); r.Snapshot == "" {
			t.Errorf("the host was asked for %+v, want a snapshot", r)
		}
	})
}

func asError(err error, target **errs.Error) bool {
	e, ok := err.(*errs.Error) //nolint:errorlint // the services return it unwrapped
	*target = e
	return ok
}

func TestFailedCreateLeavesARecordOnly(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host.Hook = func(_ context.Context, method string, _ lehr.SandboxID) error {
			if method == "CreateSandbox" {
				return errs.New(errs.Exhausted, "full")
			}
			return nil
		}
		if _, _, err := w.svc.Create(w.ctx(), CreateParams{TeamID: w.team, Template: "web"}); !errs.IsKind(err, errs.Exhausted) {
			t.Errorf("Create() = %v, want Exhausted", err)
		}
		all, err := w.svc.List(w.ctx(), store.ListSandboxes{TeamID: w.team, All: true, Limit: 10})
		if err != nil || len(all) != 1 || all[0].State != lehr.SandboxFailed {
			t.Errorf("List() = %+v, %v, want one failed", all, err)
		}
	})
}

// A sandbox that is killed while it is being made does not stay.
func TestKillDuringCreate(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		reached, release := make(chan lehr.SandboxID), make(chan struct{})
		w.host.Hook = func(_ context.Context, method string, id lehr.SandboxID) error {
			if method == "CreateSandbox" {
				reached <- id
				<-release
			}
			return nil
		}
		var group sync.WaitGroup
		group.Go(func() {
			if _, _, err := w.svc.Create(w.ctx(), CreateParams{TeamID: w.team, Template: "web"}); !errs.IsKind(err, errs.Conflict) {
				t.Errorf("Create() = %v, want Conflict", err)
			}
		})
		id := <-reached
		if _, err := w.svc.Kill(w.ctx(), w.team, id); err != nil {
			t.Errorf("Kill() = %v, want nil", err)
		}
		close(release)
		group.Wait()
		w.wantState(id, lehr.SandboxKilled, lehr.ReasonUser)
		w.wantOnHost(0)
	})
}

func TestMinimalIsMadeWhenMissing(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		if box := w.create(CreateParams{Template: "minimal"}); box.Template != "minimal:default" {
			t.Errorf("template = %q, want minimal:default", box.Template)
		}
		// A minimal base that another host made.
		if _, err := w.store.Templates().PutVersion(w.ctx(), "minimal", "default", lehr.Version{
			ID: lehr.NewVersionID(), TeamID: lehr.PlatformTeam, Type: lehr.TypeBase, Platform: "linux/amd64",
			ImageDigest: lehr.DigestOf([]byte("elsewhere")), Resources: lehr.DefaultResources,
		}); err != nil {
			t.Fatal(err)
		}
		w.create(CreateParams{Template: "minimal"})
	})
}

func TestExec(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var got agent.Exec
		w.host.Run = func(_ context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
			got = r
			return agent.Exit{Code: 3}, out(lehr.StreamStdout, []byte("hi"))
		}
		box := w.create(CreateParams{})
		var out bytes.Buffer
		sink := func(_ lehr.LogStream, b []byte) error { out.Write(b); return nil }
		exit, err := w.svc.Exec(w.ctx(), ExecParams{
			TeamID: w.team, SandboxID: box.ID, Args: []string{"sh"}, User: "u", Workdir: "/w",
			Env: map[string]string{"B": "2", "A": "1"}, Timeout: time.Second, Stdin: []byte("in"),
		}, sink)
		if err != nil || exit.Code != 3 || out.String() != "hi" {
			t.Errorf("Exec() = %+v, %v with %q, want 3, nil with hi", exit, err, out.String())
		}
		if got.User != "u" || got.Workdir != "/w" || len(got.Env) != 2 || got.Env[0].Name != "A" || got.Timeout != time.Second || string(got.Stdin) != "in" {
			t.Errorf("the host ran %+v, want what was asked", got)
		}
		if _, err := w.svc.Exec(w.ctx(), ExecParams{TeamID: w.team, SandboxID: box.ID}, sink); err != nil || strings.Join(got.Args, " ") != "serve -p 80" {
			t.Errorf("without a command %q ran, %v, want serve -p 80", got.Args, err)
		}
		other := lehr.NewTeamID()
		if _, err := w.svc.Exec(w.ctx(), ExecParams{TeamID: other, SandboxID: box.ID, Args: []string{"sh"}}, sink); !errs.IsKind(err, errs.NotFound) {
			t.Errorf("another team's Exec() = %v, want NotFound", err)
		}
		w.host.End(box.ID, lehr.ReasonOOM)
		w.run()
		if _, err := w.svc.Exec(w.ctx(), ExecParams{TeamID: w.team, SandboxID: box.ID, Args: []string{"sh"}}, sink); errs.CodeOf(err) != "sandbox_ended" || !strings.Contains(err.Error(), "oom") {
			t.Errorf("Exec() in an ended sandbox = %v, want sandbox_ended by oom", err)
		}
	})
}

func TestFiles(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		box := w.create(CreateParams{})
		f := FileParams{TeamID: w.team, SandboxID: box.ID, Path: "/x"}
		if err := w.svc.WriteFile(w.ctx(), f, strings.NewReader("content")); err != nil {
			t.Fatalf("WriteFile() = %v, want nil", err)
		}
		var out bytes.Buffer
		if err := w.svc.ReadFile(w.ctx(), f, &out); err != nil || out.String() != "content" {
			t.Errorf("ReadFile() = %q, %v, want content", out.String(), err)
		}
	})
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()
		box := w.create(CreateParams{})
		for range 2 {
			if got, err := w.svc.Pause(w.ctx(), w.team, box.ID); err != nil || got.State != lehr.SandboxPaused {
				t.Fatalf("Pause() = %q, %v, want paused", got.State, err)
			}
		}
		_, err := w.svc.Exec(w.ctx(), ExecParams{TeamID: w.team, SandboxID: box.ID, Args: []string{"sh"}}, nil)
		if errs.CodeOf(err) != "sandbox_paused" {
			t.Errorf("Exec() while paused = %v, want sandbox_paused", err)
		}
		if got, err := w.svc.Resume(w.ctx(), w.team, box.ID); err != nil || got.State != lehr.SandboxRunning {
			t.Errorf("Resume() = %q, %v, want running", got.State, err)
		}
		w.pass(time.Minute)
		w.wantState(box.ID, lehr.SandboxRunning, "")
	})
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()
		short, longer, none := w.create(CreateParams{TTL: time.Minute}), w.create(CreateParams{TTL: time.Minute}), w.create(CreateParams{})
		if _, err := w.svc.SetTimeout(w.ctx(), w.team, longer.ID, time.Hour); err != nil {
			t.Fatalf("SetTimeout() = %v, want nil", err)
		}
		w.pass(2 * time.Minute)
		w.wantState(short.ID, lehr.SandboxKilled, lehr.ReasonTTL)
		w.wantState(longer.ID, lehr.SandboxRunning, "")
		w.wantState(none.ID, lehr.SandboxRunning, "")
		w.wantOnHost(2)
	})
}

func TestEndsAreRecordedWithTheirReason(t *testing.T) {
	t.Parallel()
	for _, reason := range []lehr.SandboxReason{lehr.ReasonOOM, lehr.ReasonPids, lehr.ReasonGuestLost, lehr.ReasonEngine} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.run()
				box := w.create(CreateParams{})
				w.host.End(box.ID, reason)
				w.pass(time.Second)
				w.wantState(box.ID, lehr.SandboxFailed, reason)
				w.wantOnHost(0)
			})
		})
	}
}

// What the two know of each other's sandboxes is settled whenever the host is
// reached again.
func TestReconcile(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		gone, kept, ended := w.create(CreateParams{}), w.create(CreateParams{}), w.create(CreateParams{})
		w.host.Lose(gone.ID)
		w.setDown(true)
		if _, err := w.svc.Kill(w.ctx(), w.team, ended.ID); err != nil {
			t.Fatalf("Kill() without its host = %v, want nil", err)
		}
		w.setDown(false)
		image := w.host.Request(kept.ID).Image
		build := lehr.NewSandboxID()
		for id, fence := range map[lehr.SandboxID]lehr.Fence{lehr.NewSandboxID(): {}, build: {BuildID: lehr.NewBuildID(), Attempt: 1}} {
			if _, err := w.host.CreateSandbox(w.ctx(), agent.CreateSandbox{ID: id, Image: image, Fence: fence}); err != nil {
				t.Fatal(err)
			}
		}
		w.run()
		w.wantState(gone.ID, lehr.SandboxFailed, lehr.ReasonHostLost)
		w.wantState(kept.ID, lehr.SandboxRunning, "")
		w.wantState(ended.ID, lehr.SandboxKilled, lehr.ReasonUser)
		var left []lehr.SandboxID
		for _, b := range w.host.Live() {
			left = append(left, b.ID)
		}
		if len(left) != 2 || w.host.Request(build).Image == "" {
			t.Errorf("on the host: %v, want %s and the build's own %s", left, kept.ID, build)
		}
	})
}

// A creation that its process did not live to finish is ended; one that is
// under way is left alone.
func TestOrphanedCreation(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		v, err := w.store.Templates().Resolve(w.ctx(), w.team, lehr.Ref{Name: "web", Tag: "default"})
		if err != nil {
			t.Fatal(err)
		}
		box, _, err := w.store.Sandboxes().Create(w.ctx(), store.NewSandbox{Sandbox: lehr.Sandbox{
			ID: lehr.NewSandboxID(), TeamID: w.team, VersionID: v.Version.ID, HostID: w.host.ID, Resources: lehr.DefaultResources,
		}})
		if err != nil {
			t.Fatal(err)
		}
		stop := w.run()
		w.wantState(box.ID, lehr.SandboxCreating, "")
		stop()
		w.pass(3 * time.Minute)
		w.run()
		w.wantState(box.ID, lehr.SandboxFailed, lehr.ReasonHostLost)
	})
}

// A creation whose maker died is settled while its host stays connected, whether
// the host came to make the sandbox or not; where nobody else works on the store,
// at once.
func TestOrphanedCreationIsSettled(t *testing.T) {
	t.Parallel()
	for _, made := range []bool{false, true} {
		for _, embedded := range []bool{false, true} {
			t.Run(fmt.Sprintf("made %v embedded %v", made, embedded), func(t *testing.T) {
				t.Parallel()
				inWorld(t, func(w *world) {
					v, err := w.store.Templates().Resolve(w.ctx(), w.team, lehr.Ref{Name: "web", Tag: "default"})
					if err != nil {
						t.Fatal(err)
					}
					box, _, err := w.store.Sandboxes().Create(w.ctx(), store.NewSandbox{Sandbox: lehr.Sandbox{
						ID: lehr.NewSandboxID(), TeamID: w.team, VersionID: v.Version.ID, HostID: w.host.ID, Resources: lehr.DefaultResources,
					}})
					if err != nil {
						t.Fatal(err)
					}
					want := lehr.ReasonHostLost
					if made {
						want = lehr.ReasonEngine
						if _, err := w.host.CreateSandbox(w.ctx(), agent.CreateSandbox{ID: box.ID, Image: v.Version.ImageDigest}); err != nil {
							t.Fatal(err)
						}
					}
					w.pass(time.Second)
					wait := 5 * time.Minute
					if embedded {
						w.svc = New(Options{Store: w.store, Scheduler: w, Pool: w, Bases: w, Embedded: true})
						wait = 5 * time.Second
					}
					w.run()
					w.pass(wait)
					w.wantState(box.ID, lehr.SandboxFailed, want)
					if live := w.host.Live(); len(live) > 0 {
						t.Errorf("left on the host: %v", live)
					}
				})
			})
		}
	}
}

func TestRemovedHostLosesItsSandboxes(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()
		box := w.create(CreateParams{})
		w.setHost(lehr.HostRemoved)
		w.pass(5 * time.Second)
		w.wantState(box.ID, lehr.SandboxFailed, lehr.ReasonHostLost)
	})
}

func TestOldRecordsAreForgotten(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		box := w.create(CreateParams{})
		if _, err := w.svc.Kill(w.ctx(), w.team, box.ID); err != nil {
			t.Fatal(err)
		}
		w.svc = New(Options{Store: w.store, Scheduler: w, Pool: w, Bases: w, Timing: Timing{Expire: 10 * time.Minute}})
		w.run()
		w.pass(23 * time.Hour)
		w.wantState(box.ID, lehr.SandboxKilled, lehr.ReasonUser)
		w.pass(3 * time.Hour)
		if _, err := w.svc.Get(w.ctx(), w.team, box.ID); !errs.IsKind(err, errs.NotFound) {
			t.Errorf("Get() of an old record = %v, want NotFound", err)
		}
	})
}
