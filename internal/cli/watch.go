package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/cli/progress"
	"github.com/lehr-dev/lehr/sdk"
)

// watch is one build while a person or a program follows it.
type watch struct {
	app     *app
	client  *sdk.Client
	display progress.Display
	source  recipeSource // of the build's recipe; empty where it is not at hand
	quiet   bool
}

// buildAndWatch creates a build, shows it until it has ended and returns its
// exit code. Interrupts count from before the create: a build that the server
// has made must not run on because nobody waited for its id.
func (w *watch) buildAndWatch(ctx context.Context, req *lehrv1.CreateBuildRequest) error {
	defer w.display.Close()
	i := newBuildInterrupts(ctx, w)
	defer i.end()
	res, err := w.client.Builds.Create(i.ctx, connect.NewRequest(req))
	if err != nil {
		i.detach() // there is nothing to cancel
		return w.refused(err)
	}
	b := res.Msg
	i.created(b.GetId())
	w.display.Note(fmt.Sprintf("build %s of %s:%s, %d steps", b.GetId(), b.GetName(), b.GetTag(), b.GetTotalSteps()))
	w.display.State(b)
	ended, err := w.follow(i.ctx, &lehrv1.BuildLogsRequest{Id: b.GetId()})
	if i.ctx.Err() != nil {
		return w.detached(ctx, b)
	}
	if err != nil {
		return w.refused(err)
	}
	return w.finish(ended)
}

// rejoin shows a build that somebody else began, to its end.
func (w *watch) rejoin(ctx context.Context, req *lehrv1.BuildLogsRequest) error {
	defer w.display.Close()
	res, err := w.client.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: req.GetId()}))
	if err != nil {
		return w.refused(err)
	}
	if !sdk.BuildEnded(res.Msg) {
		w.display.State(res.Msg)
	}
	ended, err := w.follow(ctx, req)
	if err != nil {
		return w.refused(err)
	}
	return w.finish(ended)
}

// follow shows a build's log until the build has ended.
func (w *watch) follow(ctx context.Context, req *lehrv1.BuildLogsRequest) (*lehrv1.Build, error) {
	states := w.pollStates(ctx, req.GetId())
	defer states.end()
	ended, err := w.client.FollowBuild(ctx, req.GetId(), sdk.Follow{
		After: req.GetAfter(),
		Line: func(l *lehrv1.LogLine) error {
			if l.GetStream() == "system" {
				states.wake()
			}
			return w.display.Line(l)
		},
		Broken: func(error) { w.display.Note(tryingAgain) },
	})
	if err != nil {
		return nil, err
	}
	states.end()
	w.display.State(ended)
	return ended, nil
}

// refused shows an error that ended the command instead of the build.
func (w *watch) refused(err error) error {
	if errors.As(err, new(exitCode)) {
		return err
	}
	message, code, remedy := describe(err)
	w.display.Failed(progress.Failure{Message: w.source.relocate(message), Code: code, Remedy: remedy})
	return exitCode(codeOf(err))
}

// detached says that the build goes on by itself. Its object is still owed to
// whoever reads stdout.
func (w *watch) detached(ctx context.Context, b *lehrv1.Build) error {
	w.display.Note("detached; follow it with: lehr builds logs -f " + b.GetId())
	w.display.Close()
	if w.app.json() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), retryPause)
		defer done()
		if res, err := w.client.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: b.GetId()})); err == nil {
			b = res.Msg
		}
		if err := w.app.printOne(b, nil); err != nil {
			return err
		}
	}
	return exitCode(ExitCancelled)
}

// finish says how a build ended; its object goes to stdout as JSON.
func (w *watch) finish(b *lehrv1.Build) error {
	code := ExitOK
	switch b.GetStatus() {
	case "success":
		art := b.GetArtifact()
		w.display.Note(fmt.Sprintf("built %s:%s, a %s template of %s (%s)\n  try: lehr run %s:%s -- true",
			b.GetName(), b.GetTag(), art.GetType(), mebibytes(art.GetSizeBytes()), art.GetVersion(), b.GetName(), b.GetTag()))
	case "cancelled":
		w.display.Note("cancelled " + b.GetId())
		code = ExitCancelled
	default:
		w.display.Failed(w.failure(b))
		code = ExitRefused
		if b.GetError().GetFault() == "platform" {
			code = ExitPlatform
		}
	}
	w.display.Close()
	if err := w.print(b); err != nil {
		return err
	}
	if code == ExitOK {
		return nil
	}
	return exitCode(code)
}

func (w *watch) failure(b *lehrv1.Build) progress.Failure {
	e := b.GetError()
	return progress.Failure{
		Message: w.source.relocate(e.GetMessage()), Code: e.GetCode(), Remedy: e.GetRemedy(), Fault: e.GetFault(),
		Log: "lehr builds logs " + b.GetId(), Excerpt: w.source.excerpt(b),
	}
}

// print writes the build's object as JSON, or where nothing else is shown its
// version.
func (w *watch) print(b *lehrv1.Build) error {
	if w.app.json() {
		return w.app.printOne(b, nil)
	}
	if w.quiet && b.GetStatus() == "success" {
		_, err := fmt.Fprintln(w.app.env.Stdout, b.GetArtifact().GetVersion())
		return err
	}
	return nil
}

// buildInterrupts makes the first interrupt, or the end of the command's
// context, cancel the build, and on a terminal the second one detach from it.
type buildInterrupts struct {
	watch  *watch
	ctx    context.Context // of the calls about the build; detach ends it
	detach context.CancelFunc
	stop   func() bool // ends the watch over the command's context

	mu    sync.Mutex
	count int
	id    string        // set before made is closed
	made  chan struct{} // closed when the build exists
	tasks sync.WaitGroup
}

func newBuildInterrupts(ctx context.Context, w *watch) *buildInterrupts {
	i := &buildInterrupts{watch: w, made: make(chan struct{})}
	i.ctx, i.detach = context.WithCancel(context.WithoutCancel(ctx))
	i.stop = context.AfterFunc(ctx, i.interrupted)
	f := i.interrupted
	w.app.onInterrupt.Store(&f)
	return i
}

// end hands interrupts back and waits for a cancel under way.
func (i *buildInterrupts) end() {
	i.watch.app.onInterrupt.Store(nil)
	i.stop()
	i.mu.Lock()
	i.count++ // one that comes now starts no cancel
	i.mu.Unlock()
	i.tasks.Wait()
	i.detach()
}

func (i *buildInterrupts) created(id string) {
	i.id = id
	close(i.made)
}

func (i *buildInterrupts) interrupted() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.count++
	switch {
	case i.count > 1 && i.watch.app.terminal:
		i.detach()
	case i.count > 1:
	case i.watch.app.terminal:
		i.watch.display.Cancelling("cancelling the build; press Ctrl-C again to leave it to itself")
		i.tasks.Go(i.cancel)
	default:
		i.watch.display.Cancelling("cancelling the build")
		i.tasks.Go(i.cancel)
	}
}

// cancel asks the server; the log's end then ends the command. Where the server
// does not answer, the command ends all the same.
func (i *buildInterrupts) cancel() {
	ctx, done := context.WithTimeout(i.ctx, killTime)
	defer done()
	select {
	case <-i.made:
	case <-ctx.Done():
		i.detach()
		return
	}
	_, err := i.watch.client.Builds.Cancel(ctx, connect.NewRequest(&lehrv1.CancelBuildRequest{Id: i.id}))
	if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition && i.ctx.Err() == nil {
		message, _, _ := describe(err)
		i.watch.display.Note("lehr: the build could not be cancelled: " + message)
		i.detach()
	}
}

// How long a broken connection is taken up again: that many times in a row
// without anything new, with this pause.
const (
	retryMost  = 30
	retryPause = time.Second
)

// tryingAgain is said when a connection broke.
const tryingAgain = "lehr: the connection to the server broke, trying again"

// patience waits before a call is made again. It is owned by one loop.
type patience struct {
	app      *app
	failures int
}

func (a *app) patience() *patience { return &patience{app: a} }

// wait returns nil when the call is to be made again, after a pause. An error
// that the server gave on purpose, or that is ours, is final.
func (p *patience) wait(ctx context.Context, err error, progress bool) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !sdk.Broken(err) {
		return err
	}
	if progress {
		p.failures = 0
	}
	if p.failures++; p.failures > retryMost {
		if err == nil {
			err = errors.New("the log ends again and again while the build goes on")
		}
		return err
	}
	if err != nil && p.failures == 1 {
		fmt.Fprintln(p.app.env.Stderr, tryingAgain)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retryPause):
		return nil
	}
}
