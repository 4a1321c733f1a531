package archtest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed LAYERS.txt
var layersText string

const module = "github.com/lehr-dev/lehr/"

type listed struct {
	ImportPath string
	Name       string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,GoFiles,Imports", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestLayers(t *testing.T) {
	layers, err := ParseLayers(layersText)
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for _, p := range listPackages(t) {
		rel := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(rel, "api/gen/") || strings.HasPrefix(rel, "test/") {
			continue
		}
		imports[rel] = nil
		for _, dep := range p.Imports {
			if in, ok := strings.CutPrefix(dep, module); ok {
				imports[rel] = append(imports[rel], in)
			}
		}
	}
	for _, b := range layers.Breaches(imports) {
		t.Error(b)
	}
}

// The checker bites: an import that breaks the table is reported.
func TestLayersReportsABreach(t *testing.T) {
	layers, err := ParseLayers("internal/store : lehr errs\ninternal/build : store lehr # a comment\ninternal/guest/... : guest/...")
	if err != nil {
		t.Fatal(err)
	}
	got := layers.Breaches(map[string][]string{
		"internal/store":       {"internal/lehr", "internal/clock"},
		"internal/build":       {"internal/store", "internal/store/sqlstore"},
		"internal/guest/files": {"internal/guest/process", "internal/lehr"},
		"internal/newcomer":    nil,
	})
	want := []string{
		"internal/build may not import internal/store/sqlstore",
		"internal/guest/files may not import internal/lehr",
		"internal/newcomer has no line in LAYERS.txt",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("Breaches = %q, want %q", got, want)
	}
	for _, bad := range []string{"no colon here", " : x", "a : b\na : c"} {
		if _, err := ParseLayers(bad); err == nil {
			t.Errorf("ParseLayers(%q) succeeded", bad)
		}
	}
}

// closed lists what the programs that live next to hostile code may import
// from outside the standard library, by prefix.
var closed = map[string][]string{
	"./cmd/lehr-sentry": {"gvisor.dev/", "golang.org/x/sys/", module},
	"./cmd/lehr-init":   {"connectrpc.com/connect", "google.golang.org/protobuf/", "golang.org/x/sys/", module},
}

func TestClosedImportLists(t *testing.T) {
	for pkg, allowed := range closed {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{join .Imports \" \"}}{{end}}", pkg)
		cmd.Dir = filepath.Join("..", "..")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v", pkg, err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			importer, rest, _ := strings.Cut(line, " ")
			if !strings.HasPrefix(importer, module) {
				continue // what our dependencies import is theirs
			}
			for _, dep := range strings.Fields(rest) {
				if strings.Contains(strings.Split(dep, "/")[0], ".") && !hasPrefix(dep, allowed) {
					t.Errorf("%s: %s may not import %s", pkg, importer, dep)
				}
			}
		}
	}
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func TestBudgetsAndDocs(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (rel == ".git" || rel == ".cache" || rel == "bin" || rel == filepath.Join("api", "gen")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, err := Inspect(rel, src)
		for _, f := range found {
			t.Error(f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range listPackages(t) {
		if len(p.GoFiles) > 0 && !strings.Contains(p.ImportPath, "/api/gen/") && !packageDocumented(t, p) {
			t.Errorf("%s has no package comment", strings.TrimPrefix(p.ImportPath, module))
		}
	}
}

func packageDocumented(t *testing.T, p listed) bool {
	t.Helper()
	for _, f := range p.GoFiles {
		src, err := os.ReadFile(filepath.Join(p.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if HasPackageDoc(src) {
			return true
		}
	}
	return false
}

func TestInspectReports(t *testing.T) {
	src := `package util
type T struct{}
func (T) M() {}
func f(a, b, c, d, e, f int) {}
const C = 1
type I interface { A(); B(); C(); D(); E(); F(); G(); H(); I(); J() }
`
	got, err := Inspect("x.go", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"says nothing", "T has no comment", "M has no comment", "f has 6 parameters", "C has no comment", "I has 10 methods"} {
		if !strings.Contains(all, want) {
			t.Errorf("Inspect = %s\nwant %q in it", all, want)
		}
	}
	long := "package x\n\nfunc long() {\n" + strings.Repeat("\t_ = 0\n", 600) + "}\n"
	if got, _ := Inspect("y.go", []byte(long)); len(got) != 2 {
		t.Errorf("Inspect(long) = %q, want a long file and a long function", got)
	}
}
