package world

import (
	"bytes"
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

// Sentries lists the sentry processes whose command line names this world.
func (w *World) Sentries() []Process { return w.matching("runsc-sandbox") }

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
