// Command runner runs `go test` with the given arguments and fails when a test
// was skipped because the machine lacks something ("SKIP-ENV: …"), so that a
// suite that did not run cannot look like one that passed. With
// LEHR_ALLOW_SKIPS=1 such skips are listed and forgiven.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
}

// tally counts tests and keeps the output of each until its fate is known.
type tally struct {
	passed, failed, skipped int
	missing                 []string
	output                  map[string]*strings.Builder
}

func main() {
	code, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner:", err)
		code = 2
	}
	os.Exit(code)
}

func run(args []string, out io.Writer) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	t := &tally{output: map[string]*strings.Builder{}}
	if err := t.read(pipe, out); err != nil {
		return 0, errors.Join(err, cmd.Wait())
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return t.report(out, cmd.ProcessState.ExitCode()), nil
}

func (t *tally) read(r io.Reader, out io.Writer) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(out, sc.Text()) // a build error outside the protocol
			continue
		}
		t.add(e, out)
	}
	return sc.Err()
}

func (t *tally) add(e event, out io.Writer) {
	key := e.Package + " " + e.Test
	switch {
	case e.Action == "output" || e.Action == "build-output":
		if e.Test == "" {
			fmt.Fprint(out, e.Output)
			return
		}
		if t.output[key] == nil {
			t.output[key] = &strings.Builder{}
		}
		t.output[key].WriteString(e.Output)
	case e.Test == "":
	case e.Action == "pass":
		t.passed++
		delete(t.output, key)
	case e.Action == "fail":
		t.failed++
		t.print(key, out)
	case e.Action == "skip":
		t.skip(key)
	}
}

// print shows what a failed test said, once.
func (t *tally) print(key string, out io.Writer) {
	if b := t.output[key]; b != nil {
		fmt.Fprint(out, b.String())
	}
	delete(t.output, key)
}

func (t *tally) skip(key string) {
	t.skipped++
	b := t.output[key]
	delete(t.output, key)
	if b == nil {
		return
	}
	if _, why, ok := strings.Cut(b.String(), "SKIP-ENV: "); ok {
		why, _, _ = strings.Cut(why, "\n")
		t.missing = append(t.missing, key+": "+why)
	}
}

// report ends the output and returns the exit code: that of go test, or 1 when
// something expected did not run.
func (t *tally) report(out io.Writer, code int) int {
	for key := range t.output {
		t.print(key, out) // neither passed nor failed: the run was cut short
	}
	for _, m := range t.missing {
		fmt.Fprintf(out, "not run: %s\n", m)
	}
	if len(t.missing) > 0 && os.Getenv("LEHR_ALLOW_SKIPS") != "1" && code == 0 {
		fmt.Fprintln(out, "tests were skipped because this machine lacks something; LEHR_ALLOW_SKIPS=1 forgives that")
		code = 1
	}
	if t.passed+t.failed == 0 && code == 0 {
		fmt.Fprintln(out, "no test ran")
		code = 1
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	return code
}
