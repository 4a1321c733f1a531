// Package bus is the law of signals: wake-ups for workers, cancels and the
// announcement of new log lines. The bus carries hints only; the truth is in
// the store, and losing every message costs at most the poll interval.
//
// The suite in bustest defines what a bus must do; membus passes it.
package bus

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// Bus carries signals between processes of the control plane. All methods are
// safe for concurrent use.
type Bus interface {
	// PushBuild wakes one waiting worker, now or at its next PopBuild. The
	// number of remembered wake-ups is bounded; a dropped one is not an error.
	PushBuild(ctx context.Context, id lehr.BuildID) error
	// PopBuild waits up to wait for a wake-up. ok is false when none came. It
	// returns at once when ctx ends.
	PopBuild(ctx context.Context, wait time.Duration) (id lehr.BuildID, ok bool, err error)
	// Publish tells every present subscriber of topic that it changed.
	Publish(ctx context.Context, topic Topic) error
	// Subscribe returns a channel that gets a token after each Publish; tokens
	// that nobody took coalesce into one. The subscription ends with ctx; the
	// channel is never closed.
	Subscribe(ctx context.Context, topic Topic) (<-chan struct{}, error)
	// Close ends the bus; later calls return Unavailable.
	Close() error
}

// Topic names what changed.
type Topic string

// BuildTopic is the topic of one build: its state or its log changed.
func BuildTopic(id lehr.BuildID) Topic { return Topic("build:" + string(id)) }

// CancelTopic is the topic that tells the worker of a build to look whether it
// was cancelled; unlike BuildTopic it is silent while the log grows.
func CancelTopic(id lehr.BuildID) Topic { return Topic("cancel:" + string(id)) }
