package guestd

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// codes translates kinds for Connect and for HTTP. Statuses are those the SDKs
// know.
var codes = map[errs.Kind]struct {
	connect connect.Code
	http    int
}{
	errs.Invalid:          {connect.CodeInvalidArgument, http.StatusBadRequest},
	errs.Unauthenticated:  {connect.CodeUnauthenticated, http.StatusUnauthorized},
	errs.PermissionDenied: {connect.CodePermissionDenied, http.StatusForbidden},
	errs.NotFound:         {connect.CodeNotFound, http.StatusNotFound},
	errs.Exists:           {connect.CodeAlreadyExists, http.StatusConflict},
	errs.Conflict:         {connect.CodeFailedPrecondition, http.StatusConflict},
	errs.Exhausted:        {connect.CodeResourceExhausted, http.StatusTooManyRequests},
	errs.Unavailable:      {connect.CodeUnavailable, http.StatusServiceUnavailable},
	errs.Timeout:          {connect.CodeDeadlineExceeded, http.StatusGatewayTimeout},
	errs.Cancelled:        {connect.CodeCanceled, http.StatusRequestTimeout},
	errs.Unsupported:      {connect.CodeUnimplemented, http.StatusNotImplemented},
	errs.Corrupt:          {connect.CodeDataLoss, http.StatusInternalServerError},
	errs.Internal:         {connect.CodeInternal, http.StatusInternalServerError},
}

// shellStatus is what a shell reports for a command that could not be run.
var shellStatus = map[string]string{
	wire.CodeCommandNotFound:      "127",
	wire.CodeCommandNotExecutable: "126",
}

// rpcError turns err into a Connect error that carries its machine code. A
// cause stays inside; nobody but the sandbox's own users sees the message.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	code := codes[errs.KindOf(err)].connect
	if errs.CodeOf(err) == wire.CodeUserUnknown {
		// The SDKs expect an unknown user to be a failed login.
		code = connect.CodeUnauthenticated
	}
	rpc := connect.NewError(code, errors.New(message(err)))
	rpc.Meta().Set(wire.HeaderErrorCode, errs.CodeOf(err))
	if status, ok := shellStatus[errs.CodeOf(err)]; ok {
		rpc.Meta().Set(wire.HeaderExitCode, status)
	}
	return rpc
}

// fail answers a plain HTTP call with err.
func fail(w http.ResponseWriter, err error) {
	status := codes[errs.KindOf(err)].http
	switch errs.CodeOf(err) {
	case wire.CodeDiskFull:
		status = http.StatusInsufficientStorage
	case wire.CodeUserUnknown:
		status = http.StatusUnauthorized
	}
	w.Header().Set(wire.HeaderErrorCode, errs.CodeOf(err))
	writeJSON(w, status, failure{status, message(err)})
}

// failure is the body of a failed plain HTTP call.
type failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// refuse answers a call that was not admitted in the protocol it came in.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	rpc := connect.NewErrorWriter()
	if service := strings.Count(r.URL.Path, "/") == 2; service && rpc.IsSupported(r) {
		// A failed write means that nobody is listening.
		_ = rpc.Write(w, r, rpcError(err))
		return
	}
	fail(w, err)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A failed write means that nobody is listening.
	_ = json.NewEncoder(w).Encode(v)
}

// message is what the caller reads: without operation and hidden cause.
func message(err error) string {
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
