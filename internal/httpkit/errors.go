// Package httpkit is what the HTTP doors share: the one table from error kinds
// to HTTP status and Connect code, the JSON error body, and the wrappers that
// bound, guard and log requests.
package httpkit

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

type codes struct {
	http    int
	connect connect.Code
}

// table maps every kind of error; what is missing here is Internal.
var table = map[errs.Kind]codes{
	errs.Invalid:          {http.StatusBadRequest, connect.CodeInvalidArgument},
	errs.Unauthenticated:  {http.StatusUnauthorized, connect.CodeUnauthenticated},
	errs.PermissionDenied: {http.StatusForbidden, connect.CodePermissionDenied},
	errs.NotFound:         {http.StatusNotFound, connect.CodeNotFound},
	errs.Exists:           {http.StatusConflict, connect.CodeAlreadyExists},
	errs.Conflict:         {http.StatusConflict, connect.CodeFailedPrecondition},
	errs.Exhausted:        {http.StatusTooManyRequests, connect.CodeResourceExhausted},
	errs.Unavailable:      {http.StatusServiceUnavailable, connect.CodeUnavailable},
	errs.Timeout:          {http.StatusGatewayTimeout, connect.CodeDeadlineExceeded},
	errs.Cancelled:        {499, connect.CodeCanceled}, // the client is gone; the number is for the log
	errs.Unsupported:      {http.StatusNotImplemented, connect.CodeUnimplemented},
	errs.Corrupt:          {http.StatusInternalServerError, connect.CodeDataLoss},
	errs.Internal:         {http.StatusInternalServerError, connect.CodeInternal},
}

func codesOf(err error) codes {
	if c, ok := table[errs.KindOf(err)]; ok {
		return c
	}
	return table[errs.Internal]
}

// Detail returns what a caller may see of err. The text of an error that is
// not an *errs.Error is kept for the log.
func Detail(err error) *lehrv1.Error {
	d := &lehrv1.Error{Code: errs.CodeOf(err)}
	var e *errs.Error
	switch {
	case errors.As(err, &e):
		d.Message, d.Remedy, d.Field = e.Message, e.Remedy, e.Field
		if e.Field != "" {
			d.Message = e.Field + ": " + e.Message
		}
	case errs.KindOf(err) == errs.Internal:
		d.Message = "an internal error happened"
		d.Remedy = "look into the server's log; it has the cause under the same time"
	default:
		d.Message = err.Error()
	}
	return d
}

// ConnectError turns err into a Connect error with an lehr.v1.Error as detail.
// A *connect.Error passes through.
func ConnectError(err error) error {
	var ce *connect.Error
	if err == nil || errors.As(err, &ce) {
		return err
	}
	d := Detail(err)
	ce = connect.NewError(codesOf(err).connect, errors.New(d.GetMessage()))
	if errs.IsKind(err, errs.Exhausted) {
		ce.Meta().Set("Retry-After", retryAfter(err))
	}
	if detail, derr := connect.NewErrorDetail(d); derr == nil {
		ce.AddDetail(detail)
	}
	return ce
}

// ErrorBody is the JSON of every REST error.
type ErrorBody struct {
	Error ErrorFields `json:"error"`
}

// ErrorFields are the parts of a REST error.
type ErrorFields struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Remedy  *string `json:"remedy"`
	Field   *string `json:"field"`
}

// Body returns what a REST caller is told of err.
func Body(err error) ErrorBody {
	d := Detail(err)
	return ErrorBody{ErrorFields{Code: d.GetCode(), Message: d.GetMessage(), Remedy: orNull(d.GetRemedy()), Field: orNull(d.GetField())}}
}

// WriteError answers with the status, and the body {"error": {…}}, of err.
func WriteError(w http.ResponseWriter, err error) {
	status := codesOf(err).http
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryAfter(err))
	}
	Dismiss(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Body(err)) // a client that is gone gets nothing
}

// retryAfter is the header of that name: whole seconds, at least one.
func retryAfter(err error) string {
	wait := time.Second
	var e *errs.Error
	if errors.As(err, &e) {
		wait = max(wait, e.RetryAfter)
	}
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// LogError writes one line for an error that leaves through a door: faults of
// ours as errors with their cause, everything else at debug level.
func LogError(ctx context.Context, log *slog.Logger, operation string, err error) {
	level := slog.LevelDebug
	switch errs.KindOf(err) {
	case errs.Internal, errs.Corrupt:
		level = slog.LevelError
	case errs.Unavailable:
		level = slog.LevelWarn
	}
	log.Log(ctx, level, "request failed", "operation", operation, "code", errs.CodeOf(err), "error", err)
}
