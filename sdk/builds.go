package sdk

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// How long a broken connection is taken up again: that many times in a row
// without anything new, with this pause.
const (
	retryMost  = 30
	retryPause = time.Second
)

// Follow says how a build is followed. The zero value waits for its end.
type Follow struct {
	// After is the seq of the last line that was seen; lines after it come.
	After int64
	// Line takes each line of the log, once and in order; nil takes none. Its
	// error ends the following.
	Line func(*lehrv1.LogLine) error
	// Broken is told when the connection broke and is tried again; nil is not.
	Broken func(error)
}

// FollowBuild shows a build's log as it is written, until the build has ended,
// and returns the build. A connection that breaks is taken up after the last
// line that came, for half a minute. How the build ended is in its status: a
// failed build is no error.
func (c *Client) FollowBuild(ctx context.Context, id string, f Follow) (*lehrv1.Build, error) {
	failures := 0
	for {
		before := f.After
		b, err := c.followOnce(ctx, id, &f)
		switch {
		case err == nil && BuildEnded(b):
			return b, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && !Broken(err):
			return nil, err
		}
		if f.After > before {
			failures = 0
		}
		if failures++; failures > retryMost {
			return nil, errors.Join(errors.New("the log ends again and again while the build goes on"), err)
		}
		if err != nil && failures == 1 && f.Broken != nil {
			f.Broken(err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(retryPause):
		}
	}
}

// followOnce reads one stream to its end and asks how the build is: that the
// log ends says nothing, a server that stops ends it too.
func (c *Client) followOnce(ctx context.Context, id string, f *Follow) (*lehrv1.Build, error) {
	stream, err := c.Builds.Logs(ctx, connect.NewRequest(&lehrv1.BuildLogsRequest{Id: id, After: f.After, Follow: true}))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		if f.Line != nil {
			if err := f.Line(stream.Msg()); err != nil {
				return nil, err
			}
		}
		f.After = stream.Msg().GetSeq()
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	res, err := c.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// BuildEnded reports whether a build is success, failed or cancelled.
func BuildEnded(b *lehrv1.Build) bool {
	switch b.GetStatus() {
	case "success", "failed", "cancelled":
		return true
	}
	return false
}

// Broken reports whether a call ended without the server's word, or with the
// word that it is not there for now: making the call again may help.
func Broken(err error) bool {
	var ce *connect.Error
	return errors.As(err, &ce) && (!connect.IsWireError(err) || ce.Code() == connect.CodeUnavailable)
}
