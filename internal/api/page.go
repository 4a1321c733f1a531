package api

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Page sizes of every list.
const (
	defaultPage = 50
	maxPage     = 200
)

func pageSize(asked int32) (int, error) {
	switch {
	case asked == 0:
		return defaultPage, nil
	case asked < 0 || asked > maxPage:
		return 0, errs.New(errs.Invalid, "%d: want 1 to %d", asked, maxPage).WithField("limit").WithRemedy("ask for less and follow next_cursor")
	}
	return int(asked), nil
}

// cut takes a list that was asked for with one more than limit and returns the
// page, with the cursor of the next one where there is one.
func cut[T any](list []T, limit int, id func(T) string) ([]T, *string) {
	if len(list) <= limit {
		return list, nil
	}
	cursor := id(list[limit-1])
	return list[:limit], &cursor
}

// cursor reads the cursor of a list, the id of an element; empty is the first page.
func cursor[T ~string](s string, parse func(string) (T, error)) (T, error) {
	if s == "" {
		return "", nil
	}
	id, err := parse(s)
	if err != nil {
		return "", badCursor()
	}
	return id, nil
}

func badCursor() error {
	return errs.New(errs.Invalid, "is not a cursor of this list").WithField("cursor").WithCode("cursor_invalid").
		WithRemedy("give the next_cursor of the page before")
}

// plainText refuses what no name has and a store may be unable to hold.
func plainText(field, s string) error {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errs.New(errs.Invalid, "has control characters or is not UTF-8").WithField(field).WithRemedy("leave them out")
	}
	return nil
}

// clipName bounds text of the caller in a message to the caller.
func clipName(s string) string {
	const most = 40
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func badID(err error) error {
	return errs.New(errs.Invalid, "%v", err).WithField("id").WithCode("id_invalid").WithRemedy("copy the id from the list command")
}

// stamp is nil for the zero time, which is how "does not apply" is said.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// orNull is nil for the zero value.
func orNull[T ~string](v T) *string {
	if v == "" {
		return nil
	}
	s := string(v)
	return &s
}

// duration reads a Go duration; empty is absent.
func duration(field, s string) (*time.Duration, error) {
	if s == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return nil, errs.New(errs.Invalid, "%q is not a duration", clipName(s)).WithField(field).WithCode("duration_invalid").
			WithRemedy("write it like 90s, 10m or 1h30m; 0 means no limit of its own")
	}
	return &d, nil
}
