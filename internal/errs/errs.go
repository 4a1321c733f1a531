// Package errs is the error vocabulary of Lehr: a closed set of kinds, a stable
// machine code, a safe message and a remedy. Every layer returns *Error (or an
// error wrapping one); doors translate kinds to HTTP and Connect codes in one
// table and log once.
package errs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind classifies an error for callers. The set is closed: doors map every
// kind to a transport code and panic-free default to Internal.
type Kind string

// The kinds of error.
const (
	Invalid          Kind = "invalid"           // the request can never succeed as it stands
	Unauthenticated  Kind = "unauthenticated"   // no key, or a key nobody knows
	PermissionDenied Kind = "permission_denied" // a key that may not do this
	NotFound         Kind = "not_found"         // the named thing does not exist for this caller
	Exists           Kind = "exists"            // the named thing exists already
	Conflict         Kind = "conflict"          // the state forbids it; the message names the state
	Exhausted        Kind = "exhausted"         // a limit or capacity is used up
	Unavailable      Kind = "unavailable"       // a part is down; trying again may help
	Timeout          Kind = "timeout"           // a time limit ended it
	Cancelled        Kind = "cancelled"         // the caller or an operator ended it
	Unsupported      Kind = "unsupported"       // known, but not built (yet)
	Corrupt          Kind = "corrupt"           // stored data does not match its digest or format
	Internal         Kind = "internal"          // a fault of ours
)

// Error is one failure. Message is safe to show to the caller; Cause is for
// the log only.
type Error struct {
	Kind    Kind   // class, decides the transport code
	Code    string // stable machine code such as "name_invalid"; the kind when empty
	Field   string // request field it is about, if any
	Op      string // operation, as "store.ClaimBuild"
	Message string // cause in the user's words
	Remedy  string // what to do about it
	Cause   error  // wrapped error, never shown to an API caller

	RetryAfter time.Duration // with Exhausted: when trying again may help; 0: not known
}

// New returns an error of kind with a formatted safe message. A %w verb in
// format sets the cause as well.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// Wrap returns an error of kind with op and a safe message that hides cause.
func Wrap(cause error, kind Kind, op, message string) *Error {
	return &Error{Kind: kind, Op: op, Message: message, Cause: cause}
}

// WithCode sets the machine code and returns e.
func (e *Error) WithCode(code string) *Error { e.Code = code; return e }

// WithField names the request field and returns e.
func (e *Error) WithField(field string) *Error { e.Field = field; return e }

// WithRemedy says what to do and returns e.
func (e *Error) WithRemedy(format string, args ...any) *Error {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// WithOp names the operation and returns e.
func (e *Error) WithOp(op string) *Error { e.Op = op; return e }

// WithRetryAfter says when trying again may help and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error { e.RetryAfter = d; return e }

// Error returns operation, field and message, followed by the cause where the
// message does not contain it already.
func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Cause != nil && !strings.Contains(e.Message, e.Cause.Error()) {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is an *Error of the same kind and, where target
// has one, the same code; so errors.Is(err, &Error{Kind: NotFound}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && (t.Code == "" || t.Code == e.Code)
}

// KindOf returns the kind of the outermost *Error in err's chain; context
// errors map to Cancelled and Timeout, everything else to Internal. A nil
// error has kind "".
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Internal
}

// CodeOf returns the machine code of err: the outermost *Error's code, or its
// kind where it has none.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	return string(KindOf(err))
}

// IsKind reports whether err's outermost *Error is of kind.
func IsKind(err error, kind Kind) bool { return KindOf(err) == kind }
