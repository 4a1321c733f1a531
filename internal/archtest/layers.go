// Package archtest keeps the structure of the module: the import table in
// LAYERS.txt, the size budgets, and documentation of everything exported. It is
// a test that reads the source tree; nothing imports it.
package archtest

import (
	"bufio"
	"fmt"
	"sort"
	"strings"
)

// Layers is the import table: package → the packages of the module it may
// import. Paths are relative to the module; under internal/ without that
// prefix on the right-hand side.
type Layers map[string]map[string]bool

// everyone lists what every package may import.
var everyone = []string{"clock", "failpoint"}

// ParseLayers reads the table: one "package : allowed allowed …" a line, #
// begins a comment, a trailing backslash continues the line.
func ParseLayers(text string) (Layers, error) {
	layers := Layers{}
	sc := bufio.NewScanner(strings.NewReader(text))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, allowed, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d: want \"package : imports\"", n)
		}
		if layers[name] != nil {
			return nil, fmt.Errorf("line %d: %s stands twice", n, name)
		}
		layers[name] = map[string]bool{}
		for _, a := range append(strings.Fields(allowed), everyone...) {
			layers[name][a] = true
		}
	}
	return layers, sc.Err()
}

// Breaches compares what packages import (module-relative path → module-relative
// imports) with the table and returns one sentence for each breach, sorted.
func (l Layers) Breaches(imports map[string][]string) []string {
	var found []string
	for pkg, deps := range imports {
		allowed, ok := l.rule(pkg)
		if !ok {
			found = append(found, fmt.Sprintf("%s has no line in LAYERS.txt", pkg))
			continue
		}
		for _, dep := range deps {
			if !permits(allowed, dep) {
				found = append(found, fmt.Sprintf("%s may not import %s", pkg, dep))
			}
		}
	}
	sort.Strings(found)
	return found
}

// rule finds the line for pkg: its own, or that of "parent/...".
func (l Layers) rule(pkg string) (map[string]bool, bool) {
	if r, ok := l[pkg]; ok {
		return r, true
	}
	for i := len(pkg); i > 0; i = strings.LastIndexByte(pkg[:i], '/') {
		if r, ok := l[pkg[:i]+"/..."]; ok {
			return r, true
		}
	}
	return nil, false
}

// permits reports whether dep is in allowed, by its short name (without
// internal/) or under an allowed "prefix/...".
func permits(allowed map[string]bool, dep string) bool {
	short := strings.TrimPrefix(dep, "internal/")
	if allowed[short] || allowed["*"] {
		return true
	}
	for a := range allowed {
		if prefix, ok := strings.CutSuffix(a, "/..."); ok && (short == prefix || strings.HasPrefix(short, prefix+"/")) {
			return true
		}
	}
	return false
}
