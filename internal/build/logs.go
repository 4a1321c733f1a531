package build

import (
	"context"
	"iter"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Logs returns a build's log after q.After in batches, in order of seq, without
// a gap or a double. It ends after the last line there is, or with Follow after
// the last line there will be; an error is the last element. Slow consumers
// slow nobody but themselves.
func (s *BuildService) Logs(ctx context.Context, q LogQuery) iter.Seq2[[]lehr.LogLine, error] {
	return func(yield func([]lehr.LogLine, error) bool) {
		yield(nil, errs.New(errs.Unsupported, "not built yet"))
	}
}
