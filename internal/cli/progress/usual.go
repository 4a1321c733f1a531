package progress

import (
	"strings"
	"time"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// usual knows how long the steps of an earlier build took. Steps are known by
// what they say, so that inserting one costs no other its figure.
type usual struct {
	steps map[string]time.Duration
	total time.Duration
}

func usualOf(b *lehrv1.Build) usual {
	u := usual{steps: map[string]time.Duration{}}
	if b == nil {
		return u
	}
	if b.GetStartedAt() != nil && b.GetCompletedAt() != nil {
		u.total = b.GetCompletedAt().AsTime().Sub(b.GetStartedAt().AsTime())
	}
	for _, s := range b.GetSteps() {
		if s.GetStatus() == statusSuccess && !s.GetCached() {
			u.steps[usualKey(s.GetPhase(), s.GetCmd())] = time.Duration(s.GetElapsedMs()) * time.Millisecond
		}
	}
	return u
}

// of returns how long a step usually takes, 0 where that is not known or less
// than is worth a word.
func (u usual) of(phase, cmd string) time.Duration {
	if d := u.steps[usualKey(phase, cmd)]; d >= time.Second {
		return d
	}
	return 0
}

func usualKey(phase, cmd string) string { return phase + "\x00" + cmd }

// isWarning reports whether a line of the system is meant for the author of the
// recipe.
func isWarning(text string) bool { return strings.HasPrefix(text, "warning: ") }
