package world

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// golden is a data folder in which the base minimal is made already: making it
// takes longer than most tests. Each world begins with a copy.
var golden struct {
	once   sync.Once
	folder string
	err    error
}

// Main runs the tests of a package and takes the golden folder away. It is
// called by TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if golden.folder != "" {
		if err := os.RemoveAll(golden.folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// EnvGolden names a folder that Golden made, for tests that run again in a
// process of their own.
const EnvGolden = "LEHR_GOLDEN"

// Golden returns the folder whose data each world begins with, making it first;
// Main takes it away.
func Golden(t testing.TB) string {
	t.Helper()
	if folder := os.Getenv(EnvGolden); folder != "" {
		return folder
	}
	golden.once.Do(func() { golden.folder, golden.err = makeGolden(Program(t)) })
	if golden.err != nil {
		t.Fatal(golden.err)
	}
	return golden.folder
}

// copyGolden fills the data folder, making the golden one first.
func (w *World) copyGolden() {
	w.t.Helper()
	if out, err := exec.Command("cp", "-a", filepath.Join(Golden(w.t), "data"), w.Data()).CombinedOutput(); err != nil {
		w.t.Fatalf("copying the golden data folder: %v\n%s", err, out)
	}
}

// makeGolden starts lehr on a new folder, waits for minimal by using it, and
// stops.
func makeGolden(lehr string) (folder string, err error) {
	folder, err = os.MkdirTemp("", "lehr-golden-")
	if err != nil {
		return "", err
	}
	env := append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(folder, "state"), "LEHR_URL=", "LEHR_API_KEY=")
	up := exec.Command(lehr, "up", "--data", filepath.Join(folder, "data"), "--listen", "127.0.0.1:0")
	up.Env = env
	stderr, err := up.StderrPipe()
	if err != nil {
		return folder, err
	}
	if err := up.Start(); err != nil {
		return folder, err
	}
	log := awaitUp(stderr)
	run := exec.Command(lehr, "run", "minimal", "--", "true")
	run.Env = env
	out, runErr := run.CombinedOutput()
	if runErr != nil {
		runErr = fmt.Errorf("making minimal: %w\n%s", runErr, out)
	}
	if err := up.Process.Signal(os.Interrupt); err != nil {
		return folder, err
	}
	text := <-log
	if err := up.Wait(); err != nil && runErr == nil {
		runErr = fmt.Errorf("lehr up: %w\n%s", err, text)
	}
	return folder, runErr
}
