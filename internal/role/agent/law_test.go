package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
)

// TestEngineLaw runs the engine suite, as far as an agent offers the law, on
// real sandboxes behind the agent's socket.
func TestEngineLaw(t *testing.T) {
	needRoot(t)
	data := newData(t)
	a := start(t, data, 0, host.Pool{})
	image, err := a.ImportImage(t.Context(), agent.ImportTar, bytes.NewReader(probeTree(t)))
	if err != nil {
		t.Fatalf("ImportImage() = %v", err)
	}
	enginetest.ExerciseOnly(t, func(t *testing.T) enginetest.Subject {
		e := &hosttest.OverAgent{
			Agent: a, Probe: []string{"/bin/probe", "ask"},
			Boot: []string{"/bin/sh", "-c", "/bin/probe serve > /dev/null 2>&1 &"},
		}
		again := func(*testing.T) engine.Engine { return e }
		return enginetest.Subject{
			Engine: e, Image: engine.Rootfs{Digest: image.Digest}, Run: e.Run, Crash: again, Reopen: again,
			Leaks:     func(context.Context) ([]string, error) { return belongings(data) },
			Processes: 20_000,
		}
	}, hosttest.OverAgentSubtests()...)
}

// belongings names what slots and sandboxes keep on disk; the engine's own
// suite looks at everything else.
func belongings(data string) ([]string, error) {
	var all []string
	for _, dir := range []string{"engine/slots", "sandboxes"} {
		entries, err := os.ReadDir(filepath.Join(data, dir))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all, nil
}

// probeTree is the suite's tree with a shell, the probe in /bin, and what the
// suite expects of the first process's image.
func probeTree(t *testing.T) []byte {
	t.Helper()
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("SKIP-ENV: busybox-static is not installed: " + err.Error())
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for r := tar.NewReader(bytes.NewReader(enginetest.RootTar())); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.WriteHeader(h), copied(io.Copy(w, r))); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string][]byte{"bin/sh": shell, "bin/probe": enginetest.BuildProbe(t)} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(body))}
		if err := errors.Join(w.WriteHeader(h), second(w.Write(body))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func copied(_ int64, err error) error { return err }
