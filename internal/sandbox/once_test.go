package sandbox

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// onCreate makes every CreateSandbox of the host pass f.
func (w *world) onCreate(f func(ctx context.Context, id lehr.SandboxID) error) {
	w.host.Hook = func(ctx context.Context, method string, id lehr.SandboxID) error {
		if method != "CreateSandbox" {
			return nil
		}
		return f(ctx, id)
	}
}

func (w *world) keyed(key string) CreateParams {
	return CreateParams{TeamID: w.team, Template: "web", IdempotencyKey: key, Metadata: map[string]string{"a": "1"}}
}

// wantCode checks an error's kind and code.
func (w *world) wantCode(err error, kind errs.Kind, code string) {
	w.t.Helper()
	if !errs.IsKind(err, kind) || errs.CodeOf(err) != code {
		w.t.Errorf("error = %v (%s), want %s", err, errs.CodeOf(err), code)
	}
}

func TestSameKeyIsOneSandbox(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		if _, err := w.store.Accounts().SetLimits(w.ctx(), w.team, lehr.TeamLimits{Sandboxes: 1}); err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		w.onCreate(func(context.Context, lehr.SandboxID) error { <-release; return nil })
		const callers = 20
		var group sync.WaitGroup
		var mu sync.Mutex
		ids, made := map[lehr.SandboxID]int{}, 0
		for range callers {
			group.Go(func() {
				box, created, err := w.svc.Create(w.ctx(), w.keyed("k"))
				if err != nil || box.State != lehr.SandboxRunning {
					t.Errorf("Create() = %q, %v, want running", box.State, err)
				}
				mu.Lock()
				defer mu.Unlock()
				ids[box.ID]++
				if created {
					made++
				}
			})
		}
		synctest.Wait() // all wait for the one that is being made
		close(release)
		group.Wait()
		if len(ids) != 1 || made != 1 {
			t.Errorf("%d sandboxes, %d times created, want 1 and 1", len(ids), made)
		}
		w.wantOnHost(1)
		other := w.keyed("k")
		other.TTL = time.Hour
		_, _, err := w.svc.Create(w.ctx(), other)
		w.wantCode(err, errs.Conflict, "idempotency_mismatch")
	})
}

// A caller that leaves and comes again finds the sandbox that it asked for.
func TestKeyOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		reached, release := make(chan struct{}), make(chan struct{})
		w.onCreate(func(context.Context, lehr.SandboxID) error { close(reached); <-release; return nil })
		ctx, leave := context.WithCancel(w.ctx())
		left := make(chan error)
		go func() {
			_, _, err := w.svc.Create(ctx, w.keyed("k"))
			left <- err
		}()
		<-reached
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("Create() of a caller that left = %v, want cancelled", err)
		}
		close(release)
		box, created, err := w.svc.Create(w.ctx(), w.keyed("k"))
		if err != nil || created || box.State != lehr.SandboxRunning {
			t.Errorf("Create() again = %q, created %v, %v, want the running one", box.State, created, err)
		}
		w.wantOnHost(1)
	})
}

// A key answers with the failure of its first request, and is free again where
// that was refused before anything was recorded.
func TestKeyRepeatsTheFailure(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		full := errs.New(errs.Exhausted, "full").WithCode("host_full").WithRemedy("wait")
		w.onCreate(func(context.Context, lehr.SandboxID) error { return full })
		for range 2 {
			_, _, err := w.svc.Create(w.ctx(), w.keyed("k"))
			w.wantCode(err, errs.Exhausted, "host_full")
			if e := new(errs.Error); !errors.As(err, &e) || e.Remedy != "wait" {
				t.Errorf("Create() = %v, want the remedy kept", err)
			}
			w.onCreate(func(context.Context, lehr.SandboxID) error { return nil })
		}
		all, err := w.svc.List(w.ctx(), store.ListSandboxes{TeamID: w.team, All: true, Limit: 10})
		if err != nil || len(all) != 1 || all[0].Error == nil || all[0].Error.Code != "host_full" {
			t.Errorf("List() = %+v, %v, want one with its error", all, err)
		}

		if _, err := w.store.Accounts().SetLimits(w.ctx(), w.team, lehr.TeamLimits{Sandboxes: 1}); err != nil {
			t.Fatal(err)
		}
		first := w.create(CreateParams{})
		_, _, err = w.svc.Create(w.ctx(), w.keyed("l"))
		w.wantCode(err, errs.Exhausted, "limit_sandboxes")
		if _, err := w.svc.Kill(w.ctx(), w.team, first.ID); err != nil {
			t.Fatal(err)
		}
		if _, created, err := w.svc.Create(w.ctx(), w.keyed("l")); err != nil || !created {
			t.Errorf("Create() with a key that was refused before = created %v, %v, want a new sandbox", created, err)
		}
	})
}

func TestCreateWithoutWaiting(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()
		release := make(chan struct{})
		w.onCreate(func(context.Context, lehr.SandboxID) error { <-release; return nil })
		p := CreateParams{TeamID: w.team, Template: "web", NoWait: true, TTL: time.Hour}
		box, created, err := w.svc.Create(w.ctx(), p)
		if err != nil || !created || box.State != lehr.SandboxCreating {
			t.Fatalf("Create() = %q, created %v, %v, want creating", box.State, created, err)
		}
		_, err = w.svc.SetTimeout(w.ctx(), w.team, box.ID, time.Minute)
		w.wantCode(err, errs.Conflict, "sandbox_not_running")
		close(release)
		w.pass(time.Second)
		w.wantState(box.ID, lehr.SandboxRunning, "")

		w.onCreate(func(context.Context, lehr.SandboxID) error {
			return errs.New(errs.Unavailable, "no engine").WithCode("engine_broken")
		})
		box, _, err = w.svc.Create(w.ctx(), p)
		if err != nil {
			t.Fatalf("Create() = %v, want nil: the failure comes later", err)
		}
		w.pass(time.Second)
		w.wantState(box.ID, lehr.SandboxFailed, lehr.ReasonEngine)
		got, err := w.svc.Get(w.ctx(), w.team, box.ID)
		if err != nil || got.Error == nil || got.Error.Code != "engine_broken" {
			t.Errorf("Get() = %+v, %v, want why it failed", got.Error, err)
		}
		w.wantOnHost(1)
	})
}

// The end of the process ends creations that nobody waits for.
func TestStopEndsDetachedCreations(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		stop := w.run()
		w.onCreate(func(ctx context.Context, _ lehr.SandboxID) error { <-ctx.Done(); return context.Cause(ctx) })
		box, _, err := w.svc.Create(w.ctx(), CreateParams{TeamID: w.team, Template: "web", NoWait: true})
		if err != nil {
			t.Fatal(err)
		}
		stop()
		w.wantState(box.ID, lehr.SandboxFailed, lehr.ReasonEngine)
		got, err := w.svc.Get(w.ctx(), w.team, box.ID)
		if err != nil || got.Error == nil || got.Error.Code != "stopping" {
			t.Errorf("Get() = %+v, %v, want that the control plane stopped", got.Error, err)
		}
	})
}

// Minimal under a key is made once on a host that has it not.
func TestKeyedMinimal(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.create(CreateParams{Template: "minimal"})
		if _, err := w.store.Templates().PutVersion(w.ctx(), "minimal", "default", lehr.Version{
			ID: lehr.NewVersionID(), TeamID: lehr.PlatformTeam, Type: lehr.TypeBase, Platform: "linux/amd64",
			ImageDigest: lehr.DigestOf([]byte("elsewhere")), Resources: lehr.DefaultResources,
		}); err != nil {
			t.Fatal(err)
		}
		w.create(CreateParams{Template: "minimal", IdempotencyKey: "k"})
		w.create(CreateParams{Template: "minimal", IdempotencyKey: "k"})
		w.wantOnHost(2)
	})
}

func TestSetTimeoutBothWays(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()
		box := w.create(CreateParams{TTL: time.Hour})
		for _, ttl := range []time.Duration{time.Minute, 2 * time.Hour, 0, time.Second} {
			got, err := w.svc.SetTimeout(w.ctx(), w.team, box.ID, ttl)
			if err != nil {
				t.Fatalf("SetTimeout(%v) = %v, want nil", ttl, err)
			}
			want := time.Now().Add(ttl)
			if ttl == 0 {
				want = time.Time{}
			}
			if !got.ExpiresAt.Equal(want.UTC().Truncate(time.Microsecond)) && !(ttl == 0 && got.ExpiresAt.IsZero()) {
				t.Errorf("SetTimeout(%v) ends at %v, want %v", ttl, got.ExpiresAt, want)
			}
			if h := w.host.Live()[0].ExpiresAt; h.IsZero() != (ttl == 0) {
				t.Errorf("after SetTimeout(%v) the host ends it at %v", ttl, h)
			}
		}
		w.pass(3 * time.Second)
		w.wantState(box.ID, lehr.SandboxKilled, lehr.ReasonTTL)
		_, err := w.svc.SetTimeout(w.ctx(), w.team, box.ID, time.Hour)
		w.wantCode(err, errs.Conflict, "sandbox_ended")
		_, err = w.svc.SetTimeout(w.ctx(), w.team, box.ID, -1)
		w.wantCode(err, errs.Invalid, "timeout_invalid")
		_, err = w.svc.SetTimeout(w.ctx(), w.team, lehr.NewSandboxID(), time.Hour)
		if !errs.IsKind(err, errs.NotFound) {
			t.Errorf("SetTimeout(unknown) = %v, want not found", err)
		}
	})
}

// A new end against an end in the same moment: whoever was told that it is put
// off keeps the sandbox, and whoever was not learns that it ended.
func TestSetTimeoutAgainstTheEnd(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()
		for range 50 {
			box := w.create(CreateParams{TTL: time.Second})
			time.Sleep(time.Second) // at the very moment of the look for expired ones
			_, err := w.svc.SetTimeout(w.ctx(), w.team, box.ID, time.Hour)
			synctest.Wait()
			if err != nil {
				w.wantCode(err, errs.Conflict, "sandbox_ended")
				w.wantState(box.ID, lehr.SandboxKilled, lehr.ReasonTTL)
				continue
			}
			w.pass(5 * time.Second)
			w.wantState(box.ID, lehr.SandboxRunning, "")
			if _, err := w.svc.Kill(w.ctx(), w.team, box.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A time-to-live that ends while the host cannot be reached, or while no
// control plane runs, is the reason all the same.
func TestTimeToLiveWithoutHostOrControlPlane(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		stop := w.run()
		away := w.create(CreateParams{TTL: time.Minute})
		w.setDown(true)
		w.pass(2 * time.Minute)
		w.wantState(away.ID, lehr.SandboxKilled, lehr.ReasonTTL)
		w.setDown(false)
		stop()
		stop = w.run()
		w.wantOnHost(0)

		stop()
		asleep := w.create(CreateParams{TTL: time.Minute})
		w.pass(2 * time.Minute)
		w.host.Lose(asleep.ID) // ended and forgotten by its host
		w.run()
		w.wantState(asleep.ID, lehr.SandboxKilled, lehr.ReasonTTL)
	})
}

func TestMetadataIsChecked(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		many := map[string]string{}
		for i := range lehr.MaxMetadata + 1 {
			many[string(rune('a'+i%26))+string(rune('a'+i/26))] = ""
		}
		for name, p := range map[string]CreateParams{
			"metadata": {Metadata: map[string]string{"a b": "1"}}, "many": {Metadata: many},
			"long value": {Metadata: map[string]string{"a": string(make([]byte, lehr.MaxMetadataValue+1))}},
			"not UTF-8":  {Metadata: map[string]string{"a": "\xff"}}, "key": {IdempotencyKey: "a\nb"},
		} {
			p.TeamID, p.Template = w.team, "web"
			if _, _, err := w.svc.Create(w.ctx(), p); !errs.IsKind(err, errs.Invalid) {
				t.Errorf("Create(%s) = %v, want invalid", name, err)
			}
		}
		w.wantOnHost(0)
	})
}

// counting is a scheduler that counts what it was asked for.
type counting struct {
	*world
	asked *int
}

func (c counting) SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error) {
	*c.asked++
	return c.world.SelectHost(ctx, p)
}

// A team at its limit takes no place from others: no host is chosen for it.
func TestRefusedCreatesTakeNoPlace(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		asked := 0
		w.svc = New(Options{Store: w.store, Scheduler: counting{w, &asked}, Pool: w, Bases: w})
		if _, err := w.store.Accounts().SetLimits(w.ctx(), w.team, lehr.TeamLimits{Sandboxes: 1}); err != nil {
			t.Fatal(err)
		}
		w.create(CreateParams{})
		for range 100 {
			_, _, err := w.svc.Create(w.ctx(), CreateParams{TeamID: w.team, Template: "web"})
			w.wantCode(err, errs.Exhausted, "limit_sandboxes")
		}
		if asked != 1 {
			t.Errorf("%d hosts were chosen for one sandbox", asked)
		}
	})
}

// hooked is a store that calls before it sets a time-to-live.
type hooked struct {
	store.Store
	before func()
}

func (h hooked) Sandboxes() store.Sandboxes { return hookedSandboxes{h.Store.Sandboxes(), h.before} }

type hookedSandboxes struct {
	store.Sandboxes
	before func()
}

func (h hookedSandboxes) SetExpiry(ctx context.Context, id lehr.SandboxID, ttl time.Duration) (lehr.Sandbox, error) {
	h.before()
	return h.Sandboxes.SetExpiry(ctx, id, ttl)
}

// A time-to-live that is given while a sandbox begins to run is refused or
// stays; the one of the creation never comes after it.
func TestSetTimeoutAgainstTheBeginning(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var id lehr.SandboxID
		w.onCreate(func(_ context.Context, made lehr.SandboxID) error { id = made; return nil })
		early := make(chan error, 1)
		other := New(Options{Store: w.store, Scheduler: w, Pool: w, Bases: w})
		w.svc = New(Options{Scheduler: w, Pool: w, Bases: w, Store: hooked{w.store, func() {
			_, err := other.SetTimeout(w.ctx(), w.team, id, time.Hour)
			early <- err
		}}})
		box := w.create(CreateParams{TTL: time.Minute})
		want := time.Minute
		if err := <-early; err == nil {
			want = time.Hour
		}
		if got, err := w.svc.Get(w.ctx(), w.team, box.ID); err != nil || got.ExpiresAt.Sub(got.CreatedAt).Round(time.Minute) != want {
			t.Errorf("the sandbox ends %v after its creation, %v, want %v", got.ExpiresAt.Sub(got.CreatedAt), err, want)
		}
	})
}

// What nobody waits for does not begin once Run has ended: nobody would end it.
func TestNothingDetachedBeginsAfterTheEnd(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.run()()
		_, _, err := w.svc.Create(w.ctx(), w.keyed("k"))
		w.wantCode(err, errs.Unavailable, "stopping")
		w.wantOnHost(0)
		_, _, err = w.svc.Create(w.ctx(), w.keyed("k"))
		w.wantCode(err, errs.Unavailable, "stopping")
	})
}
