package guestclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// maxText bounds a message of the daemon, in bytes.
const maxText = 1 << 10

// kindOfStatus is the kind an HTTP status stands for.
func kindOfStatus(status int) errs.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusNotAcceptable, http.StatusRequestedRangeNotSatisfiable:
		return errs.Invalid
	case http.StatusUnauthorized:
		return errs.Unauthenticated
	case http.StatusForbidden:
		return errs.PermissionDenied
	case http.StatusNotFound:
		return errs.NotFound
	case http.StatusConflict:
		return errs.Conflict
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		return errs.Exhausted
	case http.StatusNotImplemented:
		return errs.Unsupported
	}
	return errs.Unavailable
}

// kindOfCode is the kind a Connect code stands for.
func kindOfCode(code connect.Code) errs.Kind {
	switch code {
	case connect.CodeInvalidArgument:
		return errs.Invalid
	case connect.CodeUnauthenticated:
		return errs.Unauthenticated
	case connect.CodePermissionDenied:
		return errs.PermissionDenied
	case connect.CodeNotFound:
		return errs.NotFound
	case connect.CodeAlreadyExists:
		return errs.Exists
	case connect.CodeFailedPrecondition:
		return errs.Conflict
	case connect.CodeResourceExhausted:
		return errs.Exhausted
	case connect.CodeDeadlineExceeded:
		return errs.Timeout
	case connect.CodeCanceled:
		return errs.Cancelled
	case connect.CodeUnimplemented:
		return errs.Unsupported
	}
	return errs.Unavailable
}

// statusError reads a failed plain answer.
func statusError(resp *http.Response) error {
	var body struct {
		Message string `json:"message"`
	}
	// Without a readable body the status has to do.
	_ = json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&body)
	if body.Message == "" {
		body.Message = "the guest daemon answered " + resp.Status
	}
	return guestError(kindOfStatus(resp.StatusCode), resp.Header.Get(wire.HeaderErrorCode), body.Message)
}

// rpcError translates a failed Connect call: its own end first, then what the
// daemon said.
func rpcError(ctx context.Context, err error) error {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return transportError(ctx, err)
	}
	if !connect.IsWireError(err) {
		return transportError(ctx, err)
	}
	return guestError(kindOfCode(rpc.Code()), rpc.Meta().Get(wire.HeaderErrorCode), rpc.Message())
}

// guestError makes an error of the daemon's words. Only codes we know count: an
// unknown user is a fault of the request, whatever status carried it.
func guestError(kind errs.Kind, code, text string) error {
	switch code {
	case wire.CodeUserUnknown:
		kind = errs.Invalid
	case wire.CodeCommandNotFound, wire.CodeCommandNotExecutable, wire.CodeWorkdirMissing,
		wire.CodeProcessUnknown, wire.CodeDiskFull:
	default:
		code = ""
	}
	return errs.New(kind, "%s", clean(text)).WithOp("guest").WithCode(code)
}

// clean bounds a text of the daemon and keeps control characters out of
// terminals and logs.
func clean(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || (r < ' ' && r != '\n' && r != '\t') || (r >= 0x7f && r < 0xa0) {
			return '\uFFFD'
		}
		return r
	}, text)
}
