package debian

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/lehr-dev/lehr/internal/errs"
)

const (
	program   = "mmdebstrap"
	tailLines = 5   // of output in an error
	maxLine   = 500 // bytes of one line of output
)

// Options for apt and dpkg that stay in the image. They are those of Debian's
// own slim container images: no documentation, translations and lists in other
// languages, and no fsync per file, which a sandbox does not need.
var (
	aptOptions  = []string{`Acquire::Languages "none"`}
	dpkgOptions = []string{
		"force-unsafe-io",
		"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
		"path-exclude=/usr/share/groff/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/lintian/*",
		"path-exclude=/usr/share/locale/*", "path-include=/usr/share/locale/locale.alias", "path-exclude=/usr/share/man/*",
	}
)

// arguments returns mmdebstrap's arguments; the tar goes to standard output.
func arguments(sources []source, proxies []string) []string {
	args := []string{"--variant=minbase", "--mode=root", "--format=tar"}
	for _, o := range slices.Concat(aptOptions, proxies) {
		args = append(args, "--aptopt="+o)
	}
	for _, o := range dpkgOptions {
		args = append(args, "--dpkgopt="+o)
	}
	if slices.ContainsFunc(sources, func(s source) bool { return strings.HasPrefix(s.uri, "https:") }) {
		args = append(args, "--include=ca-certificates")
	}
	args = append(args, suite, "-")
	for _, s := range sources {
		args = append(args, s.line())
	}
	return args
}

// proxyOptions returns the proxies of this machine's apt, which mmdebstrap does
// not read, as options for the image's apt.
func proxyOptions(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy").Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, errs.New(errs.Unavailable, "apt's configuration cannot be read: %w", err)
	}
	var options []string
	for line := range strings.Lines(string(out)) {
		if option := strings.TrimSuffix(strings.TrimSpace(line), ";"); strings.Contains(option, "://") {
			options = append(options, option)
		}
	}
	return options, nil
}

// bootstrapper runs mmdebstrap once, in a folder of its own.
type bootstrapper struct {
	dir      string
	progress func(string)
	tail     []string // last lines of output
}

// run starts the program, hands its standard output to read, and fails with
// what the program said when either of them does.
func (b *bootstrapper) run(ctx context.Context, args []string, read func(context.Context, io.Reader) error) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd, err := b.command(running, args)
	if err != nil {
		return err
	}
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	if err := errors.Join(outErr, errErr); err != nil {
		return errs.Wrap(err, errs.Internal, "debian.run", "no pipe for "+program)
	}
	release, err := startOnThread(cmd)
	if err != nil {
		return errs.New(errs.Unavailable, "%s cannot be started: %w", program, err)
	}
	defer release()
	var said sync.WaitGroup
	said.Go(func() { b.listen(stderr) })
	readErr := read(ctx, stdout)
	if readErr != nil {
		stop() // nobody reads on, and the program must not wait for that
	}
	said.Wait()
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return b.outcome(readErr, waitErr)
}

// outcome weighs the two failures: the program's own words tell most.
func (b *bootstrapper) outcome(readErr, waitErr error) error {
	var exit *exec.ExitError
	var known *errs.Error
	switch {
	case readErr == nil && waitErr == nil:
		return nil
	case errors.As(waitErr, &exit) && exit.Exited():
		return errs.New(errs.Unavailable, "%s failed: %s", program, strings.Join(b.tail, " | ")).
			WithRemedy("Check that the Debian mirror of this machine answers: apt-get update")
	case errors.As(readErr, &known) && (known.Kind != errs.Invalid || known.Code != ""):
		return readErr // a full disk, a limit
	}
	return errs.Wrap(errors.Join(readErr, waitErr), errs.Unavailable, "debian.run", program+" ended early: "+strings.Join(b.tail, " | "))
}

// command prepares the program as process 1 of a pid namespace of its own, with
// its own mounts: when it ends, or is killed, everything it started is gone, and
// it is killed when this process ends.
func (b *bootstrapper) command(ctx context.Context, args []string) (*exec.Cmd, error) {
	path, err := lookProgram()
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil { // apt downloads as a user of its own
		return nil, errs.Wrap(err, errs.Internal, "debian.command", "the work folder cannot be opened to apt")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/"
	cmd.Env = append(slices.DeleteFunc(os.Environ(), foreignEnv), "TMPDIR="+b.dir, "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:    syscall.SIGKILL,
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS, // Go makes the new mounts private
	}
	return cmd, nil
}

// Check says why Make could not make the base without a registry: mmdebstrap is
// missing, or this process is not root. Kind Unavailable, with the remedy.
func Check() error {
	_, err := lookProgram()
	return err
}

func lookProgram() (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", errs.New(errs.Unavailable, "%s is not installed", program).
			WithCode("mmdebstrap_missing").WithRemedy("apt-get install %s", program)
	}
	if os.Geteuid() != 0 {
		return "", errs.New(errs.Unavailable, "making the minimal base needs root").WithRemedy("Run the agent as root")
	}
	return path, nil
}

// foreignEnv reports whether a variable of ours must not reach the program.
func foreignEnv(pair string) bool {
	name, _, _ := strings.Cut(pair, "=")
	return name == "TMPDIR" || name == "SOURCE_DATE_EPOCH" || name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "LC_")
}

// startOnThread starts cmd on a thread that lives until release is called: the
// parent-death signal is sent when the thread ends that started the child.
func startOnThread(cmd *exec.Cmd) (release func(), err error) {
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-done
	}()
	release = sync.OnceFunc(func() { close(done) })
	if err := <-started; err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// listen passes on what the program says, line by line, to its end.
func (b *bootstrapper) listen(r io.Reader) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, more, err := in.ReadLine()
		if err != nil {
			return
		}
		for more && err == nil { // drop the end of a line that is too long
			_, more, err = in.ReadLine()
		}
		text := strings.ToValidUTF8(strings.TrimSpace(string(line)), "?")
		if text == "" {
			continue
		}
		b.progress(text)
		b.tail = append(b.tail, text)
		b.tail = b.tail[max(0, len(b.tail)-tailLines):]
	}
}

// removeAll removes a work folder; what cannot be removed is swept when the
// store is opened next.
func removeAll(dir string) { _ = os.RemoveAll(dir) }
