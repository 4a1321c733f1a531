package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// buildAndWatch creates a build, shows it until it has ended and returns its
// exit code. Interrupts count from before the create: a build that the server
// has made must not run on because nobody waited for its id.
func (a *app) buildAndWatch(ctx context.Context, c *sdk.Client, req *lehrv1.CreateBuildRequest) error {
	i := newBuildInterrupts(ctx, a, c)
	defer i.end()
	res, err := c.Builds.Create(i.ctx, connect.NewRequest(req))
	if err != nil {
		i.detach() // there is nothing to cancel
		return err
	}
	b := res.Msg
	i.created(b.GetId())
	fmt.Fprintf(a.env.Stderr, "build %s of %s:%s, %d steps\n", b.GetId(), b.GetName(), b.GetTag(), b.GetTotalSteps())
	ended, err := a.watchBuild(i.ctx, c, b.GetId())
	if i.ctx.Err() != nil {
		return a.detached(ctx, c, b)
	}
	if err != nil {
		return err
	}
	return a.finishBuild(ended)
}

// watchBuild prints a build's log until the build has ended. That the log ends
// says nothing: a server that stops ends it too.
func (a *app) watchBuild(ctx context.Context, c *sdk.Client, id string) (*lehrv1.Build, error) {
	req := &lehrv1.BuildLogsRequest{Id: id, Follow: true}
	p := &plainLog{out: a.env.Stderr}
	patience := a.patience()
	for {
		before := req.GetAfter()
		err := streamLogs(ctx, c, req, p.line)
		var res *connect.Response[lehrv1.Build]
		if err == nil {
			res, err = c.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: id}))
		}
		if err == nil && hasEnded(res.Msg) {
			return res.Msg, nil
		}
		if err := patience.wait(ctx, err, req.GetAfter() > before); err != nil {
			return nil, err
		}
	}
}

func hasEnded(b *lehrv1.Build) bool {
	return b.GetStatus() == "success" || b.GetStatus() == "failed" || b.GetStatus() == "cancelled"
}

// detached says that the build goes on by itself. Its object is still owed to
// whoever reads stdout.
func (a *app) detached(ctx context.Context, c *sdk.Client, b *lehrv1.Build) error {
	fmt.Fprintf(a.env.Stderr, "detached; follow it with: lehr builds logs -f %s\n", b.GetId())
	if a.json() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), retryPause)
		defer done()
		if res, err := c.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: b.GetId()})); err == nil {
			b = res.Msg
		}
		if err := a.printOne(b, nil); err != nil {
			return err
		}
	}
	return exitCode(ExitCancelled)
}

// finishBuild says how a build ended; the object goes to stdout as JSON.
func (a *app) finishBuild(b *lehrv1.Build) error {
	if a.json() {
		if err := a.printOne(b, nil); err != nil {
			return err
		}
	}
	switch b.GetStatus() {
	case "success":
		art := b.GetArtifact()
		fmt.Fprintf(a.env.Stderr, "built %s:%s, a %s template of %s (%s)\n  try: lehr run %s:%s -- true\n",
			b.GetName(), b.GetTag(), art.GetType(), mebibytes(art.GetSizeBytes()), art.GetVersion(), b.GetName(), b.GetTag())
		return nil
	case "cancelled":
		fmt.Fprintf(a.env.Stderr, "cancelled %s\n", b.GetId())
		return exitCode(ExitCancelled)
	}
	e := b.GetError()
	a.printFailure(e.GetMessage(), e.GetCode(), e.GetRemedy())
	fmt.Fprintf(a.env.Stderr, "  log: lehr builds logs %s\n", b.GetId())
	if e.GetFault() == "platform" {
		return exitCode(ExitPlatform)
	}
	return exitCode(ExitRefused)
}

// buildInterrupts makes the first interrupt, or the end of the command's
// context, cancel the build, and on a terminal the second one detach from it.
type buildInterrupts struct {
	app    *app
	client *sdk.Client
	ctx    context.Context // of the calls about the build; detach ends it
	detach context.CancelFunc
	stop   func() bool // ends the watch over the command's context

	mu    sync.Mutex
	count int
	id    string        // set before made is closed
	made  chan struct{} // closed when the build exists
	tasks sync.WaitGroup
}

func newBuildInterrupts(ctx context.Context, a *app, c *sdk.Client) *buildInterrupts {
	i := &buildInterrupts{app: a, client: c, made: make(chan struct{})}
	i.ctx, i.detach = context.WithCancel(context.WithoutCancel(ctx))
	i.stop = context.AfterFunc(ctx, i.interrupted)
	f := i.interrupted
	a.onInterrupt.Store(&f)
	return i
}

// end hands interrupts back and waits for a cancel under way.
func (i *buildInterrupts) end() {
	i.app.onInterrupt.Store(nil)
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
	case i.count > 1 && i.app.terminal:
		i.detach()
	case i.count > 1:
	case i.app.terminal:
		fmt.Fprintln(i.app.env.Stderr, "cancelling the build; press Ctrl-C again to leave it to itself")
		i.tasks.Go(i.cancel)
	default:
		fmt.Fprintln(i.app.env.Stderr, "cancelling the build")
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
	_, err := i.client.Builds.Cancel(ctx, connect.NewRequest(&lehrv1.CancelBuildRequest{Id: i.id}))
	if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition && i.ctx.Err() == nil {
		i.app.printError(err)
		i.detach()
	}
}

// How long a broken connection is taken up again: that many times in a row
// without anything new, with this pause.
const (
	retryMost  = 30
	retryPause = time.Second
)

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
	if err != nil && !broken(err) {
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
		fmt.Fprintln(p.app.env.Stderr, "lehr: the connection to the server broke, trying again")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retryPause):
		return nil
	}
}

// broken reports whether a call ended without the server's word, or with the
// word that it is not there for now.
func broken(err error) bool {
	var ce *connect.Error
	return errors.As(err, &ce) && (!connect.IsWireError(err) || ce.Code() == connect.CodeUnavailable)
}
