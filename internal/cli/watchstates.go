package cli

import (
	"context"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/cli/progress"
	"github.com/lehr-dev/lehr/sdk"
)

// progressFlag adds --progress.
func (a *app) progressFlag(fs *pflag.FlagSet, mode *string, usual progress.Mode) {
	fs.StringVar(mode, "progress", string(usual), "how progress is shown: "+strings.Join(progress.Modes(), ", "))
}

// completeProgress completes the values of --progress.
func completeProgress(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(progress.Modes(), cobra.ShellCompDirectiveNoFileComp))
}

// How often a build is asked for: at most so often after its log says
// something, and now and then while it says nothing. A build that takes long to
// fetch, as one of thousands of steps does, is asked for less often.
const (
	stateSoon  = 100 * time.Millisecond
	stateIdle  = time.Second
	stateShare = 10 // at most one part in so many of the time is spent asking
)

// states asks for a build while it runs and hands it to the display. It is for
// one build; wake and end may be called at any time.
type states struct {
	woken  chan struct{}
	cancel context.CancelFunc
	over   sync.WaitGroup
}

// pollStates starts asking, where the display has a use for it.
func (w *watch) pollStates(ctx context.Context, id string) *states {
	ctx, cancel := context.WithCancel(ctx)
	s := &states{woken: make(chan struct{}, 1), cancel: cancel}
	if w.display.States() {
		s.over.Go(func() { s.run(ctx, w, id) })
	}
	return s
}

// wake says that the build's state may have changed.
func (s *states) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// end waits for the last answer.
func (s *states) end() {
	s.cancel()
	s.over.Wait()
}

func (s *states) run(ctx context.Context, w *watch, id string) {
	for {
		began := time.Now()
		res, err := w.client.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: id}))
		if err == nil && !sdk.BuildEnded(res.Msg) { // the end is told when the log has ended
			w.display.State(res.Msg)
		}
		pause := max(stateSoon, stateShare*time.Since(began))
		if !sleep(ctx, pause, nil) || !sleep(ctx, max(stateIdle-pause, 0), s.woken) {
			return
		}
	}
}

// sleep waits; something in early ends it, the end of ctx makes it false.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-early:
	case <-ctx.Done():
		return false
	}
	return true
}

// earlierPatience bounds the look for an earlier build.
const earlierPatience = 2 * time.Second

// earlier finds the last successful build of a template, of the same tag if
// there is one among the last few: it says how long steps take. Nil where there
// is none, or nobody to show it to.
func (a *app) earlier(ctx context.Context, c *sdk.Client, mode progress.Mode, ref string) *lehrv1.Build {
	if mode != progress.TTY {
		return nil
	}
	ctx, done := context.WithTimeout(ctx, earlierPatience)
	defer done()
	name, tag, _ := strings.Cut(ref, ":")
	if tag == "" {
		tag = "default"
	}
	list, err := c.Builds.List(ctx, connect.NewRequest(&lehrv1.ListBuildsRequest{Name: strings.ToLower(name), Status: "success", Limit: 10}))
	if err != nil || len(list.Msg.GetBuilds()) == 0 {
		return nil
	}
	last := list.Msg.GetBuilds()[0]
	for _, b := range list.Msg.GetBuilds() {
		if b.GetTag() == tag {
			last = b
			break
		}
	}
	res, err := c.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: last.GetId()}))
	if err != nil {
		return nil
	}
	return res.Msg
}
