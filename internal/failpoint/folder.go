package failpoint

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// folderPrefix begins a value of EnvVar that names a folder instead of points.
const folderPrefix = "@"

// hitSuffix is what a point's file is renamed with when it acts.
const hitSuffix = ".hit"

// pauseLook is how often a paused point looks for its resumption.
const pauseLook = time.Millisecond

// Folder arms points of other processes while they run: a file in it with the
// name of a point and an action as its content makes the point act once, in
// whichever process of those that were started with the folder passes it first.
// Its methods are safe for concurrent use by any number of processes.
type Folder struct{ dir string }

// folder is the folder of the whole process, empty without one.
var folder atomic.Pointer[Folder]

// NewFolder returns the points of a folder, which exists.
func NewFolder(dir string) Folder { return Folder{dir: dir} }

// Env is the variable that makes a process use the folder.
func (f Folder) Env() string { return EnvVar + "=" + folderPrefix + f.dir }

func (f Folder) file(p Point) string { return filepath.Join(f.dir, string(p)) }

// Arm makes p act once; a hit of earlier is forgotten.
func (f Folder) Arm(p Point, a Action) error {
	if err := f.Resume(p); err != nil {
		return err
	}
	// Renamed into place, so that nobody reads half an action.
	next := f.file(p) + ".next"
	if err := os.WriteFile(next, []byte(a), 0o600); err != nil {
		return err
	}
	return os.Rename(next, f.file(p))
}

// Disarm makes p act no more; it reports whether it was armed still.
func (f Folder) Disarm(p Point) bool { return os.Remove(f.file(p)) == nil }

// Reached reports whether p has acted since it was armed.
func (f Folder) Reached(p Point) bool {
	_, err := os.Stat(f.file(p) + hitSuffix)
	return err == nil
}

// Resume lets who is paused at p go on.
func (f Folder) Resume(p Point) error {
	if err := os.Remove(f.file(p) + hitSuffix); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// act passes the point p.
func (f *Folder) act(ctx context.Context, p Point) error {
	if f == nil {
		return nil
	}
	action, err := os.ReadFile(f.file(p))
	if err != nil {
		return nil //nolint:nilerr // not armed
	}
	if os.Rename(f.file(p), f.file(p)+hitSuffix) != nil {
		return nil // another passed it first
	}
	switch Action(strings.TrimSpace(string(action))) {
	case Panic:
		panic(fmt.Sprintf("failpoint %s: %v", p, ErrInjected))
	case Kill:
		return killSelf()
	case Pause:
		return f.pause(ctx, p)
	default:
		return fmt.Errorf("failpoint %s: %w", p, ErrInjected)
	}
}

func (f *Folder) pause(ctx context.Context, p Point) error {
	tick := time.NewTicker(pauseLook)
	defer tick.Stop()
	for f.Reached(p) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
