// Package failpoint injects failures at named places, so that tests can stop,
// break or kill the program exactly there. Off, a point costs one atomic load.
//
// A test arms points in a Set of its own and hands it down with With, so that
// parallel tests do not see each other's; a process under test gets one from
// the environment with Install. The globals of this package are the price of
// points that need no wiring.
package failpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// EnvVar is the environment variable that Install reads:
// "name=action[:count]", several separated by commas. Count is how many passes
// act, counted from the first; all of them without it. "@DIR" names a folder, see
// Folder.
const EnvVar = "LEHR_FAILPOINTS"

// ErrInjected is what Hit's error wraps.
var ErrInjected = errors.New("injected failure")

// Action is what happens at a point.
type Action string

// The actions.
const (
	Error Action = "error" // Hit returns an error that wraps ErrInjected
	Panic Action = "panic" // Hit panics
	Kill  Action = "kill"  // the process ends by SIGKILL, as by a power cut
	Pause Action = "pause" // Hit waits for Armed.Resume or the end of its context
)

// Set is the points of one test or process. It is safe for concurrent use.
type Set struct {
	mu    sync.Mutex
	armed map[Point]*Armed
}

// Armed is one point that acts.
type Armed struct {
	point   Point
	action  Action
	left    atomic.Int64 // passes that still act; negative: all
	hits    atomic.Int64
	reached chan struct{}
	once    sync.Once
	resume  chan struct{}
	resumed sync.Once
}

// process is the set of the whole process; enabled keeps Hit cheap while no
// set exists.
var (
	process atomic.Pointer[Set]
	enabled atomic.Bool
)

type contextKey struct{}

// NewSet returns a set in which no point acts.
func NewSet() *Set { return &Set{armed: map[Point]*Armed{}} }

// Parse reads the form of EnvVar. Unknown points and actions are errors.
func Parse(s string) (*Set, error) {
	set := NewSet()
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		if err := set.parseOne(part); err != nil {
			return nil, fmt.Errorf("failpoint %q: %w", part, err)
		}
	}
	return set, nil
}

func (s *Set) parseOne(part string) error {
	name, rest, ok := strings.Cut(part, "=")
	if !ok {
		return errors.New("want name=action[:count]")
	}
	if !slices.Contains(All(), Point(name)) {
		return errors.New("no such point")
	}
	action, countText, counted := strings.Cut(rest, ":")
	if !slices.Contains([]Action{Error, Panic, Kill, Pause}, Action(action)) {
		return errors.New("action is none of error, panic, kill, pause")
	}
	count := 0
	if counted {
		n, err := strconv.Atoi(countText)
		if err != nil || n < 1 {
			return errors.New("count is not a positive number")
		}
		count = n
	}
	s.Arm(Point(name), Action(action), count)
	return nil
}

// Install makes the points named by EnvVar act in the whole process. It is
// called once, at start; an empty variable changes nothing.
func Install(getenv func(string) string) error {
	text := getenv(EnvVar)
	if text == "" {
		return nil
	}
	if dir, ok := strings.CutPrefix(text, folderPrefix); ok {
		folder.Store(&Folder{dir: dir})
		enabled.Store(true)
		return nil
	}
	set, err := Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", EnvVar, err)
	}
	process.Store(set)
	enabled.Store(true)
	return nil
}

// With returns a context under which the points of s act, besides the
// process's.
func With(ctx context.Context, s *Set) context.Context {
	enabled.Store(true)
	return context.WithValue(ctx, contextKey{}, s)
}

// Arm makes p act on its next count passes, or on all where count is 0. It
// replaces what was armed at p before.
func (s *Set) Arm(p Point, action Action, count int) *Armed {
	a := &Armed{point: p, action: action, reached: make(chan struct{}), resume: make(chan struct{})}
	a.left.Store(int64(count))
	if count <= 0 {
		a.left.Store(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed[p] = a
	return a
}

// Disarm makes p act no more and resumes who is paused there.
func (s *Set) Disarm(p Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.armed[p]; a != nil {
		a.Resume()
		delete(s.armed, p)
	}
}

func (s *Set) find(p Point) *Armed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.armed[p]
}

// Reached is closed when the point acts for the first time.
func (a *Armed) Reached() <-chan struct{} { return a.reached }

// Hits is how often the point acted.
func (a *Armed) Hits() int { return int(a.hits.Load()) }

// Resume ends all pauses at the point, present and future. It may be called
// again.
func (a *Armed) Resume() { a.resumed.Do(func() { close(a.resume) }) }

// Hit passes the point p: it returns nil unless a test armed p.
func Hit(ctx context.Context, p Point) error {
	if !enabled.Load() {
		return nil
	}
	if set, ok := ctx.Value(contextKey{}).(*Set); ok {
		if err := set.find(p).act(ctx); err != nil {
			return err
		}
	}
	if set := process.Load(); set != nil {
		return set.find(p).act(ctx)
	}
	return folder.Load().act(ctx, p)
}

func (a *Armed) act(ctx context.Context) error {
	if a == nil || !a.take() {
		return nil
	}
	a.hits.Add(1)
	a.once.Do(func() { close(a.reached) })
	switch a.action {
	case Panic:
		panic(fmt.Sprintf("failpoint %s: %v", a.point, ErrInjected))
	case Kill:
		return killSelf()
	case Pause:
		return a.pause(ctx)
	default:
		return fmt.Errorf("failpoint %s: %w", a.point, ErrInjected)
	}
}

// take uses up one of the passes that act.
func (a *Armed) take() bool {
	for {
		left := a.left.Load()
		if left == 0 {
			return false
		}
		if left < 0 || a.left.CompareAndSwap(left, left-1) {
			return true
		}
	}
}

func (a *Armed) pause(ctx context.Context) error {
	select {
	case <-a.resume:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// killSelf does not return: the signal cannot be caught, and it is delivered
// before the call returns to a thread of the process.
func killSelf() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return fmt.Errorf("failpoint: kill: %w", err)
	}
	select {}
}
