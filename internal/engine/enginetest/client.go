package enginetest

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
)

// ProbeError is what the probe answered to a verb that failed inside the
// sandbox, the errno's name first.
type ProbeError struct {
	Text string
}

// Error returns the probe's text.
func (e *ProbeError) Error() string { return "probe: " + e.Text }

// Run runs one verb of the probe over Dial. A failure inside the sandbox is a
// *ProbeError, returned with the output; any other error is the connection's.
func Run(ctx context.Context, sb engine.Sandbox, verb string, args ...string) (string, error) {
	conn, err := sb.Dial(ctx, probewire.Port)
	if err != nil {
		return "", fmt.Errorf("dial the probe: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var reply probewire.Reply
	if err := roundTrip(conn, probewire.Request{Verb: verb, Args: args}, &reply); err != nil {
		return "", errors.Join(err, ctx.Err())
	}
	if reply.Err != "" {
		return reply.Out, &ProbeError{Text: reply.Err}
	}
	return reply.Out, nil
}

// hold opens a connection that the probe keeps.
func hold(ctx context.Context, sb engine.Sandbox) (net.Conn, error) {
	conn, err := sb.Dial(ctx, probewire.Port)
	if err != nil {
		return nil, fmt.Errorf("dial the probe: %w", err)
	}
	if err := roundTrip(conn, probewire.Request{Verb: "hold"}, &probewire.Reply{}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func roundTrip(conn net.Conn, req probewire.Request, reply *probewire.Reply) error {
	if err := probewire.Write(conn, req); err != nil {
		return fmt.Errorf("ask the probe: %w", err)
	}
	if err := probewire.Read(conn, reply); err != nil {
		return fmt.Errorf("hear the probe: %w", err)
	}
	return nil
}
