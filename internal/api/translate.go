package api

import (
	"context"
	"errors"
	"log/slog"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/internal/httpkit"
)

// translate logs errors once and turns them into Connect errors.
type translate struct{ log *slog.Logger }

func (t translate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		return res, t.error(ctx, req.Spec().Procedure, err)
	}
}

func (t translate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return t.error(ctx, conn.Spec().Procedure, next(ctx, conn))
	}
}

func (t translate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (t translate) error(ctx context.Context, procedure string, err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		// Connect's own: a message that does not parse, a client that is gone.
		t.log.DebugContext(ctx, "request failed", "operation", procedure, "code", ce.Code(), "error", err)
		return err
	}
	httpkit.LogError(ctx, t.log, procedure, err)
	return httpkit.ConnectError(err)
}
