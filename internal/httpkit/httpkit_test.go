package httpkit

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

func TestWriteErrorNamesCodeFieldAndRemedy(t *testing.T) {
	w := httptest.NewRecorder()
	err := errs.New(errs.Invalid, "is too long").WithField("name").WithCode("name_invalid").WithRemedy("shorten it")
	WriteError(w, fmt.Errorf("wrapped: %w", err))
	if w.Code != http.StatusBadRequest {
		t.Errorf("status = %d, want 400", w.Code)
	}
	want := `{"error":{"code":"name_invalid","message":"name: is too long","remedy":"shorten it","field":"name"}}`
	if got := strings.TrimSpace(w.Body.String()); got != want {
		t.Errorf("body = %s, want %s", got, want)
	}
}

func TestForeignErrorsStayInside(t *testing.T) {
	w := httptest.NewRecorder()
	WriteError(w, errors.New("password=hunter2"))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("WriteError = %d %s, want 500 without the cause", w.Code, w.Body)
	}
	cause := errs.Wrap(errors.New("password=hunter2"), errs.Unavailable, "store.Get", "the store does not answer")
	if got := ConnectError(cause).Error(); strings.Contains(got, "hunter2") {
		t.Errorf("ConnectError = %q, want it without the cause", got)
	}
}

func TestConnectErrorCarriesTheDetail(t *testing.T) {
	err := ConnectError(errs.New(errs.Conflict, "the build is cancelled").WithCode("build_finished"))
	var ce *connect.Error
	if !errors.As(err, &ce) || ce.Code() != connect.CodeFailedPrecondition || len(ce.Details()) != 1 {
		t.Fatalf("ConnectError = %v, want failed_precondition with one detail", err)
	}
	v, derr := ce.Details()[0].Value()
	if d, ok := v.(*lehrv1.Error); derr != nil || !ok || d.GetCode() != "build_finished" {
		t.Errorf("detail = %v, %v, want code build_finished", v, derr)
	}
}

func TestEveryKindHasCodes(t *testing.T) {
	kinds := []errs.Kind{
		errs.Invalid, errs.Unauthenticated, errs.PermissionDenied, errs.NotFound, errs.Exists, errs.Conflict, errs.Exhausted,
		errs.Unavailable, errs.Timeout, errs.Cancelled, errs.Unsupported, errs.Corrupt, errs.Internal,
	}
	for _, k := range kinds {
		if _, ok := table[k]; !ok {
			t.Errorf("kind %s has no codes", k)
		}
	}
	if len(table) != len(kinds) {
		t.Errorf("table has %d kinds, want %d", len(table), len(kinds))
	}
}

func TestGuardHost(t *testing.T) {
	h := GuardHost([]string{"Lehr.Example"}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{
		"127.0.0.1:5347": 200, "localhost": 200, "[::1]:1": 200, "lehr.example:80": 200, "evil.example": 403, "127.0.0.1.evil.example:5347": 403,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Host %q = %d, want %d", host, w.Code, want)
		}
	}
}

func TestRecoverAnswersAndLogs(t *testing.T) {
	var log strings.Builder
	h := Recover(slog.New(slog.NewTextHandler(&log, nil)), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/x", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(log.String(), "boom") {
		t.Errorf("after a panic: %d, log %q; want 500 and the panic in the log", w.Code, log.String())
	}
}
