package host_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestPullIsShared(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	var pulls atomic.Int32
	began, goOn := make(chan struct{}, 10), make(chan struct{})
	b.Images.Offer("x/y@z", lehr.ImageConfig{User: "7"}, func(ctx context.Context) error {
		pulls.Add(1)
		began <- struct{}{}
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r := agent.RegistryImage{Reference: "x/y@z", Auth: agent.RegistryAuth{Token: "t"}}
	var all sync.WaitGroup
	pull := func(ctx context.Context, r agent.RegistryImage, want error) {
		all.Go(func() {
			img, err := b.PullImage(ctx, r)
			if !errors.Is(err, want) || want == nil && (err != nil || img.Config.User != "7") {
				t.Errorf("PullImage() = %+v, %v, want %v", img, err, want)
			}
		})
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	pull(ctx, r, stop)
	<-began
	pull(t.Context(), r, nil)
	pull(t.Context(), agent.RegistryImage{Reference: "x/y@z"}, nil) // another login is another pull
	<-began
	cancel(stop) // one who waits gives up; the others do not
	close(goOn)
	all.Wait()
	if got := pulls.Load(); got < 2 || got > 3 { // the second may come after the first gave up
		t.Errorf("%d pulls, want one for each login", got)
	}
	_, err := b.PullImage(t.Context(), agent.RegistryImage{Reference: "none"})
	wantCode(t, "PullImage(none)", err, errs.NotFound, "base_not_found")
	if got, err := b.ResolveImage(t.Context(), r); err != nil || got.Config.User != "7" {
		t.Errorf("ResolveImage() = %+v, %v", got, err)
	}
}

// The work ends when nobody waits for it.
func TestAbandonedPullEnds(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	began, ended := make(chan struct{}), make(chan error, 1)
	b.Images.Offer("x/y@z", lehr.ImageConfig{}, func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return context.Cause(ctx)
	})
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.PullImage(ctx, agent.RegistryImage{Reference: "x/y@z"})
		done <- err
	}()
	<-began
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Errorf("PullImage() = %v, want %v", err, stop)
	}
	if err := <-ended; !errors.Is(err, stop) {
		t.Errorf("the pull ended with %v, want %v", err, stop)
	}
}
