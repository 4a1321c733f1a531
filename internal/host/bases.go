package host

import (
	"context"
	"sync"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// ResolveImage asks the registry, or the host's aliases, what a reference means
// now.
func (h *Host) ResolveImage(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return agent.ResolvedImage{}, err
	}
	defer leave()
	return h.opt.Images.Resolve(ctx, r)
}

// PullImage makes an image of a registry's. Calls for the same image with the
// same login share the work, which ends when the last of them gives up.
func (h *Host) PullImage(ctx context.Context, r agent.RegistryImage) (agent.Image, error) {
	key := string(lehr.DigestOf([]byte(r.Reference + "\x00" + r.Auth.Username + "\x00" + r.Auth.Password + "\x00" + r.Auth.Token)))
	return h.pulls.do(ctx, key, h, func(ctx context.Context) (agent.Image, error) {
		if err := h.wantDisk(); err != nil {
			return agent.Image{}, err
		}
		defer h.progress.Delete(r.Reference)
		img, err := h.opt.Images.Pull(ctx, r, func(p agent.PullProgress) { h.progress.Store(r.Reference, p) })
		return img, ownDisk(err)
	})
}

// PullProgress says how far a pull has come.
func (h *Host) PullProgress(_ context.Context, reference string) (agent.PullProgress, error) {
	p, _ := h.progress.Load(reference)
	now, _ := p.(agent.PullProgress)
	return now, nil
}

// flights lets concurrent calls share work by key. Work ends with the host, or
// when nobody waits for it any more.
type flights[T any] struct {
	mu  sync.Mutex
	all map[string]*flight[T]
}

// flight is one run of the work; waiting is guarded by the flights' mu.
type flight[T any] struct {
	run[T]
	waiting int
	cancel  context.CancelCauseFunc
}

// do returns the outcome of work for a key, joining a run that is under way.
func (f *flights[T]) do(ctx context.Context, key string, h *Host, work func(context.Context) (T, error)) (T, error) {
	var none T
	f.mu.Lock()
	r := f.all[key]
	if r == nil {
		r = &flight[T]{run: run[T]{done: make(chan struct{})}}
		var life context.Context
		life, r.cancel = context.WithCancelCause(h.life)
		if !h.spawn(func() { f.finish(life, key, r, work) }) {
			f.mu.Unlock()
			return none, errClosed
		}
		if f.all == nil {
			f.all = map[string]*flight[T]{}
		}
		f.all[key] = r
	}
	r.waiting++
	f.mu.Unlock()
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		f.leave(key, r, context.Cause(ctx))
		return none, context.Cause(ctx)
	}
}

// leave ends the work that nobody waits for. Whoever comes now begins anew.
func (f *flights[T]) leave(key string, r *flight[T], cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.waiting--; r.waiting > 0 {
		return
	}
	r.cancel(cause)
	if f.all[key] == r {
		delete(f.all, key)
	}
}

func (f *flights[T]) finish(ctx context.Context, key string, r *flight[T], work func(context.Context) (T, error)) {
	r.value, r.err = work(ctx)
	r.cancel(nil)
	f.mu.Lock()
	if f.all[key] == r {
		delete(f.all, key)
	}
	f.mu.Unlock()
	close(r.done)
}
