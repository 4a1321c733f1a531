// Package bench measures the first figures of Lehr through its API, from
// another process with a key, on a server of its own. It asserts nothing about
// time. `make bench` runs it and prints the table of docs/benchmarks.md.
package bench

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/recipe"
	"github.com/lehr-dev/lehr/sdk"
	"github.com/lehr-dev/lehr/test/world"
)

var figures = flag.Bool("figures", false, "measure; without it the test is skipped")

// table collects rows; it is used by one goroutine.
type table struct {
	t    *testing.T
	c    *sdk.Client
	rows []string
}

func TestFigures(t *testing.T) {
	if !*figures {
		t.Skip("measuring takes minutes; run `make bench`")
	}
	w := world.Start(t)
	b := &table{t: t, c: w.Client()}
	b.build("minimal warm-up", "warmup", []string{"RUN true"}, 1)
	b.createOutput()
	b.exec()
	b.files()
	b.idleMemory()
	b.build("build: examples/web cold, to a snapshot template", "web", recipeFile(t, "../../examples/web/Recipe"), 3)
	b.resumeOutput()
	b.build("build: one RUN, to a base template (flatten and publish)", "tiny", []string{"RUN true"}, 10)
	b.build("build: one START and healthcheck, to a snapshot template", "tinysnap", []string{"START sleep 100000", "HEALTHCHECK --interval=50ms true"}, 10)
	b.docker()
	fmt.Printf("\n| what | n | p50 | p99 or max | unit |\n| --- | --- | --- | --- | --- |\n%s\n", strings.Join(b.rows, "\n"))
}

func recipeFile(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	elements, err := recipe.Split(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return elements.Texts()
}

// times takes n samples of f and adds them as a row.
func (b *table) times(what string, n int, f func(i int)) {
	b.t.Helper()
	samples := make([]time.Duration, n)
	for i := range samples {
		began := time.Now()
		f(i)
		samples[i] = time.Since(began)
	}
	slices.Sort(samples)
	p99 := samples[min(n-1, n*99/100)]
	b.rows = append(b.rows, fmt.Sprintf("| %s | %d | %.1f | %.1f | ms |", what, n, ms(samples[n/2]), ms(p99)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (b *table) create(template string) string {
	b.t.Helper()
	res, err := b.c.Sandboxes.Create(b.t.Context(), connect.NewRequest(&lehrv1.CreateSandboxRequest{Template: template}))
	if err != nil {
		b.t.Fatal(err)
	}
	return res.Msg.GetId()
}

func (b *table) kill(id string) {
	b.t.Helper()
	if _, err := b.c.Sandboxes.Kill(b.t.Context(), connect.NewRequest(&lehrv1.KillSandboxRequest{Id: id})); err != nil {
		b.t.Fatal(err)
	}
}

// run runs a command and returns its output; any other end than 0 is fatal.
func (b *table) run(id string, cmd ...string) string {
	b.t.Helper()
	stream, err := b.c.Sandboxes.Exec(b.t.Context(), connect.NewRequest(&lehrv1.ExecRequest{Id: id, Cmd: cmd}))
	if err != nil {
		b.t.Fatal(err)
	}
	defer stream.Close()
	var out bytes.Buffer
	for stream.Receive() {
		out.Write(stream.Msg().GetStdout())
		if exit := stream.Msg().GetExit(); exit != nil && exit.GetCode() != 0 {
			b.t.Fatalf("%q = exit code %d", cmd, exit.GetCode())
		}
	}
	if err := stream.Err(); err != nil {
		b.t.Fatal(err)
	}
	return out.String()
}

func (b *table) createOutput() {
	var ids []string
	b.times("create + first command's output, base template, one after another", 30, func(int) {
		id := b.create("minimal")
		b.run(id, "echo", "hi")
		ids = append(ids, id)
	})
	b.times("kill", len(ids), func(i int) { b.kill(ids[i]) })
}

func (b *table) exec() {
	id := b.create("minimal")
	defer b.kill(id)
	b.times("a command in a running sandbox (echo)", 200, func(int) { b.run(id, "echo", "hi") })
}

func (b *table) files() {
	id := b.create("minimal")
	defer b.kill(id)
	b.run(id, "sh", "-c", "head -c 100M /dev/zero > /file")
	b.times("download of 100 MiB", 5, func(int) {
		stream, err := b.c.Sandboxes.ReadFile(b.t.Context(), connect.NewRequest(&lehrv1.ReadFileRequest{Id: id, Path: "/file"}))
		if err != nil {
			b.t.Fatal(err)
		}
		defer stream.Close()
		n := 0
		for stream.Receive() {
			n += len(stream.Msg().GetData())
		}
		if err := stream.Err(); err != nil || n != 100<<20 {
			b.t.Fatalf("download = %d bytes, %v", n, err)
		}
	})
}

func (b *table) resumeOutput() {
	var ids []string
	b.times("snapshot template to first output (web)", 20, func(int) {
		id := b.create("web")
		b.run(id, "echo", "hi")
		ids = append(ids, id)
	})
	for _, id := range ids {
		b.kill(id)
	}
}

func (b *table) idleMemory() {
	const n = 20
	before := available(b.t)
	var ids []string
	for range n {
		ids = append(ids, b.create("minimal"))
	}
	time.Sleep(3 * time.Second) // let them become idle; nothing is asserted
	delta := before - available(b.t)
	for _, id := range ids {
		b.kill(id)
	}
	b.rows = append(b.rows, fmt.Sprintf("| memory of an idle sandbox (MemAvailable delta over %d) | %d | %.1f | – | MB |", n, n, float64(delta)/n/1e6))
}

func available(t *testing.T) int64 {
	t.Helper()
	f, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(f)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); err == nil {
			return kb * 1024
		}
	}
	t.Fatal("/proc/meminfo has no MemAvailable")
	return 0
}

// build builds n times and adds a row of create → terminal.
func (b *table) build(what, name string, recipe []string, n int) {
	b.times(what, n, func(int) {
		res, err := b.c.Builds.Create(b.t.Context(), connect.NewRequest(&lehrv1.CreateBuildRequest{
			Name: name, Recipe: recipe, SkipPrePost: len(recipe) < 3,
		}))
		if err != nil {
			b.t.Fatal(err)
		}
		stream, err := b.c.Builds.Logs(b.t.Context(), connect.NewRequest(&lehrv1.BuildLogsRequest{Id: res.Msg.GetId(), Follow: true}))
		if err != nil {
			b.t.Fatal(err)
		}
		defer stream.Close()
		for stream.Receive() {
		}
		got, err := b.c.Builds.Get(b.t.Context(), connect.NewRequest(&lehrv1.GetBuildRequest{Id: res.Msg.GetId()}))
		if err != nil || got.Msg.GetStatus() != "success" {
			b.t.Fatalf("build %s = %v %v %v", name, got.Msg.GetStatus(), got.Msg.GetError(), err)
		}
	})
}

// docker measures the peer where an engine answers.
func (b *table) docker() {
	if err := exec.Command("docker", "info").Run(); err != nil {
		b.rows = append(b.rows, "| docker run, create + first output | – | missing | – | – |")
		return
	}
	if err := exec.Command("docker", "image", "inspect", "debian:bookworm-slim").Run(); err != nil {
		b.rows = append(b.rows, "| docker run, create + first output | – | missing: no debian:bookworm-slim | – | – |")
		return
	}
	b.times("docker run, create + first output", 20, func(int) {
		if out, err := exec.Command("docker", "run", "--rm", "debian:bookworm-slim", "echo", "hi").CombinedOutput(); err != nil {
			b.t.Fatalf("docker run: %v\n%s", err, out)
		}
	})
}
