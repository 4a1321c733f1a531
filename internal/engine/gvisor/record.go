package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// recordVersion is the format of records; a record of another version is of a
// slot that this engine cannot adopt, and is destroyed.
const recordVersion = 1

const (
	recordName = "slot.json"
	logName    = "sentry.log"
	slotsDir   = "slots"
)

// record is what outlives this process about a slot, a JSON file in the slot's
// folder.
type record struct {
	Version   int               `json:"version"`
	Slot      engine.SlotID     `json:"slot"`
	Kind      engine.Kind       `json:"kind"`
	Resources lehr.Resources    `json:"resources"`
	Labels    map[string]string `json:"labels,omitempty"`
	Image     lehr.Digest       `json:"image,omitempty"`
	Engine    lehr.Digest       `json:"engine,omitempty"` // of the sentry file
	Sentry    processID         `json:"sentry,omitzero"`
	State     engine.State      `json:"state"`
	StartedAt time.Time         `json:"started_at,omitzero"`
	Stopping  bool              `json:"stopping,omitempty"` // Stop was asked for
	Exit      *engine.Exit      `json:"exit,omitempty"`
}

// status returns what callers may see of r; it shares nothing with r.
func (r *record) status() engine.Status {
	s := engine.Status{
		Slot:      r.Slot,
		State:     r.State,
		Resources: r.Resources,
		Labels:    maps.Clone(r.Labels),
		StartedAt: r.StartedAt,
	}
	if r.Exit != nil {
		exit := *r.Exit
		s.Exit = &exit
	}
	return s
}

// save replaces the record in dir in one step. It is not synced: after a crash
// of the machine there is no sandbox that a record could be about.
func (r *record) save(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the record: %w", err)
	}
	next := filepath.Join(dir, recordName+".next")
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("writing the record: %w", err)
	}
	if err := os.Rename(next, filepath.Join(dir, recordName)); err != nil {
		return fmt.Errorf("replacing the record: %w", err)
	}
	return nil
}

// errNoRecord says that a folder holds no record that can be adopted.
var errNoRecord = errors.New("no usable record")

// loadRecord reads the record of the slot in dir.
func loadRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return r, errNoRecord
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	if r.Version != recordVersion || string(r.Slot) != filepath.Base(dir) {
		return r, errNoRecord
	}
	return r, nil
}

func logPath(slotDir string) string { return filepath.Join(slotDir, logName) }

// logTail returns the end of a sentry's log in one line, for error details.
func logTail(slotDir string) string {
	const most = 2048
	f, err := os.Open(logPath(slotDir))
	if err != nil {
		return "no log"
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, 2)
	}
	buf := make([]byte, most)
	n, _ := f.Read(buf)
	if n == 0 {
		return "empty log"
	}
	return fmt.Sprintf("%q", buf[:n])
}
