package guestd_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
)

// Numbers of processes; LEHR_TEST_PROCESSES sets how many run one after another.
const (
	together      = 1000
	oneAfterOther = 2000
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
	ctx, u := patient(t), d.user(t)
	run := func(req *process.StartRequest, started func(pid uint32)) *process.ProcessEvent_EndEvent {
		stream, err := u.processes.Start(ctx, connect.NewRequest(req))
		if err != nil {
			t.Error(err)
			return nil
		}
		defer stream.Close()
		var end *process.ProcessEvent_EndEvent
		for stream.Receive() {
			if s := stream.Msg().GetEvent().GetStart(); s != nil {
				started(s.GetPid())
			}
			end = stream.Msg().GetEvent().GetEnd()
		}
		if end == nil {
			t.Errorf("the stream ended early: %v", stream.Err())
		}
		return end
	}
	run(script("true"), func(uint32) {})
	before := count(t)

	var work, running sync.WaitGroup
	running.Add(together)
	let := make(chan struct{})
	for range together {
		work.Go(func() {
			run(script("read line"), func(pid uint32) {
				running.Done()
				<-let
				if err := u.closeStdin(ctx, pid); err != nil {
					t.Error(err)
				}
			})
		})
	}
	running.Wait()
	list, err := u.processes.List(ctx, connect.NewRequest(&process.ListRequest{}))
	must(t, err)
	if n := len(list.Msg.GetProcesses()); n != together {
		t.Errorf("%d processes run, want %d", n, together)
	}
	close(let)
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
				run(script("sleep 0 & wait"), func(uint32) {})
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
