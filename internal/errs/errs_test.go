package errs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("disk on fire")
	err := Wrap(cause, Unavailable, "store.Get", "the store does not answer").WithField("id")
	if got, want := err.Error(), "store.Get: id: the store does not answer: disk on fire"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, cause) || !errors.Is(err, &Error{Kind: Unavailable}) || errors.Is(err, &Error{Kind: NotFound}) {
		t.Error("errors.Is does not see cause and kind")
	}
	plain := New(Invalid, "bad: %w", cause)
	if !errors.Is(plain, cause) || strings.Count(plain.Error(), "disk on fire") != 1 {
		t.Errorf("New with %%w = %q, want the cause wrapped and said once", plain)
	}
}

func TestKindAndCode(t *testing.T) {
	tests := []struct {
		err  error
		kind Kind
		code string
	}{
		{nil, "", ""},
		{errors.New("x"), Internal, "internal"},
		{context.Canceled, Cancelled, "cancelled"},
		{context.DeadlineExceeded, Timeout, "timeout"},
		{fmt.Errorf("w: %w", New(NotFound, "x").WithCode("build_unknown")), NotFound, "build_unknown"},
		{New(Conflict, "x"), Conflict, "conflict"},
	}
	for _, tt := range tests {
		if k, c := KindOf(tt.err), CodeOf(tt.err); k != tt.kind || c != tt.code {
			t.Errorf("KindOf, CodeOf(%v) = %q, %q, want %q, %q", tt.err, k, c, tt.kind, tt.code)
		}
	}
}
