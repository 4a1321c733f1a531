package guestd_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
)

// Numbers of processes; LEHR_TEST_PROCESSES sets how many run one after another.
const (
	together      = 1000
	oneAfterOther = 1000
)

// leftovers are what processes could leave behind.
type leftovers struct{ dead, files, goroutines int }

func count(t *testing.T) (l leftovers) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	own := " " + strconv.Itoa(os.Getpid()) + " "
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if _, rest, ok := strings.Cut(string(stat), ") Z"); err == nil && ok && strings.HasPrefix(rest, own) {
			l.dead++
		}
	}
	l.files, l.goroutines = len(files), runtime.NumGoroutine()
	return l
}

// Many processes at once, and many one after another, leave neither dead
// processes, nor descriptors, nor goroutines. It counts and so runs alone.
func TestManyProcesses(t *testing.T) { //nolint:paralleltest // see above
	d := initialised(t)
	limit, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // it is much work for a busy machine
	defer cancel()
	ctx, u := withoutDeadline{limit}, d.user(t)
	var work sync.WaitGroup
	// follow takes what a process tells until its end.
	follow := func(e *events) {
		for {
			ev, err := e.next()
			if err != nil || ev == nil {
				t.Errorf("the stream ended early: %v", err)
				return
			}
			if ev.GetEnd() != nil {
				_, _ = e.next()
				return
			}
		}
	}
	_, e := u.start(t, ctx, script("true"))
	follow(e)
	before := count(t)

	pids := make([]uint32, together)
	for i := range pids {
		var e *events
		pids[i], e = u.start(t, ctx, script("read line"))
		work.Go(func() { follow(e) })
	}
	list, err := u.processes.List(ctx, connect.NewRequest(&process.ListRequest{}))
	must(t, err)
	if n := len(list.Msg.GetProcesses()); n != together {
		t.Errorf("%d processes run, want %d", n, together)
	}
	for _, pid := range pids {
		must(t, u.closeStdin(ctx, pid))
	}
	work.Wait()

	n := oneAfterOther
	if text := os.Getenv("LEHR_TEST_PROCESSES"); text != "" {
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		work.Go(func() {
			for range n / 8 {
				stream, err := u.processes.Start(ctx, connect.NewRequest(script("sleep 0 & wait")))
				if err != nil {
					t.Error(err)
					return
				}
				follow(&events{t: t, next: func() (*process.ProcessEvent, error) {
					if !stream.Receive() {
						return nil, stream.Err()
					}
					return stream.Msg().GetEvent(), nil
				}})
				if err := stream.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	u.idle()
	after := count(t)
	for ; ctx.Err() == nil && (after.dead > before.dead || after.files > before.files || after.goroutines > before.goroutines); after = count(t) {
		runtime.Gosched() // connections may still be closing
	}
	if ctx.Err() != nil {
		t.Errorf("left: %+v, before: %+v", after, before)
	}
}
