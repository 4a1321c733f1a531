package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/agext/levenshtein"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

// manners is how a command behaves towards who runs it.
type manners struct {
	stdout  io.Writer // as it was given, for terminals
	quiet   bool      // ids instead of tables, no progress
	verbose bool      // every request is named
	noInput bool      // nothing is asked
}

// flags are the flags of every command.
func (m *manners) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&m.quiet, "quiet", "q", false, "print ids only, and no progress")
	fs.BoolVarP(&m.verbose, "verbose", "v", false, "name every request to the server on standard error")
	fs.BoolVar(&m.noInput, "no-input", false, "never ask; what would be asked is refused")
}

// columns is the width that tables must fit, 0 where nobody looks at them.
func (m *manners) columns() int {
	f, ok := m.stdout.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// confirm asks before what cannot be undone, where somebody can answer; a
// script is taken at its word.
func (a *app) confirm(ctx context.Context, yes bool, question string, args ...any) error {
	in, ok := a.env.Stdin.(*os.File)
	if yes || !a.terminal || !ok || !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	question = fmt.Sprintf(question, args...)
	if a.noInput {
		return usage("%s Say so with --yes, since --no-input forbids to ask", question)
	}
	fmt.Fprintf(a.env.Stderr, "%s [y/N] ", clean(question))
	answer := make(chan string, 1)
	go func() { // a read of a terminal ends with the process only
		line, _ := bufio.NewReader(io.LimitReader(in, 1<<10)).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.env.Stderr)
		return ctx.Err()
	case line := <-answer:
		if line == "y" || line == "yes" {
			return nil
		}
		fmt.Fprintln(a.env.Stderr, "nothing was done")
		return exitCode(ExitCancelled)
	}
}

func yesFlag(fs *pflag.FlagSet, yes *bool) {
	fs.BoolVarP(yes, "yes", "y", false, "do not ask")
}

// nearest returns up to three candidates that word may have meant.
func nearest(word string, candidates []string) []string {
	distance := func(c string) int { return levenshtein.Distance(word, c, nil) }
	near := slices.DeleteFunc(slices.Clone(candidates), func(c string) bool {
		return distance(c) > 1+min(2, len(word)/4) && !(len(word) > 2 && strings.HasPrefix(c, word))
	})
	slices.SortFunc(near, func(a, b string) int {
		if d := distance(a) - distance(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	near = slices.Compact(near)
	return near[:min(len(near), 3)]
}

// flagError adds what was meant to the complaint about an unknown flag.
func flagError(cmd *cobra.Command, err error) error {
	name, unknown := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !unknown {
		return usageError{err}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := nearest(name, names); len(near) > 0 {
		return usage("%w; did you mean --%s?", err, strings.Join(near, " or --"))
	}
	return usageError{err}
}

// meantTemplate adds names that are there to the refusal of one that is not.
func (a *app) meantTemplate(ctx context.Context, c *sdk.Client, name string, err error) error {
	d := sdk.ErrorDetail(err)
	if d.GetCode() != "template_not_found" {
		return err
	}
	ctx, done := context.WithTimeout(ctx, time.Second)
	defer done()
	bare, _, _ := strings.Cut(name, ":")
	var names []string
	_ = walk(1000, templatePages(ctx, c, &lehrv1.ListTemplatesRequest{}), func(list []*lehrv1.Template) error { // a hint, no more
		for _, t := range list {
			names = append(names, t.GetName())
			if t.GetName() == bare {
				for _, tag := range t.GetTags() {
					names = append(names, t.GetName()+":"+tag)
				}
			}
		}
		return nil
	})
	near := nearest(name, names)
	if len(near) == 0 {
		near = nearest(bare, names)
	}
	if len(near) == 0 {
		return err
	}
	// Not wrapped: what the server said would be said in its place.
	return errs.New(errs.NotFound, "%s; did you mean %s?", d.GetMessage(), strings.Join(near, " or ")).WithCode(d.GetCode()).WithRemedy("%s", d.GetRemedy())
}

// wordy names every request on stderr.
type wordy struct {
	out  io.Writer
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w wordy) RoundTrip(r *http.Request) (*http.Response, error) {
	begun := time.Now()
	resp, err := w.next.RoundTrip(r)
	outcome := "no answer"
	if err == nil {
		outcome = resp.Status
	}
	if id := r.Header.Get("Lehr-Sandbox-Id"); id != "" {
		outcome += " by sandbox " + id
	}
	fmt.Fprintf(w.out, "lehr: %s %s: %s after %s\n", r.Method, clean(r.URL.Redacted()), clean(outcome), time.Since(begun).Round(time.Millisecond/10))
	return resp, err
}
