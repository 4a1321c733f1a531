package fake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// memoryFile and layerFile are the files of a snapshot.
const (
	memoryFile = "memory.json"
	layerFile  = "layer.tar"
)

// memoryImage is what a snapshot keeps of a machine besides its files.
type memoryImage struct {
	Hostname string            `json:"hostname"`
	MemoryMB int               `json:"memory_mb"`
	Values   map[string]string `json:"values"`
	Procs    []Process         `json:"processes"`
	LastPID  int               `json:"last_pid"`
	Awake    time.Duration     `json:"awake_ns"`
	Layer    lehr.Digest       `json:"layer"`
}

// snapshot writes the machine into dir and returns how many bytes it wrote.
func (m *Machine) snapshot(dir string) (int64, error) {
	var files bytes.Buffer
	if err := m.Tree.save(&files); err != nil {
		return 0, err
	}
	procs := m.Processes()
	m.mu.Lock()
	image := memoryImage{
		Hostname: m.hostname, MemoryMB: m.memoryMB, Values: m.values, Procs: procs,
		LastPID: m.lastPID, Awake: m.awakeLocked(), Layer: lehr.DigestOf(files.Bytes()),
	}
	memory, err := json.Marshal(image)
	m.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("encode the memory: %w", err)
	}
	for name, b := range map[string][]byte{memoryFile: memory, layerFile: files.Bytes()} {
		if err := writeSynced(filepath.Join(dir, name), b); err != nil {
			return 0, errs.Wrap(err, errs.Exhausted, "fake.Snapshot", "the snapshot could not be written")
		}
	}
	return int64(len(memory) + files.Len()), nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

// restore fills a new machine from a snapshot.
func (m *Machine) restore(s *engine.Snapshot) error {
	memory, err := os.ReadFile(filepath.Join(s.Dir, memoryFile))
	if err != nil {
		return errs.Wrap(err, errs.Corrupt, "fake.Start", "the snapshot's memory cannot be read")
	}
	files, err := os.ReadFile(filepath.Join(s.Dir, layerFile))
	if err != nil {
		return errs.Wrap(err, errs.Corrupt, "fake.Start", "the snapshot's files cannot be read")
	}
	var image memoryImage
	if err := json.Unmarshal(memory, &image); err != nil {
		return errs.Wrap(err, errs.Corrupt, "fake.Start", "the snapshot's memory is damaged")
	}
	if lehr.DigestOf(files) != image.Layer {
		return errs.New(errs.Corrupt, "the snapshot's files are damaged")
	}
	if err := m.Tree.load(bytes.NewReader(files)); err != nil {
		return err
	}
	m.hostname, m.memoryMB, m.lastPID, m.awake = image.Hostname, image.MemoryMB, image.LastPID, image.Awake
	if image.Values != nil {
		m.values = image.Values
	}
	for p := range slices.Values(image.Procs) {
		m.addLocked(p)
	}
	return nil
}
