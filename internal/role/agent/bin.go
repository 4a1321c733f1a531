package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// binLook is how often an agent looks for sentry files that nobody needs.
const binLook = 10 * time.Second

// sentries says which sentry files slots were started from; known is false where
// that cannot be told of all of them.
type sentries interface {
	Sentries() (digests []lehr.Digest, known bool)
}

// sweepBin removes the sentry files of earlier releases once no sandbox runs on
// them, now and again until ctx ends. own is the folder of this release's.
func sweepBin(ctx context.Context, own string, s sentries, log *slog.Logger) {
	tick := time.NewTicker(binLook)
	defer tick.Stop()
	for {
		if err := sweepBinOnce(own, s, log); err != nil {
			log.Warn("sentry files of earlier releases could not be removed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func sweepBinOnce(own string, s sentries, log *slog.Logger) error {
	entries, err := os.ReadDir(filepath.Dir(own))
	if err != nil {
		return err
	}
	if len(entries) < 2 {
		return nil // this release's only
	}
	used, known := s.Sentries()
	if !known {
		return nil
	}
	keep := map[string]bool{filepath.Base(own): true}
	for _, d := range used {
		keep[d.Hex()] = true
	}
	for _, e := range entries {
		if _, err := lehr.ParseDigest("sha256:" + e.Name()); err != nil || keep[e.Name()] {
			continue // not ours, or needed
		}
		if err := os.RemoveAll(filepath.Join(filepath.Dir(own), e.Name())); err != nil {
			return err
		}
		log.Info("a sentry file that nobody needs was removed", "digest", e.Name())
	}
	return nil
}
