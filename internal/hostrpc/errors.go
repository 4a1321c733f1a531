package hostrpc

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

// wireCodes is the Connect code of each kind, for people and proxies that look
// at the wire; the detail is what fromWire reads.
var wireCodes = map[errs.Kind]connect.Code{
	errs.Invalid:          connect.CodeInvalidArgument,
	errs.Unauthenticated:  connect.CodeUnauthenticated,
	errs.PermissionDenied: connect.CodePermissionDenied,
	errs.NotFound:         connect.CodeNotFound,
	errs.Exists:           connect.CodeAlreadyExists,
	errs.Conflict:         connect.CodeFailedPrecondition,
	errs.Exhausted:        connect.CodeResourceExhausted,
	errs.Unavailable:      connect.CodeUnavailable,
	errs.Timeout:          connect.CodeDeadlineExceeded,
	errs.Cancelled:        connect.CodeCanceled,
	errs.Unsupported:      connect.CodeUnimplemented,
	errs.Corrupt:          connect.CodeDataLoss,
	errs.Internal:         connect.CodeInternal,
}

// pack gathers what the other side may know of err. What comes from a sandbox
// may hold any bytes; strings on the wire are UTF-8.
func pack(err error) *hostv1.Error {
	d := &hostv1.Error{Kind: string(errs.KindOf(err)), Code: errs.CodeOf(err), Message: err.Error()}
	var e *errs.Error
	if errors.As(err, &e) {
		d.Field, d.Message, d.Remedy = e.Field, e.Message, e.Remedy
	}
	for _, s := range []*string{&d.Code, &d.Field, &d.Message, &d.Remedy} {
		*s = strings.ToValidUTF8(*s, "\uFFFD")
	}
	return d
}

// unpack is the error that pack was given, without its causes.
func unpack(m *hostv1.Error, op string) error {
	e := errs.New(errs.Kind(m.GetKind()), "%s", m.GetMessage()).WithField(m.GetField()).WithOp(op)
	e.Remedy = m.GetRemedy()
	if m.GetCode() != m.GetKind() { // the kind stands for a missing code
		e.Code = m.GetCode()
	}
	return e
}

// toWire packs err for the other side.
func toWire(err error) error {
	if err == nil {
		return nil
	}
	d := pack(err)
	code, known := wireCodes[errs.Kind(d.GetKind())]
	if !known {
		code = connect.CodeInternal
	}
	ce := connect.NewError(code, errors.New(d.GetMessage()))
	if detail, derr := connect.NewErrorDetail(d); derr == nil {
		ce.AddDetail(detail)
	}
	return ce
}

// fromWire unpacks what the other side sent. When the caller's own context has
// ended, that is the reason, whatever the connection made of it. An error
// without our detail is the connection's.
func fromWire(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err // of the caller's own callback or reader
	}
	if cause := context.Cause(ctx); cause != nil {
		kind := errs.KindOf(cause)
		if kind == errs.Internal {
			kind = errs.Cancelled
		}
		return errs.Wrap(cause, kind, op, "the call was given up")
	}
	for _, d := range ce.Details() {
		v, verr := d.Value()
		m, ours := v.(*hostv1.Error)
		if verr != nil || !ours {
			continue
		}
		return unpack(m, op)
	}
	if ce.Code() == connect.CodeResourceExhausted {
		return errs.Wrap(err, errs.Internal, op, "a message to or from the host's agent is too large")
	}
	return errs.Wrap(err, errs.Unavailable, op, "the host's agent does not answer").WithCode("agent_unreachable")
}
