package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const guaranteesPage = "docs/guarantees.md"

// A promise without a test is not made: every row of the page names tests that
// are there.
func TestGuarantees(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, guaranteesPage))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := parseTests(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	promises, faults := readPromises(string(page))
	faults = append(faults, tests.missing(promises)...)
	for _, f := range faults {
		t.Errorf("%s: %s", guaranteesPage, f)
	}
	named := map[string]bool{}
	for _, p := range promises {
		for _, name := range p.tests {
			named[name] = true
		}
	}
	t.Logf("%d promises name %d tests", len(promises), len(named))
	if len(promises) < 50 {
		t.Errorf("%s has %d promises, want at least 50: the table is not read as it is written", guaranteesPage, len(promises))
	}
}

// The checker bites: each fault of a page is reported.
func TestGuaranteesReports(t *testing.T) {
	tests, err := parseTests(tree(map[string]string{
		"internal/x/x_test.go": `package x
import ("testing"; "` + module + `internal/xtest")
func TestGood(t *testing.T) { t.Run("inner", nil); xtest.Exercise(t) }
func (s suite) TestMethod(t *testing.T) {}
func TestNoTest() {}
func FuzzGood(f *testing.F) {}
func Testify(t *testing.T) {}
`,
		"internal/x/x.go":         "package x\n\nfunc TestInProgram(t *testing.T) { _ = \"program\" }\n",
		"internal/xtest/xtest.go": "package xtest\n\nfunc Exercise() { _ = \"from the suite\" }\n",
		"internal/y/y_test.go":    "package y\nimport \"testing\"\nfunc TestOther(t *testing.T) { t.Run(\"elsewhere\", nil) }\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct{ row, want string }{
		{"| good | always | `internal/x.TestGood`, `internal/x.FuzzGood` |", ""},
		{"| subtests | always | `internal/x.TestGood/inner`, `internal/x.TestGood/from the suite` |", ""},
		{"| gone | always | `internal/x.TestGone` |", "internal/x.TestGone does not exist"},
		{"| package | always | `internal/z.TestGood` |", "internal/z.TestGood does not exist"},
		{"| other package's | always | `internal/y.TestGood` |", "internal/y.TestGood does not exist"},
		{"| a method | always | `internal/x.TestMethod` |", "internal/x.TestMethod does not exist"},
		{"| no test | always | `internal/x.TestNoTest` |", "internal/x.TestNoTest does not exist"},
		{"| not run | always | `internal/x.Testify` |", "internal/x.Testify does not exist"},
		{"| program | always | `internal/x.TestInProgram` |", "internal/x.TestInProgram does not exist"},
		{"| subtest | always | `internal/x.TestGood/none` |", `internal/x.TestGood/none: no subtest "none"`},
		{"| deeper | always | `internal/x.TestGood/inner/none` |", `internal/x.TestGood/inner/none: no subtest "none"`},
		{"| elsewhere | always | `internal/x.TestGood/elsewhere` |", `internal/x.TestGood/elsewhere: no subtest "elsewhere"`},
		{"| nothing shown | always | a careful look |", `"nothing shown" names no test`},
		{"| half | always | `internal/x.TestGood` and `TestGood` |", "`TestGood` is not package.Test"},
		{"| no bound |  | `internal/x.TestGood` |", `"no bound" has no bound`},
		{"| two | `internal/x.TestGood` |", "want promise, bound and tests"},
	}
	for _, r := range rows {
		promises, faults := readPromises("# Page\n\n## Group\n| promise | bound | tests |\n| --- | --- | --- |\n" + r.row + "\n")
		got := strings.Join(append(faults, tests.missing(promises)...), "\n")
		if (r.want == "") != (got == "") || !strings.Contains(got, r.want) {
			t.Errorf("row %s\nreports %q, want %q", r.row, got, r.want)
		}
	}
	if _, faults := readPromises("# Page\n\nNo table here.\n"); len(faults) != 1 {
		t.Errorf("a page without promises reports %q, want one fault", faults)
	}
}

// promise is a row of the page.
type promise struct {
	text  string
	tests []string // package.Test or package.Test/subtest/…, package below the module
}

var (
	codeSpan = regexp.MustCompile("`[^`]*`")
	testName = regexp.MustCompile(`^([a-z0-9/_-]+)\.((?:Test|Fuzz)[A-Za-z0-9_]*)((?:/[^/]+)*)$`)
)

// readPromises reads the rows of every table whose heading is "promise".
func readPromises(page string) (promises []promise, faults []string) {
	inTable := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inTable = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case cells[0] == "promise":
			inTable = true
		case !inTable || strings.HasPrefix(cells[0], "---"):
		case len(cells) != 3:
			faults = append(faults, fmt.Sprintf("%q has %d cells, want promise, bound and tests", cells[0], len(cells)))
		default:
			p, found := readRow(cells)
			promises, faults = append(promises, p), append(faults, found...)
		}
	}
	if len(promises)+len(faults) == 0 {
		faults = append(faults, "there is no promise on the page")
	}
	return promises, faults
}

func readRow(cells []string) (p promise, faults []string) {
	p.text = cells[0]
	if cells[1] == "" {
		faults = append(faults, fmt.Sprintf("%q has no bound", p.text))
	}
	for _, span := range codeSpan.FindAllString(cells[2], -1) {
		name := strings.Trim(span, "`")
		if !testName.MatchString(name) {
			faults = append(faults, span+" is not package.Test or package.Test/subtest")
			continue
		}
		p.tests = append(p.tests, name)
	}
	if len(p.tests) == 0 {
		faults = append(faults, fmt.Sprintf("%q names no test", p.text))
	}
	return p, faults
}

// testTree is what the test files of a module define.
type testTree struct {
	tests    map[string]bool            // package.Test
	literals map[string]map[string]bool // strings of a package's test files, or of a suite
	suites   map[string][]string        // suites that a package's tests import
}

// parseTests reads every test file below root, and the suites: packages of this
// module whose name ends in test.
func parseTests(root fs.FS) (*testTree, error) {
	tests := &testTree{tests: map[string]bool{}, literals: map[string]map[string]bool{}, suites: map[string][]string{}}
	err := fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "bin", "api/gen"}, file) {
				return fs.SkipDir
			}
			return nil
		}
		isTest := strings.HasSuffix(file, "_test.go")
		if !isTest && (path.Ext(file) != ".go" || !isSuite(path.Dir(file))) {
			return nil
		}
		src, err := fs.ReadFile(root, file)
		if err != nil {
			return err
		}
		return tests.add(file, src, isTest)
	})
	return tests, err
}

func isSuite(pkg string) bool {
	return strings.HasPrefix(pkg, "internal/") && strings.HasSuffix(path.Base(pkg), "test") && path.Base(pkg) != "archtest"
}

func (tt *testTree) add(file string, src []byte, isTest bool) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	pkg := path.Dir(file)
	for _, imp := range parsed.Imports {
		if in, ok := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module); ok && isSuite(in) {
			tt.suites[pkg] = append(tt.suites[pkg], in)
		}
	}
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && isTest && isTestFunc(f) {
			tt.tests[pkg+"."+f.Name.Name] = true
		}
	}
	if tt.literals[pkg] == nil {
		tt.literals[pkg] = map[string]bool{}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				tt.literals[pkg][text] = true
			}
		}
		return true
	})
	return nil
}

// isTestFunc reports whether go test runs f.
func isTestFunc(f *ast.FuncDecl) bool {
	for _, kind := range []struct{ prefix, param string }{{"Test", "T"}, {"Fuzz", "F"}} {
		rest, ok := strings.CutPrefix(f.Name.Name, kind.prefix)
		if !ok || f.Recv != nil || len(f.Type.Params.List) != 1 || rest != "" && rest[0] >= 'a' && rest[0] <= 'z' {
			continue
		}
		star, ok := f.Type.Params.List[0].Type.(*ast.StarExpr)
		if !ok {
			continue
		}
		sel, ok := star.X.(*ast.SelectorExpr)
		if ok && sel.Sel.Name == kind.param {
			return true
		}
	}
	return false
}

// missing names the tests that promises rely on and that are not there.
func (tt *testTree) missing(promises []promise) (faults []string) {
	for _, p := range promises {
		for _, name := range p.tests {
			m := testName.FindStringSubmatch(name)
			pkg, test := m[1], m[1]+"."+m[2]
			if !tt.tests[test] {
				faults = append(faults, test+" does not exist")
				continue
			}
			for _, sub := range strings.Split(m[3], "/")[1:] {
				if !tt.hasLiteral(pkg, sub) {
					faults = append(faults, fmt.Sprintf("%s: no subtest %q", name, sub))
				}
			}
		}
	}
	return faults
}

// hasLiteral reports whether a package's tests, or a suite they run, say text.
func (tt *testTree) hasLiteral(pkg, text string) bool {
	return tt.literals[pkg][text] || slices.ContainsFunc(tt.suites[pkg], func(suite string) bool { return tt.literals[suite][text] })
}

// tree is a file system in memory.
func tree(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}
