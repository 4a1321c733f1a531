package world

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is one process of this world.
type Process struct {
	PID     int
	Cmdline string
}

// Kill ends it with SIGKILL.
func (p Process) Kill() error { return syscall.Kill(p.PID, syscall.SIGKILL) }

// Sentry finds the sentry process of a sandbox in the records of the engine.
func (w *World) Sentry(sandbox string) Process {
	w.t.Helper()
	records, _ := filepath.Glob(filepath.Join(w.Data(), "engine", "slots", "*", "slot.json")) // the pattern is well-formed
	for _, path := range records {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(sandbox)) {
			continue
		}
		var record struct {
			Sentry struct {
				PID int `json:"pid"`
			} `json:"sentry"`
		}
		if err := json.Unmarshal(b, &record); err != nil {
			w.t.Fatal(err)
		}
		return Process{PID: record.Sentry.PID}
	}
	w.t.Fatalf("no slot of the engine holds sandbox %s", sandbox)
	return Process{}
}

// Agents lists the agent processes of this world.
func (w *World) Agents() []Process { return w.matching("\x00agent\x00") }

// KillAgent9 ends the agent with SIGKILL.
func (w *World) KillAgent9() {
	w.t.Helper()
	agents := w.Agents()
	if len(agents) != 1 {
		w.t.Fatalf("agents = %v, want one", agents)
	}
	if err := agents[0].Kill(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *World) matching(word string) []Process {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	var found []Process
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(w.folder)) || !bytes.Contains(b, []byte(word)) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			w.t.Fatal(err)
		}
		found = append(found, Process{PID: pid, Cmdline: strings.ReplaceAll(string(b), "\x00", " ")})
	}
	return found
}
