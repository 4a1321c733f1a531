package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programs are what a release consists of.
var programs = []string{"lehr", "lehr-init", "lehr-sentry"}

// standard is how the standard library is called in the list.
const standard = "Go standard library"

// module is what is linked of one module.
type module struct {
	path, version string
	programs      []string
	folders       map[string]bool // of the linked packages, up to the module's own
	files         []file
}

// listed is a package as go list describes it.
type listed struct {
	Dir      string
	Standard bool
	Module   *struct {
		Path, Version, Dir string
		Main               bool
		Replace            *struct{ Version, Dir string }
	}
}

// linked returns the modules of all programs, by path.
func linked(root string) ([]*module, error) {
	all := map[string]*module{}
	for _, program := range programs {
		pkgs, err := list(root, program)
		if err != nil {
			return nil, err
		}
		for _, p := range pkgs {
			add(all, p, program)
		}
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	all[standard] = &module{
		path: standard, programs: programs, folders: map[string]bool{strings.TrimSpace(string(goroot)): true},
	}
	modules := make([]*module, 0, len(all))
	for _, m := range all {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b *module) int { return strings.Compare(a.path, b.path) })
	return modules, nil
}

// list asks for everything a program is linked from, for the platform of the
// releases.
func list(root, program string) (pkgs []listed, err error) {
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Standard,Module", "./cmd/"+program)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w\n%s", program, err, stderr.String())
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		pkgs = append(pkgs, p)
	}
}

// add notes a linked package with its module.
func add(all map[string]*module, p listed, program string) {
	if p.Standard || p.Module == nil || p.Module.Main {
		return
	}
	version, root := p.Module.Version, p.Module.Dir
	if r := p.Module.Replace; r != nil {
		version, root = r.Version, r.Dir
	}
	m := all[p.Module.Path]
	if m == nil {
		m = &module{path: p.Module.Path, version: version, folders: map[string]bool{}}
		all[p.Module.Path] = m
	}
	if !slices.Contains(m.programs, program) {
		m.programs = append(m.programs, program)
	}
	for dir := p.Dir; ; dir = filepath.Dir(dir) {
		m.folders[dir] = true
		if dir == root || !strings.HasPrefix(dir, root) {
			return
		}
	}
}
