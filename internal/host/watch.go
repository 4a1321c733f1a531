package host

import (
	"context"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// watcher is what one WatchSandboxes call has not delivered yet: the newest view
// of each sandbox, in order of first change, so a slow watcher skips passing
// states but never an end. Host.mu guards it.
type watcher struct {
	order []lehr.SandboxID
	views map[lehr.SandboxID]agent.Sandbox
	more  chan struct{} // capacity 1
}

// push queues a view.
func (w *watcher) push(v agent.Sandbox) {
	if _, queued := w.views[v.ID]; !queued {
		w.order = append(w.order, v.ID)
	}
	w.views[v.ID] = v
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// pop takes everything that is queued.
func (w *watcher) pop() []agent.Sandbox {
	all := make([]agent.Sandbox, 0, len(w.order))
	for _, id := range w.order {
		all = append(all, w.views[id])
	}
	w.order = nil
	clear(w.views)
	return all
}

// tell queues a change for every watcher. The caller holds Host.mu.
func (h *Host) tell(v agent.Sandbox) {
	for w := range h.watchers {
		w.push(v)
	}
}

// WatchSandboxes calls f with every sandbox once, then after each change; f's
// error ends it.
func (h *Host) WatchSandboxes(ctx context.Context, f func(agent.Sandbox) error) error {
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	w := h.subscribe()
	defer h.unsubscribe(w)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.more:
		}
		h.mu.Lock()
		views := w.pop()
		h.mu.Unlock()
		for _, v := range views {
			if err := f(v); err != nil {
				return err
			}
		}
	}
}

func (h *Host) subscribe() *watcher {
	w := &watcher{views: map[lehr.SandboxID]agent.Sandbox{}, more: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[w] = true
	for _, s := range h.sandboxes {
		w.push(s.rec.view())
	}
	return w
}

func (h *Host) unsubscribe(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}
