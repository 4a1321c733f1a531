// Package pgtest starts a private PostgreSQL for tests from the machine's own
// packages: one server per test binary, one database per test, reached through
// a unix socket in a temporary folder. It ends with the test binary, also when
// that is killed, which leaves only the folder.
package pgtest

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Server is a PostgreSQL server that the first Database starts. The zero value
// is ready; Stop must be called at the end, usually by TestMain. It is safe
// for concurrent use.
type Server struct {
	// Durable makes commits wait for the disk, as in production; tests that do
	// not measure leave it off.
	Durable bool

	once      sync.Once
	err       error
	folder    string
	process   *os.Process
	ended     chan struct{} // closed once the server is gone
	databases atomic.Int64
}

// errMissing says that the machine has no PostgreSQL to start.
var errMissing = errors.New("PostgreSQL cannot be started here")

// stopTimeout bounds an orderly end.
const stopTimeout = 20 * time.Second

// Database returns the URL of a new, empty database that ends with the test.
// The test is skipped where the machine has no PostgreSQL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	s.once.Do(func() { s.err = s.start() })
	if errors.Is(s.err, errMissing) {
		t.Skipf("SKIP-ENV: %v", s.err)
	}
	if s.err != nil {
		t.Fatalf("start PostgreSQL: %v", s.err)
	}
	name := "test" + strconv.FormatInt(s.databases.Add(1), 10)
	s.administrate(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { s.administrate(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return s.url(name)
}

// Stop ends the server and removes its files. It may be called twice, and
// where nothing was started.
func (s *Server) Stop() error {
	if s.process == nil {
		return s.removeFolder()
	}
	err := s.process.Signal(syscall.SIGINT) // "fast": ends sessions, then the server
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		err = errors.Join(err, errors.New("PostgreSQL did not stop and was killed"), s.process.Kill())
		<-s.ended
	}
	return errors.Join(err, s.removeFolder())
}

func (s *Server) removeFolder() error {
	if s.folder == "" {
		return nil
	}
	return os.RemoveAll(s.folder)
}

func (s *Server) url(database string) string {
	return "host=" + s.folder + " user=lehr dbname=" + database + " sslmode=disable"
}

func (s *Server) administrate(t testing.TB, statement string) {
	t.Helper()
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		t.Errorf("%s: %v", statement, err)
	}
}

func (s *Server) start() error {
	programs, err := findPrograms()
	if err != nil {
		return err
	}
	credential, err := unprivileged()
	if err != nil {
		return err
	}
	s.folder, err = os.MkdirTemp("", "lehr-pg-")
	if err != nil {
		return err
	}
	if credential != nil {
		if err := os.Chown(s.folder, int(credential.Uid), int(credential.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(s.folder, "data")
	// A locale that does not sort as bytes shows where the schema relies on it.
	initdb := exec.Command(filepath.Join(programs, "initdb"), "-D", data, "-U", "lehr", "--auth=trust", "--encoding=UTF8",
		"--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = s.folder, &syscall.SysProcAttr{Credential: credential}
	if output, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, output)
	}
	return s.serve(filepath.Join(programs, "postgres"), data, credential)
}

func (s *Server) serve(program, data string, credential *syscall.Credential) error {
	args := []string{
		"-D", data, "-k", s.folder, "-c", "listen_addresses=", "-c", "max_connections=300",
		"-c", "shared_buffers=64MB", "-c", "lc_messages=C", "-c", "logging_collector=off",
	}
	if !s.Durable {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off")
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = s.folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGQUIT}
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	ready := make(chan error, 1)
	s.ended = make(chan struct{})
	go func() {
		// The signal of the parent's death is tied to the thread that forks.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.ended)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		watch(log, ready)
		_ = cmd.Wait() // whoever needed the server has failed by then
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process = cmd.Process
	return <-ready
}

// watch reads the server's log to its end and tells when it is ready.
func watch(log io.Reader, ready chan<- error) {
	var seen []string
	told := false
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if told {
			continue
		}
		seen = append(seen, lines.Text())
		if strings.Contains(lines.Text(), "ready to accept connections") {
			told = true
			ready <- nil
		}
	}
	if !told {
		ready <- fmt.Errorf("the server ended: %s", strings.Join(seen, "\n"))
	}
}

// findPrograms returns the folder of the newest server, which Debian keeps out
// of PATH.
func findPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%w: initdb is not installed", errMissing)
	}
	slices.SortFunc(found, func(a, b string) int { return majorOf(b) - majorOf(a) })
	return filepath.Dir(found[0]), nil
}

func majorOf(path string) int {
	major, err := strconv.Atoi(strings.Split(path, "/")[4])
	if err != nil {
		return 0
	}
	return major
}

// unprivileged returns whom to be, since the server refuses to be root; nil
// where the test is not root either.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w: root needs a user postgres to run it as", errMissing)
	}
	uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
