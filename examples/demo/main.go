// Command demo shows Lehr on this machine from an empty folder to sandboxes
// that answer, as a user would type it, and checks every stage. It exits
// non-zero at the first stage that does not hold. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	lehr := flag.String("lehr", "bin/lehr", "the program to show")
	recipes := flag.String("recipes", "examples", "folder of the example recipes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *lehr, *recipes); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, lehr, recipes string) (err error) {
	program, err := filepath.Abs(lehr)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "lehr-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	d := &demo{ctx: ctx, lehr: program, recipes: recipes, folder: folder}
	if err := d.stage("this machine can run Lehr", d.doctor); err != nil {
		return err
	}
	if err := d.stage("lehr up starts", d.start); err != nil {
		return errors.Join(err, d.stop())
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	for _, s := range []struct {
		title string
		do    func() error
	}{
		{"the base minimal is made", d.minimal},
		{"examples/web becomes a snapshot template", d.buildWeb},
		{"examples/tools becomes a base template", d.buildTools},
		{"sandboxes of web resume a server that already runs", d.useWeb},
		{"sandboxes of tools boot fresh", d.useTools},
		{"commands in a running sandbox", d.commands},
		{"every sandbox is killed and gone", d.kill},
	} {
		if err := d.stage(s.title, s.do); err != nil {
			return err
		}
	}
	d.table()
	return nil
}

// timing is one row of the table at the end.
type timing struct {
	what    string
	samples []time.Duration
}

// demo is one run. It is used by one goroutine.
type demo struct {
	ctx     context.Context // of the whole run; every command of it ends with this
	lehr    string
	recipes string
	folder  string
	server  *server
	boxes   []string // ids of live sandboxes
	timings []timing
}

// stage says what is about to be shown and whether it held.
func (d *demo) stage(title string, do func() error) error {
	fmt.Printf("\n== %s\n", title)
	began := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	fmt.Printf("   ok, %.1f s\n", time.Since(began).Seconds())
	return nil
}

// measure adds a sample to a row of the table.
func (d *demo) measure(what string, took time.Duration) {
	for i := range d.timings {
		if d.timings[i].what == what {
			d.timings[i].samples = append(d.timings[i].samples, took)
			return
		}
	}
	d.timings = append(d.timings, timing{what, []time.Duration{took}})
}
