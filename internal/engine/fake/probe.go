package fake

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
)

// Probe is the suite's probe: it answers probewire on its port with what the
// simulated machine has to say.
func Probe(ctx context.Context, m *Machine) error {
	remember(m)
	ln, err := m.Listen(probewire.Port)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return ctx.Err()
		}
		m.Go(func(ctx context.Context) { answerProbe(ctx, m, conn) })
	}
}

// remember gives a machine its nonce; a restored one has it in its memory.
func remember(m *Machine) {
	if m.Value("nonce") == "" {
		m.SetValue("nonce", rand.Text())
		m.SetValue("started", strconv.FormatInt(m.Clock.Now().UnixNano(), 10))
	}
}

func answerProbe(ctx context.Context, m *Machine, conn net.Conn) {
	defer conn.Close()
	var req probewire.Request
	if err := probewire.Read(conn, &req); err != nil {
		return
	}
	if m.Gate(ctx) != nil {
		return
	}
	reply := probewire.Reply{Out: "held"}
	if req.Verb != "hold" {
		reply = AnswerProbe(ctx, m, req)
	}
	if m.Gate(ctx) != nil || probewire.Write(conn, reply) != nil || req.Verb != "hold" {
		return
	}
	_, _ = conn.Read(make([]byte, 1)) // until either side ends it
}

// AnswerProbe runs one verb of the suite's probe on a machine, whatever its
// first process is.
func AnswerProbe(ctx context.Context, m *Machine, req probewire.Request) probewire.Reply {
	out, err := runProbe(ctx, m, req.Verb, req.Args)
	return probewire.Reply{Out: out, Err: describe(err)}
}

// describe puts the errno's name first.
func describe(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return unix.ErrnoName(errno) + ": " + err.Error()
	}
	return err.Error()
}

func runProbe(ctx context.Context, m *Machine, verb string, args []string) (string, error) {
	if f, ok := probeFiles[verb]; ok {
		return f(m.Tree, arg(args, 0), arg(args, 1), arg(args, 2))
	}
	if f, ok := probeVerbs[verb]; ok {
		return f(ctx, m, args)
	}
	return "", fmt.Errorf("unknown verb %q", verb)
}

// probeVerbs are the verbs about the machine.
var probeVerbs = map[string]func(ctx context.Context, m *Machine, args []string) (string, error){
	"echo": func(_ context.Context, _ *Machine, args []string) (string, error) {
		return strings.Join(args, " "), nil
	},
	"sync": func(context.Context, *Machine, []string) (string, error) { return "", nil },
	"env": func(_ context.Context, m *Machine, args []string) (string, error) {
		for _, kv := range m.Spec.Env {
			if v, ok := strings.CutPrefix(kv, arg(args, 0)+"="); ok {
				return v, nil
			}
		}
		return "", nil
	},
	"nonce": func(_ context.Context, m *Machine, _ []string) (string, error) {
		remember(m)
		return fmt.Sprintf("nonce=%s counter=%d started=%s", m.Value("nonce"), m.Awake()/(10*time.Millisecond), m.Value("started")), nil
	},
	"exit": func(_ context.Context, m *Machine, args []string) (string, error) {
		m.Exit("exit status " + arg(args, 0))
		return "", nil
	},
	"eat": func(_ context.Context, m *Machine, args []string) (string, error) {
		return "", m.Grow(atoi(arg(args, 0)))
	},
	"fork": func(_ context.Context, m *Machine, args []string) (string, error) {
		return probeFork(m, atoi(arg(args, 0)))
	},
	"spawn": func(_ context.Context, m *Machine, _ []string) (string, error) {
		pid, err := m.Spawn("sleep")
		return fmt.Sprintf("pid=%d", pid), err
	},
	"alive": func(_ context.Context, m *Machine, args []string) (string, error) {
		for _, p := range m.Processes() {
			if p.PID == atoi(arg(args, 0)) {
				return "true", nil
			}
		}
		return "false", nil
	},
	"whoami": func(_ context.Context, m *Machine, _ []string) (string, error) {
		return fmt.Sprintf("uid=0 pid=1 nproc=%d mem_mb=%d hostname=%s", m.Resources.VCPUs, m.Resources.MemoryMB, m.Hostname()), nil
	},
	"burn": func(ctx context.Context, m *Machine, args []string) (string, error) {
		wall := time.Duration(atoi(arg(args, 1))) * time.Millisecond
		cpu, err := m.Burn(ctx, atoi(arg(args, 0)), wall)
		return fmt.Sprintf("cpu_ns=%d wall_ns=%d work=%d", cpu, wall, cpu), err
	},
}

func probeFork(m *Machine, n int) (string, error) {
	var pids []int
	var failed error
	for len(pids) < n && failed == nil {
		var pid int
		if pid, failed = m.Spawn("fork"); failed == nil {
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		_ = m.Kill(pid) // it can only be gone already
	}
	return fmt.Sprintf("started=%d", len(pids)), failed
}

// probeFiles are the verbs about files, with up to three arguments.
var probeFiles = map[string]func(t *Tree, a, b, c string) (string, error){
	"read": func(t *Tree, a, _, _ string) (string, error) {
		data, err := t.Read(a)
		return string(data), err
	},
	"write": func(t *Tree, a, b, _ string) (string, error) {
		n, err := t.Fill(a, int64(atoi(b))<<20)
		return fmt.Sprintf("written=%d", n), err
	},
	"put": func(t *Tree, a, b, c string) (string, error) {
		if err := t.Write(a, []byte(b), fs.FileMode(0o644)); err != nil || c == "" {
			return "", err
		}
		return "", t.Chmod(a, octal(c))
	},
	"delete":  func(t *Tree, a, _, _ string) (string, error) { return "", t.RemoveAll(a) },
	"mkdir":   func(t *Tree, a, _, _ string) (string, error) { return "", t.Mkdir(a, 0o755) },
	"symlink": func(t *Tree, a, b, _ string) (string, error) { return "", t.Symlink(a, b) },
	"link":    func(t *Tree, a, b, _ string) (string, error) { return "", t.Link(a, b) },
	"chmod":   func(t *Tree, a, b, _ string) (string, error) { return "", t.Chmod(a, octal(b)) },
	"chown":   func(t *Tree, a, b, c string) (string, error) { return "", t.Chown(a, atoi(b), atoi(c)) },
}

// arg returns the i-th argument, "" when it is missing.
func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// atoi returns 0 for what is no number, as a shell's arithmetic does.
func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

func octal(s string) uint32 {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
