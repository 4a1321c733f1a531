package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func (d *demo) minimal() error {
	began := time.Now()
	out, err := d.output("run", "minimal", "--", "cat", "/etc/os-release")
	if err != nil {
		return err
	}
	d.measure("minimal made, and a first command in it", time.Since(began))
	return want("ID=debian", out)
}

// built is what the demo reads of a build.
type built struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Steps  []struct {
		OK bool `json:"ok"`
	} `json:"steps"`
	Artifact struct {
		Type      string `json:"type"`
		SizeBytes int64  `json:"size_bytes"`
	} `json:"artifact"`
}

func (d *demo) build(name, wantType string) error {
	began := time.Now()
	var b built
	if err := d.object(&b, "build", "-t", name, "-f", filepath.Join(d.recipes, name, "Recipe")); err != nil {
		return err
	}
	d.measure("build "+name+" (cold)", time.Since(began))
	if b.Status != "success" || b.Artifact.Type != wantType || len(b.Steps) == 0 {
		return fmt.Errorf("build %s: status %q, type %q, %d steps; want success, %q and its steps", b.ID, b.Status, b.Artifact.Type, len(b.Steps), wantType)
	}
	fmt.Printf("   %s is a %s template of %.0f MiB\n", name, b.Artifact.Type, float64(b.Artifact.SizeBytes)/(1<<20))
	return nil
}

func (d *demo) buildWeb() error   { return d.build("web", "snapshot") }
func (d *demo) buildTools() error { return d.build("tools", "base") }

// create starts a sandbox and remembers it for the end.
func (d *demo) create(template string) (string, error) {
	var box struct {
		ID    string `json:"id"`
		State string `json:"state"`
	}
	if err := d.object(&box, "sandbox", "create", template); err != nil {
		return "", err
	}
	d.boxes = append(d.boxes, box.ID)
	if box.State != "running" {
		return "", fmt.Errorf("sandbox %s is %s, want running", box.ID, box.State)
	}
	return box.ID, nil
}

// answer is what the example server says of itself.
type answer struct {
	Nonce   string  `json:"nonce"`
	Started float64 `json:"started"`
	Count   int     `json:"count"`
	PID     int     `json:"pid"`
}

// useWeb asserts that clones are the process of the build: the nonce that lives
// in its memory only is the same, and the counter goes on by itself in each.
func (d *demo) useWeb() error {
	const clones = 3
	var first answer
	for i := range clones {
		began := time.Now()
		id, err := d.create("web")
		if err != nil {
			return err
		}
		var a answer
		if err := d.ask(id, &a); err != nil {
			return err
		}
		d.measure("web: create, then the server's first answer", time.Since(began))
		if i == 0 {
			first = a
		}
		if a.Nonce == "" || a.Nonce != first.Nonce || a.Started != first.Started || a.Count != first.Count {
			return fmt.Errorf("clone %d answers %+v, the first one answered %+v: want the same memory", i+1, a, first)
		}
		var again answer
		if err := d.ask(id, &again); err != nil {
			return err
		}
		if again.Count != a.Count+1 {
			return fmt.Errorf("clone %d counts %d after %d, want its own next number", i+1, again.Count, a.Count)
		}
	}
	fmt.Printf("   %d clones share the nonce %s of the build and count each on their own\n", clones, first.Nonce)
	return nil
}

func (d *demo) ask(id string, a *answer) error {
	out, err := d.output("sandbox", "exec", id, "--", "python3", "get.py")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), a)
}

func (d *demo) useTools() error {
	for range 3 {
		began := time.Now()
		id, err := d.create("tools")
		if err != nil {
			return err
		}
		out, err := d.output("sandbox", "exec", id, "--", "jq", "-n", "6 * 7")
		if err != nil {
			return err
		}
		d.measure("tools: create, then a first command's output", time.Since(began))
		if err := want("42", out); err != nil {
			return err
		}
	}
	out, err := d.output("run", "tools")
	if err != nil {
		return err
	}
	return want("made by a recipe", out)
}

func (d *demo) commands() error {
	id := d.boxes[len(d.boxes)-1]
	for range 5 {
		began := time.Now()
		out, err := d.output("sandbox", "exec", id, "-e", "WHO=lehr", "--", "sh", "-c", "echo hello from $WHO")
		if err != nil {
			return err
		}
		d.measure("a command in a running sandbox", time.Since(began))
		if err := want("hello from lehr", out); err != nil {
			return err
		}
	}
	out, err := d.output("sandbox", "exec", id, "--", "apt-get", "update")
	if err != nil {
		return fmt.Errorf("the sandbox does not reach the package mirror: %w", err)
	}
	return want("Reading package lists", out)
}

func (d *demo) kill() error {
	if err := d.killBoxes(); err != nil {
		return err
	}
	var live []json.RawMessage
	if err := d.object(&live, "sandbox", "ls"); err != nil {
		return err
	}
	if len(live) > 0 {
		return fmt.Errorf("%d sandboxes are still listed", len(live))
	}
	return nil
}

func (d *demo) killBoxes() error {
	if len(d.boxes) == 0 {
		return nil
	}
	_, err := d.output(append([]string{"sandbox", "kill"}, d.boxes...)...)
	d.boxes = nil
	return err
}

// table prints what was measured, each figure a whole command as typed.
func (d *demo) table() {
	fmt.Printf("\n== timings (whole commands as typed, starting the lehr program included)\n")
	fmt.Printf("   %-48s %3s %10s %10s\n", "what", "n", "median", "max")
	for _, t := range d.timings {
		slices.Sort(t.samples)
		fmt.Printf("   %-48s %3d %10s %10s\n", t.what, len(t.samples), round(t.samples[len(t.samples)/2]), round(t.samples[len(t.samples)-1]))
	}
	fmt.Print(`
   What to try next:
     bin/lehr up                                     # on a folder that stays
     bin/lehr build -t web -f examples/web/Recipe
     bin/lehr run web -- python3 get.py
     bin/lehr --help                                 # and docs/recipes.md
`)
}

func round(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

func want(text, out string) error {
	if strings.Contains(out, text) {
		return nil
	}
	return fmt.Errorf("%q is not in the output", text)
}
