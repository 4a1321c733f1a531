package cli

import (
	"context"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// followLogs prints lines after req.After. A stream that breaks after it has
// delivered is taken up again after the last line seen; other errors end it.
func (a *app) followLogs(ctx context.Context, c *sdk.Client, req *lehrv1.BuildLogsRequest, print func(*lehrv1.LogLine) error) error {
	patience := a.patience()
	first := req.GetAfter()
	for {
		before := req.GetAfter()
		err := streamLogs(ctx, c, req, print)
		if err == nil || req.GetAfter() == first {
			return err
		}
		if err := patience.wait(ctx, err, req.GetAfter() > before); err != nil {
			return err
		}
	}
}

// streamLogs reads one stream and keeps req.After at the last line printed.
func streamLogs(ctx context.Context, c *sdk.Client, req *lehrv1.BuildLogsRequest, print func(*lehrv1.LogLine) error) error {
	stream, err := c.Builds.Logs(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := print(stream.Msg()); err != nil {
			return err
		}
		req.After = stream.Msg().GetSeq()
	}
	return stream.Err()
}
