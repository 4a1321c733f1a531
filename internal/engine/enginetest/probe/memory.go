package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
)

// memory is what exists only in this process's memory; a reboot loses it.
type memory struct {
	nonce   string
	started time.Time
	counter atomic.Int64 // rises every 10 ms

	mu     sync.Mutex
	eaten  [][]byte
	forked []int
}

func newMemory() (*memory, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	return &memory{nonce: hex.EncodeToString(b), started: time.Now()}, nil
}

func (m *memory) count() {
	for range time.Tick(10 * time.Millisecond) {
		m.counter.Add(1)
	}
}

// run runs one verb.
func (m *memory) run(req probewire.Request) (string, error) {
	verbs := map[string]func([]string) (string, error){
		"echo": func(a []string) (string, error) { return strings.Join(a, " "), nil },
		"env": func(a []string) (string, error) {
			return os.Getenv(arg(a, 0)), nil
		},
		"nonce":   m.show,
		"exit":    exit,
		"eat":     m.eat,
		"fork":    m.fork,
		"spawn":   spawn,
		"alive":   alive,
		"whoami":  whoami,
		"burn":    burn,
		"write":   write,
		"put":     put,
		"read":    read,
		"delete":  func(a []string) (string, error) { return "", os.RemoveAll(arg(a, 0)) },
		"mkdir":   func(a []string) (string, error) { return "", os.Mkdir(arg(a, 0), 0o755) },
		"symlink": func(a []string) (string, error) { return "", os.Symlink(arg(a, 0), arg(a, 1)) },
		"link":    func(a []string) (string, error) { return "", os.Link(arg(a, 0), arg(a, 1)) },
		"chmod":   chmod,
		"chown":   chown,
		"sync":    syncAll,
	}
	verb, ok := verbs[req.Verb]
	if !ok {
		return "", fmt.Errorf("unknown verb %q", req.Verb)
	}
	return verb(req.Args)
}

func (m *memory) show([]string) (string, error) {
	return fmt.Sprintf("nonce=%s counter=%d started=%d", m.nonce, m.counter.Load(), m.started.UnixNano()), nil
}

// eat takes and touches args[0] mebibytes and keeps them.
func (m *memory) eat(args []string) (string, error) {
	n, err := strconv.Atoi(arg(args, 0))
	if err != nil {
		return "", err
	}
	for range n {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = byte(i>>12) | 1
		}
		m.mu.Lock()
		m.eaten = append(m.eaten, block)
		m.mu.Unlock()
	}
	return fmt.Sprintf("eaten=%d", n), nil
}

// arg returns the i-th argument, "" when it is missing.
func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}
