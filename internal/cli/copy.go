package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

// Limits of one copy: a tree of a hostile sandbox ends, too.
const (
	maxCopied = 1_000_000 // files, folders and links
	maxDepth  = 200       // folders below each other
	copyJobs  = 4         // files on their way at once
)

func (a *app) sandboxCopy() *cobra.Command {
	c := &copying{app: a}
	cmd := &cobra.Command{
		Use: "cp SRC DST", Short: "Copy files and folders in or out of a sandbox",
		Long: "Copy a file or a folder with everything in it in or out of a sandbox. One side is SANDBOX:PATH, the other a path of\n" +
			"this machine, or - for standard input or output. A relative PATH begins at the default directory.\n\n" +
			"Where DST is a folder the copy goes into it; missing folders of a sandbox's DST are made. Modes and symbolic links are\n" +
			"kept, owners and times are not. DST appears when it is whole: until then the copy has another name beside it.\n" +
			"A folder that exists already is added to, file by file.\n\n" +
			"Links that lead out of the copied folder, and what is no file, folder or link, are left out, named, and make the exit code 1.",
		Example: "  lehr sandbox cp ./src sb…:/work\n  lehr sandbox cp sb…:/var/log/app.log .\n  tar -c . | lehr sandbox cp - sb…:/tmp/src.tar\n" +
			"  lehr sandbox cp sb…:/etc/passwd - # to lehr's standard output",
		Args: exactArgs("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0], args[1]) },
	}
	cmd.Flags().StringVar(&c.user, "user", "", "user of the sandbox to work as (default: the template's)")
	cmd.Flags().BoolVar(&c.allLinks, "all-links", false, "keep links that lead out of a sandbox's folder too; what they lead to is this machine's")
	return cmd
}

// copying is one run of `lehr sandbox cp`.
type copying struct {
	app      *app
	user     string
	allLinks bool
	guest    *sdk.Guest

	files, bytes atomic.Int64

	mu      sync.Mutex
	entries int // seen so far, bounded by maxCopied
	leftOut int // named on stderr
}

var remotePath = regexp.MustCompile(`^(sb[0-9a-hjkmnp-tv-z]+):(.*)$`)

// place is one side of a copy.
type place struct{ sandbox, path string }

func parsePlace(arg string) place {
	m := remotePath.FindStringSubmatch(arg)
	if m == nil {
		return place{path: arg}
	}
	if m[2] == "" {
		m[2] = "."
	}
	return place{m[1], m[2]}
}

func (p place) isLocal() bool { return p.sandbox == "" }

// standard is the path that means standard input or output.
const standard = "-"

func (c *copying) run(ctx context.Context, from, to string) error {
	src, dst := parsePlace(from), parsePlace(to)
	switch {
	case from == "" || to == "":
		return usage("lehr sandbox cp wants SRC DST, and neither empty")
	case src.isLocal() && dst.isLocal():
		return usage("neither side names a sandbox: write one of them as SANDBOX:PATH; a local file with a colon as ./NAME")
	case !src.isLocal() && !dst.isLocal():
		return usage("both sides name a sandbox: copy through this machine")
	}
	client, err := c.app.client()
	if err != nil {
		return err
	}
	box, err := c.app.sandbox(ctx, client, src.sandbox+dst.sandbox)
	if err != nil {
		return err
	}
	c.guest = client.Guest(box).As(c.user)
	done := c.app.showCopy(c)
	if src.isLocal() {
		err = c.upload(ctx, src.path, dst.path)
	} else {
		err = c.download(ctx, src.path, dst.path)
	}
	done(err)
	if err != nil {
		return copyError(err)
	}
	if c.leftOut > 0 {
		return errs.New(errs.Invalid, "the copy is there, but %d entries of it were left out", c.leftOut).WithCode("left_out")
	}
	return nil
}

// copyError says what is special about errors of the guest daemon.
func copyError(err error) error {
	if d := sdk.ErrorDetail(err); d.GetCode() == "disk_full" {
		return errs.New(errs.Exhausted, "the sandbox's disk is full").WithCode("disk_full").WithRemedy("remove files in it, or create it with a larger --disk")
	}
	return err
}

// upload copies into the sandbox.
func (c *copying) upload(ctx context.Context, src, dst string) error {
	if src == standard {
		at, err := c.remoteTarget(ctx, dst, "")
		if err != nil {
			return err
		}
		if at.isDir {
			return errs.New(errs.Exists, "%s is there and is a folder", at.path).WithRemedy("name the file in it")
		}
		return c.uploadFile(ctx, c.app.env.Stdin, at.path, 0)
	}
	return c.uploadLocal(ctx, src, dst)
}

// tempName is a name for what is not whole yet.
func tempName() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return ".lehr-cp-" + hex.EncodeToString(b[:])
}

// count counts one entry of a tree against the limit.
func (c *copying) count(depth int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries++; c.entries > maxCopied {
		return errs.New(errs.Invalid, "there are more than %d files and folders", maxCopied).WithCode("tree_too_large").WithRemedy("copy parts of it, or a tar of it")
	}
	if depth > maxDepth {
		return errs.New(errs.Invalid, "folders are more than %d deep", maxDepth).WithCode("tree_too_large").WithRemedy("copy a tar of it")
	}
	return nil
}

// maxNamed bounds how many entries that are left out are named.
const maxNamed = 20

// leave names what is not copied, and why.
func (c *copying) leave(name, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leftOut++
	switch {
	case c.leftOut <= maxNamed:
		fmt.Fprintf(c.app.env.Stderr, "lehr: left out %s: %s\n", cell(name), why)
	case c.leftOut == maxNamed+1:
		fmt.Fprintln(c.app.env.Stderr, "lehr: more were left out and are not named")
	}
}

// counted counts the bytes that pass.
type counted struct {
	io.Reader
	n *atomic.Int64
}

// Read implements io.Reader.
func (r counted) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n.Add(int64(n))
	return n, err
}

// leadsOut reports whether a link at rel, a slash path below a folder, can lead
// out of that folder. Only leading ".." count as harmless: one that follows a
// name may follow another link.
func leadsOut(rel, target string) bool {
	if target == "" || strings.HasPrefix(target, "/") {
		return true
	}
	depth := strings.Count(rel, "/")
	named := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 || named {
				return true
			}
		default:
			named = true
		}
	}
	return false
}

// badName says why a name that a sandbox gave is none, or "".
func badName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "it is no name"
	case strings.ContainsAny(name, "/\x00"):
		return "it is a path"
	case len(name) > 255:
		return "it is too long"
	}
	return ""
}

// nothing reports whether a call found nothing there.
func nothing(err error) bool { return connect.CodeOf(err) == connect.CodeNotFound }

// baseOf is the last name of a slash path, or "" where it has none.
func baseOf(p string) string {
	b := path.Base(path.Clean(p))
	if b == "." || b == ".." || b == "/" {
		return ""
	}
	return b
}

// showCopy shows how a copy goes, where somebody watches; done ends that.
func (a *app) showCopy(c *copying) (done func(error)) {
	if !a.terminal || a.quiet || a.getenv("TERM") == "dumb" {
		return func(error) {}
	}
	begun := time.Now()
	line := func() string {
		n := c.bytes.Load()
		return fmt.Sprintf("%d files, %s, %s/s", c.files.Load(), mebibytes(n), mebibytes(int64(float64(n)/max(0.001, time.Since(begun).Seconds()))))
	}
	stop := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				fmt.Fprintf(a.env.Stderr, "\r\x1b[K%s", line())
			}
		}
	})
	return func(err error) {
		close(stop)
		ended.Wait()
		fmt.Fprint(a.env.Stderr, "\r\x1b[K")
		if err == nil {
			fmt.Fprintf(a.env.Stderr, "copied %s\n", line())
		}
	}
}

// away runs a clean-up in the sandbox that an interrupt does not keep from
// happening.
func (c *copying) away(ctx context.Context, p string) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), shortly)
	defer done()
	if err := c.guest.Files.Remove(ctx, p); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(c.app.env.Stderr, "lehr: %s could not be removed from the sandbox: %s\n", clean(p), clean(err.Error()))
	}
}
