package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// headerErrorCode names the machine code of a refusal, as the guest daemon does
// for its own.
const headerErrorCode = "X-Lehr-Error-Code"

// maxShown bounds what of a request stands in an answer.
const maxShown = 64

// refusal is an answer of the gateway's own. Its JSON is E2B's: clients take a
// 502 with this body for the end of a sandbox, so nothing that passes by itself
// has that status.
type refusal struct {
	status  int
	id      lehr.SandboxID
	port    uint16 // 0: the answer is not about a port
	code    string // machine code
	message string
}

// body is a refusal as it is sent.
type body struct {
	SandboxID string `json:"sandboxId,omitempty"`
	Message   string `json:"message"`
	Code      int    `json:"code"` // the status
	Port      uint16 `json:"port,omitempty"`
	ErrorCode string `json:"error_code"`
}

// write answers with the refusal.
func (f *refusal) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set(headerErrorCode, f.code)
	if f.status == http.StatusTooManyRequests || f.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(f.status)
	id := string(f.id)
	if len(id) > maxShown {
		id = id[:maxShown]
	}
	_ = json.NewEncoder(w).Encode(body{SandboxID: id, Message: f.message, Code: f.status, Port: f.port, ErrorCode: f.code}) // a client that is gone gets nothing
}

// dismiss answers a request of which nothing was read.
func (f *refusal) dismiss(w http.ResponseWriter) {
	httpkit.Dismiss(w)
	f.write(w)
}

func notFound(t target) *refusal {
	return &refusal{status: http.StatusBadGateway, id: t.id, code: "sandbox_not_found", message: "The sandbox was not found"}
}

// refuse says what an error of the control plane or a host means to a client.
func refuse(t target, err error) *refusal {
	f := &refusal{status: http.StatusServiceUnavailable, id: t.id, code: errs.CodeOf(err)}
	switch code := errs.CodeOf(err); {
	case errs.IsKind(err, errs.NotFound), code == "sandbox_ended":
		return notFound(t)
	case code == "sandbox_paused":
		f.status, f.message = http.StatusBadGateway, "The sandbox is paused"
	case code == "sandbox_not_running", code == "sandbox_creating":
		f.status, f.message = http.StatusBadGateway, "The sandbox is not running"
	case code == "port_closed":
		f.status, f.port, f.message = http.StatusBadGateway, t.port, "The sandbox is running but port is not open"
	case errs.IsKind(err, errs.Exhausted):
		f.status, f.message = http.StatusTooManyRequests, "The sandbox has too many connections"
	case errors.Is(err, errDialLimit):
		f.status, f.code, f.port, f.message = http.StatusGatewayTimeout, "port_silent", t.port, "The sandbox's port does not answer"
	case errs.IsKind(err, errs.Unavailable):
		f.message = "The sandbox's host cannot be reached now"
	default:
		f.status, f.message = http.StatusInternalServerError, "An internal error happened"
	}
	return f
}

// broken says why a server in a sandbox gave no answer. Where the sandbox has
// ended meanwhile that is the reason.
func (g *Gateway) broken(ctx context.Context, t target, err error) *refusal {
	if own := (*errs.Error)(nil); errors.As(err, &own) || errors.Is(err, errDialLimit) {
		return refuse(t, err)
	}
	if _, err := g.o.Sandboxes.Ports(ctx, t.id); err != nil {
		return refuse(t, err)
	}
	return &refusal{
		status: http.StatusBadGateway, id: t.id, port: t.port, code: "answer_broken",
		message: "The server in the sandbox closed the connection without an answer",
	}
}
