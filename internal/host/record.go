package host

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// record is what a host writes down of one sandbox. It holds the operator's
// secret and the users' token, so its file has mode 0600.
type record struct {
	ID          lehr.SandboxID     `json:"id"`
	TeamID      lehr.TeamID        `json:"team_id"`
	TemplateID  lehr.TemplateID    `json:"template_id,omitempty"`
	VersionID   lehr.VersionID     `json:"version_id,omitempty"`
	Fence       lehr.Fence         `json:"fence"`
	Image       lehr.Digest        `json:"image"`
	Snapshot    lehr.Digest        `json:"snapshot,omitempty"`
	Guest       lehr.Digest        `json:"guest"` // of the guest daemon's image; an agent of another version may have started it
	Resources   lehr.Resources     `json:"resources"`
	Workdir     string             `json:"workdir"` // relative paths of files begin here
	Slot        engine.SlotID      `json:"slot,omitempty"`
	Secret      string             `json:"secret"`
	AccessToken string             `json:"access_token,omitempty"` // of its users; what made the sandbox gave it
	State       lehr.SandboxState  `json:"state"`
	Reason      lehr.SandboxReason `json:"reason,omitempty"`
	Detail      string             `json:"detail,omitempty"`
	CreatedAt   time.Time          `json:"created_at"`
	ExpiresAt   time.Time          `json:"expires_at,omitzero"`
	EndedAt     time.Time          `json:"ended_at,omitzero"`
}

// view is the record as the agent law shows it.
func (r *record) view() agent.Sandbox {
	return agent.Sandbox{
		ID: r.ID, TeamID: r.TeamID, Fence: r.Fence, State: r.State, Reason: r.Reason,
		Resources: r.Resources, ExpiresAt: r.ExpiresAt,
	}
}

const recordSuffix = ".json"

func (h *Host) recordPath(id lehr.SandboxID) string {
	return filepath.Join(h.opt.StateDir, string(id)+recordSuffix)
}

// saveRecord replaces the record on disk. It is not fsynced: it needs to
// outlive this process, and no sandbox outlives the machine.
func (h *Host) saveRecord(r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return errs.Wrap(err, errs.Internal, "host.saveRecord", "the sandbox's record cannot be encoded")
	}
	path := h.recordPath(r.ID)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return diskError(err, "host.saveRecord")
	}
	if err := os.Rename(path+".new", path); err != nil {
		return diskError(err, "host.saveRecord")
	}
	return nil
}

// dropRecord deletes the record; one that is not there is fine.
func (h *Host) dropRecord(id lehr.SandboxID) error {
	if err := os.Remove(h.recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(err, "host.dropRecord")
	}
	return nil
}

// loadRecords reads every record. One that cannot be read belongs to a sandbox
// that was never complete: it is logged and deleted, and its slot is unknown.
func (h *Host) loadRecords() (map[lehr.SandboxID]*record, error) {
	if err := os.MkdirAll(h.opt.StateDir, 0o700); err != nil {
		return nil, diskError(err, "host.loadRecords")
	}
	entries, err := os.ReadDir(h.opt.StateDir)
	if err != nil {
		return nil, diskError(err, "host.loadRecords")
	}
	all := map[lehr.SandboxID]*record{}
	for _, e := range entries {
		path := filepath.Join(h.opt.StateDir, e.Name())
		r, err := readRecord(path)
		if err != nil {
			h.log.Warn("a sandbox's record is unusable and is removed", "path", path, "error", err)
			_ = os.Remove(path)
			continue
		}
		all[r.ID] = r
	}
	return all, nil
}

func readRecord(path string) (*record, error) {
	name, ok := strings.CutSuffix(filepath.Base(path), recordSuffix)
	if !ok {
		return nil, errs.New(errs.Corrupt, "%s is not a record", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	if _, err := lehr.ParseSandboxID(name); err != nil || string(r.ID) != name {
		return nil, errs.New(errs.Corrupt, "the record names sandbox %q", r.ID)
	}
	return &r, nil
}

// diskError classifies a failure of the host's own folders.
func diskError(err error, op string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Wrap(err, errs.Exhausted, op, "the host's disk is full").
			WithCode("host_disk_full").WithRemedy("remove unused templates or enlarge the disk")
	}
	return errs.Wrap(err, errs.Internal, op, "the host's state folder failed")
}
