package hostrpc

import (
	"errors"

	"connectrpc.com/connect"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

// toWire packs err for the other side. The Connect code is for people who look
// at the wire; the detail is what fromWire reads.
func toWire(err error) error {
	if err == nil {
		return nil
	}
	d := &hostv1.Error{Kind: string(errs.KindOf(err)), Code: errs.CodeOf(err), Message: err.Error()}
	var e *errs.Error
	if errors.As(err, &e) {
		d.Field, d.Message, d.Remedy = e.Field, e.Message, e.Remedy
	}
	ce := connect.NewError(connect.CodeUnknown, errors.New(d.GetMessage()))
	if errs.KindOf(err) == errs.Cancelled {
		ce = connect.NewError(connect.CodeCanceled, errors.New(d.GetMessage()))
	}
	if detail, derr := connect.NewErrorDetail(d); derr == nil {
		ce.AddDetail(detail)
	}
	return ce
}

// fromWire unpacks what the other side sent. An error without our detail is
// the connection's: the agent cannot be reached, or the call was given up.
func fromWire(op string, err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err // of the caller's own callback or reader
	}
	for _, d := range ce.Details() {
		v, verr := d.Value()
		if m, ok := v.(*hostv1.Error); verr == nil && ok {
			e := errs.New(errs.Kind(m.GetKind()), "%s", m.GetMessage()).WithCode(m.GetCode()).WithField(m.GetField()).WithOp(op)
			e.Remedy = m.GetRemedy()
			return e
		}
	}
	switch ce.Code() {
	case connect.CodeCanceled:
		return errs.Wrap(err, errs.Cancelled, op, "the call was given up")
	case connect.CodeDeadlineExceeded:
		return errs.Wrap(err, errs.Timeout, op, "the call reached its time limit")
	}
	return errs.Wrap(err, errs.Unavailable, op, "the host's agent does not answer").WithCode("agent_unreachable")
}
