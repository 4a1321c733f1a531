package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// server is the `lehr up` of the demo.
type server struct {
	cmd   *exec.Cmd
	log   *os.File
	url   string
	ended chan error
}

// startLimit bounds the wait for readiness and for the end.
const startLimit = time.Minute

func (d *demo) doctor() error {
	_, err := d.output("doctor")
	return err
}

// start runs lehr up on a free port and a folder of its own and waits until it
// has made itself known.
func (d *demo) start() error {
	log, err := os.Create(filepath.Join(d.folder, "up.log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(d.lehr, "up", "--data", filepath.Join(d.folder, "data"), "--listen", "127.0.0.1:0")
	cmd.Env = d.env()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which stops it properly
	if err := cmd.Start(); err != nil {
		return err
	}
	d.server = &server{cmd: cmd, log: log, ended: make(chan error, 1)}
	go func() { d.server.ended <- cmd.Wait() }()
	return d.awaitServer()
}

func (d *demo) awaitServer() error {
	deadline := time.After(startLimit)
	for {
		paths, err := filepath.Glob(filepath.Join(d.folder, "state", "lehr", "servers", "*.json"))
		if err != nil {
			return err
		}
		if len(paths) == 1 {
			b, err := os.ReadFile(paths[0])
			if err != nil {
				return err
			}
			var entry struct {
				URL string `json:"url"`
			}
			if err := json.Unmarshal(b, &entry); err != nil {
				return err
			}
			d.server.url = entry.URL
			fmt.Printf("   listening at %s\n", entry.URL)
			return nil
		}
		select {
		case err := <-d.server.ended:
			d.server.ended <- err
			return fmt.Errorf("lehr up ended: %w\n%s", err, d.serverLog())
		case <-deadline:
			return fmt.Errorf("lehr up is not ready after %s\n%s", startLimit, d.serverLog())
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *demo) serverLog() string {
	b, err := os.ReadFile(filepath.Join(d.folder, "up.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// stop kills what the demo started and asserts a clean end.
func (d *demo) stop() error {
	if d.server == nil {
		return nil
	}
	fmt.Printf("\n== lehr up stops cleanly\n")
	// Detached: an interrupt must not leave sandboxes behind, which outlive lehr up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), startLimit)
	defer cancel()
	d.ctx = ctx
	err := d.killBoxes()
	err = errors.Join(err, d.server.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case ended := <-d.server.ended:
		if ended != nil {
			err = errors.Join(err, fmt.Errorf("lehr up: %w\n%s", ended, d.serverLog()))
		}
	case <-time.After(startLimit):
		_ = d.server.cmd.Process.Kill()
		err = errors.Join(err, fmt.Errorf("lehr up did not end within %s\n%s", startLimit, d.serverLog()))
	}
	if left := processesUnder(d.folder); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("processes were left behind: %s", strings.Join(left, ", ")))
	}
	if err == nil {
		fmt.Println("   ok")
	}
	d.server = nil
	return err
}

// processesUnder lists processes whose command line names the folder.
func processesUnder(folder string) []string {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	var found []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err == nil && bytes.Contains(b, []byte(folder)) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// env lets commands find this server and no other.
func (d *demo) env() []string {
	env := append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(d.folder, "state"))
	return slices.DeleteFunc(env, func(kv string) bool {
		return strings.HasPrefix(kv, "LEHR_URL=") || strings.HasPrefix(kv, "LEHR_API_KEY=")
	})
}

// command runs lehr as a user would; what it says on stderr is shown.
func (d *demo) command(stdout io.Writer, args ...string) error {
	fmt.Printf("   $ lehr %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(d.ctx, d.lehr, args...)
	cmd.Env = d.env()
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lehr %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// output runs lehr and returns, and shows, what it printed.
func (d *demo) output(args ...string) (string, error) {
	var out bytes.Buffer
	err := d.command(&out, args...)
	for line := range strings.Lines(out.String()) {
		fmt.Printf("     %s\n", strings.TrimRight(line, "\n"))
	}
	return out.String(), err
}

// object runs lehr with --output json and decodes what it printed.
func (d *demo) object(into any, args ...string) error {
	var out bytes.Buffer
	if err := d.command(&out, append([]string{"--output", "json"}, args...)...); err != nil {
		return err
	}
	return json.Unmarshal(out.Bytes(), into)
}
