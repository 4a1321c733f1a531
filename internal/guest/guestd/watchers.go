package guestd

import (
	"crypto/rand"
	"sync"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/watch"
)

// maxWatchers bounds who watches at the same time, over streams and by asking.
const maxWatchers = 64

// watchers knows the live watchers. Those made by CreateWatcher live until they
// are removed, or the sandbox becomes another.
type watchers struct {
	mu    sync.Mutex
	live  int // kept ones and those of streams
	kept  map[string]*keptWatcher
	ended bool
}

// keptWatcher is a watcher between calls.
type keptWatcher struct {
	*watch.Watcher
	view view
}

// view is how a client sees the events of a watcher.
type view struct {
	user         account.User
	root         string
	includeEntry bool
}

func newWatchers() *watchers { return &watchers{kept: map[string]*keptWatcher{}} }

// open begins to watch; the caller calls close with what it returns.
func (ws *watchers) open(opt watch.Options) (*watch.Watcher, error) {
	if err := ws.reserve(); err != nil {
		return nil, err
	}
	w, err := watch.New(opt)
	if err != nil {
		ws.release()
	}
	return w, err
}

func (ws *watchers) reserve() error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ended {
		return errs.New(errs.Unavailable, "the guest daemon is ending")
	}
	if ws.live >= maxWatchers {
		return errs.New(errs.Exhausted, "more than %d directories are watched", maxWatchers).
			WithRemedy("end a watch, or remove a watcher, that is not needed")
	}
	ws.live++
	return nil
}

func (ws *watchers) release() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.live--
}

func (ws *watchers) close(w *watch.Watcher) {
	w.Close()
	ws.release()
}

// keep makes w known by a name.
func (ws *watchers) keep(w *watch.Watcher, v view) (id string) {
	id = "w" + rand.Text()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.kept[id] = &keptWatcher{w, v}
	return id
}

func (ws *watchers) find(id string) (*keptWatcher, error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w, ok := ws.kept[id]
	if !ok {
		return nil, errs.New(errs.NotFound, "watcher with id %.64s not found", id).WithField("watcher_id")
	}
	return w, nil
}

func (ws *watchers) remove(id string) error {
	w, err := ws.find(id)
	if err != nil {
		return err
	}
	ws.mu.Lock()
	_, still := ws.kept[id]
	delete(ws.kept, id)
	ws.mu.Unlock()
	if still {
		ws.close(w.Watcher)
	}
	return nil
}

// removeAll ends the kept watchers; those of streams end with their streams.
func (ws *watchers) removeAll() {
	ws.mu.Lock()
	kept := ws.kept
	ws.kept = map[string]*keptWatcher{}
	ws.mu.Unlock()
	for _, w := range kept {
		ws.close(w.Watcher)
	}
}

// end ends the kept watchers for good.
func (ws *watchers) end() {
	ws.mu.Lock()
	ws.ended = true
	ws.mu.Unlock()
	ws.removeAll()
}
