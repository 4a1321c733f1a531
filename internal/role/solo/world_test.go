package solo

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/program"
	"github.com/lehr-dev/lehr/sdk"
)

// Roles in which the test program starts itself.
const (
	roleAgent = "test-agent" // a scripted host that tells what happens to it
	roleUp    = "test-up"    // a `lehr up`
)

// eventsEnv names the FIFO that the children tell their events on.
const eventsEnv = "LEHR_TEST_EVENTS"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case roleAgent:
			os.Exit(agentMain(os.Args[2:]))
		case roleUp:
			os.Exit(upMain(os.Args[2]))
		}
	}
	if err := program.KeepDescriptors(); err != nil { // as main does
		panic(err)
	}
	os.Exit(m.Run())
}

// agentMain is the agent of the tests: SIGTERM and the end of its parent end it.
func agentMain(args []string) int {
	tell := func(format string, a ...any) {}
	if name := os.Getenv(eventsEnv + "_" + filepath.Base(flagOf(args, "data"))); name != "" {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return 9
		}
		tell = func(format string, a ...any) { fmt.Fprintf(f, format+"\n", a...) }
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	life, err := strconv.Atoi(flagOf(args, "life-fd"))
	if err != nil {
		return 8
	}
	tell("begun %d %s", os.Getpid(), strings.Join(openFiles(), " "))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.NewFile(uintptr(life), "life"))
	}()
	socket := flagOf(args, "socket")
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return 7
	}
	_ = os.Remove(socket) // of the life before
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 6
	}
	server := hostrpc.NewServer(agenttest.NewHost(), slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(l) }()
	select {
	case <-term:
		tell("terminated")
	case <-ended:
		tell("orphaned")
	}
	_ = server.Close()
	return 0
}

func flagOf(args []string, name string) string {
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	values := map[string]*string{}
	for _, n := range []string{"data", "socket", "life-fd", "log-level"} {
		values[n] = fs.String(n, "", "")
	}
	if err := fs.Parse(args); err != nil {
		return ""
	}
	return *values[name]
}

// openFiles lists what this process inherited or opened, but for the standard
// streams.
func openFiles() []string {
	paths, _ := filepath.Glob("/proc/self/fd/*") // the pattern is well-formed
	var all []string
	for _, p := range paths {
		target, err := os.Readlink(p)
		if n, _ := strconv.Atoi(filepath.Base(p)); err == nil && n > 2 {
			all = append(all, target)
		}
	}
	return all
}

// upMain is a lehr up that only a signal ends.
func upMain(folder string) int {
	err := Run(context.Background(), options(folder, slog.New(slog.DiscardHandler)))
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func options(folder string, log *slog.Logger) Options {
	up := config.Up{Data: filepath.Join(folder, filepath.Base(folder)), Listen: "127.0.0.1:0", Workers: 1, LogLevel: "info"}
	return Options{Config: up, ServersDir: filepath.Join(folder, "servers"), AgentArgs: []string{os.Args[0], roleAgent}, Log: log}
}

// world is one folder and what the agents in it tell.
type world struct {
	t      *testing.T
	o      Options
	events *bufio.Scanner
}

func newWorld(t *testing.T) *world {
	t.Helper()
	folder, err := os.MkdirTemp("", "lehr-solo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	fifo := filepath.Join(folder, "events")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0) // both ends: it must not end with a writer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	// The name has the folder in it, because tests run beside each other.
	if err := os.Setenv(eventsEnv+"_"+filepath.Base(folder), fifo); err != nil {
		t.Fatal(err)
	}
	return &world{t: t, o: options(folder, slog.New(slog.DiscardHandler)), events: bufio.NewScanner(f)}
}

// event returns the next event of an agent.
func (w *world) event() []string {
	w.t.Helper()
	if !w.events.Scan() {
		w.t.Fatalf("no event: %v", w.events.Err())
	}
	return strings.Fields(w.events.Text())
}

// wantEvent wants the next event by its first word and returns the rest.
func (w *world) wantEvent(word string) []string {
	w.t.Helper()
	got := w.event()
	if got[0] != word {
		w.t.Fatalf("event = %q, want %s", got, word)
	}
	return got[1:]
}

// up runs until stop is called, which is done at the latest by the test's end,
// and returns once calls are taken.
func (w *world) up() (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	o := w.o
	o.Ready = func(url string) { ready <- url }
	go func() { ended <- Run(ctx, o) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run() = %v, want nil", err)
		}
	}
	w.t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		w.t.Fatalf("Run() = %v before it was ready", err)
	}
	return stop
}

// serverFile is the one file by which the server made itself known.
func (w *world) serverFile() string {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.o.ServersDir, "*.json"))
	if err != nil || len(paths) != 1 {
		w.t.Fatalf("server files = %v, %v, want one", paths, err)
	}
	return paths[0]
}

func (w *world) server() (s config.Server) {
	w.t.Helper()
	b, err := os.ReadFile(w.serverFile())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) client(s config.Server) *sdk.Client {
	w.t.Helper()
	c, err := sdk.New(sdk.Options{URL: s.URL, Key: s.Key})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) keys(s config.Server) ([]*lehrv1.Key, error) {
	res, err := w.client(s).Keys.List(w.t.Context(), connect.NewRequest(&lehrv1.ListKeysRequest{}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetKeys(), nil
}
