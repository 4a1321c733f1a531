package gvisor

import (
	"fmt"
	"os"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Sentries returns the digest of every sentry file that a slot was started from,
// each once. known is false where one cannot be told: its slot was made by an
// earlier release and has ended.
func (e *Engine) Sentries() (digests []lehr.Digest, known bool) {
	e.mu.Lock()
	slots := make([]*slot, 0, len(e.slots))
	for _, s := range e.slots {
		slots = append(slots, s)
	}
	e.mu.Unlock()
	known = true
	seen := map[lehr.Digest]bool{}
	for _, s := range slots {
		d, err := s.engineDigest()
		if err != nil {
			known = false
			continue
		}
		if !seen[d] {
			seen[d] = true
			digests = append(digests, d)
		}
	}
	return digests, known
}

// engineDigest is the digest of the sentry file that runs the slot, which after an
// upgrade is not this engine's. An earlier release did not write it down; then it
// is that of the running program.
func (s *slot) engineDigest() (lehr.Digest, error) {
	s.mu.Lock()
	d, id, ended := s.rec.Engine, s.rec.Sentry, s.rec.Exit != nil
	s.mu.Unlock()
	switch {
	case d != "":
		return d, nil
	case ended || id.PID == 0:
		return "", errs.New(errs.Unavailable, "it is not known which sentry ran slot %s", s.id)
	}
	program, err := os.Open(fmt.Sprintf("/proc/%d/exe", id.PID))
	if err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "gvisor.Sentries", "the program of the sentry cannot be read")
	}
	defer func() { _ = program.Close() }()
	if now, err := identify(id.PID); err != nil || now != id {
		return "", errs.New(errs.Unavailable, "the sentry of slot %s has ended", s.id)
	}
	info, err := readInfo(program)
	if err != nil {
		return "", err
	}
	return info.Digest, s.update(func(r *record) { r.Engine = info.Digest })
}
