package sqlstore

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// partial statements are parts of others.
var partial = []string{
	"sqlBuildSelect", "sqlBuildColumns", "sqlTeamColumns", "sqlTeamLimitColumns", "pageTemplatesTail", "sqlTaggedColumns", "sqlTaggedSelect", "sqlVersionColumns", "sqlVersionFree",
	"sqlSandboxColumns", "sqlSandboxSelect", "sqlKeyColumns", "sqlHostColumns", "sqlLogInsertHead",
}

// TestTextsIsComplete compares texts() with the constants and pages of the
// package: what is not listed cannot run.
func TestTextsIsComplete(t *testing.T) {
	t.Parallel()
	listed := identifiers(t, "texts.go")
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, constant := range declarations(t, name) {
			declared++
			if !listed[constant] && !slices.Contains(partial, constant) {
				t.Errorf("%s: %s is missing in texts()", name, constant)
			}
		}
	}
	if declared < 50 {
		t.Errorf("found %d statements, want the package's", declared)
	}
}

func identifiers(t *testing.T, file string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	ast.Inspect(parse(t, file), func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			names[id.Name] = true
		}
		return true
	})
	return names
}

func declarations(t *testing.T, file string) []string {
	t.Helper()
	var names []string
	for _, declaration := range parse(t, file).Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			value, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for _, name := range value.Names {
				if strings.HasPrefix(name.Name, "sql") || strings.HasPrefix(name.Name, "page") {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestTextsAreUnique(t *testing.T) {
	t.Parallel()
	all := texts()
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); n != len(all) {
		t.Errorf("texts() has %d statements, %d of them distinct", len(all), n)
	}
	for _, text := range all {
		if strings.Contains(text, "?") {
			t.Errorf("a parameter is not numbered: %s", text)
		}
	}
}

func TestPageBuild(t *testing.T) {
	t.Parallel()
	p := page{head: "SELECT x FROM y WHERE TRUE", filters: []string{"a = ?", "b IS NULL", "c < ?"}, tail: "LIMIT ?"}
	for _, test := range []struct {
		filters []filter
		text    string
		args    []any
	}{
		{[]filter{given(""), {}, given("")}, "SELECT x FROM y WHERE TRUE LIMIT $1", []any{5}},
		{[]filter{given("A"), {on: true}, given("C")}, "SELECT x FROM y WHERE TRUE AND a = $1 AND b IS NULL AND c < $2 LIMIT $3", []any{"A", "C", 5}},
		{[]filter{given(""), {on: true}, given("C")}, "SELECT x FROM y WHERE TRUE AND b IS NULL AND c < $1 LIMIT $2", []any{"C", 5}},
	} {
		text, args := p.build(5, test.filters...)
		if text != test.text || !reflect.DeepEqual(args, test.args) {
			t.Errorf("build() = %q %v, want %q %v", text, args, test.text, test.args)
		}
		if !slices.Contains(p.variants(), text) {
			t.Errorf("%q is none of the variants", text)
		}
	}
}

// TestMovesAreCovered ties the statements, which name states, to the tables.
func TestMovesAreCovered(t *testing.T) {
	t.Parallel()
	for _, move := range []struct{ from, to lehr.BuildStatus }{
		{lehr.BuildPending, lehr.BuildRunning},   // sqlQueueClaim
		{lehr.BuildPending, lehr.BuildCancelled}, // sqlBuildCancel
		{lehr.BuildRunning, lehr.BuildCancelled},
		{lehr.BuildRunning, lehr.BuildSuccess}, // sqlQueueFinish
		{lehr.BuildRunning, lehr.BuildFailed},
		{lehr.BuildRunning, lehr.BuildPending}, // sqlQueueGiveBack
		{lehr.BuildPending, lehr.BuildFailed},  // sqlQueueUnplaced
	} {
		if !move.from.CanMove(move.to) {
			t.Errorf("the store moves builds from %s to %s, the table does not", move.from, move.to)
		}
	}
	moves := 0
	for _, targets := range lehr.BuildMoves {
		moves += len(targets)
	}
	if moves != 7 {
		t.Errorf("the table has %d moves, the store 7", moves)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	driverError := errors.New("driver: secret details")
	for trouble, want := range map[Trouble]errs.Kind{
		TroubleUnknown: errs.Internal, TroubleUnique: errs.Exists, TroubleReference: errs.NotFound,
		TroubleValue: errs.Invalid, TroubleUnavailable: errs.Unavailable,
	} {
		s := New(nil, Dialect{Classify: func(error) Trouble { return trouble }})
		err := s.explain(t.Context(), "store.Op", driverError)
		var known *errs.Error
		if !errors.As(err, &known) || known.Kind != want || known.Op != "store.Op" || !errors.Is(err, driverError) {
			t.Errorf("explain(trouble %d) = %#v, want kind %s", trouble, err, want)
			continue
		}
		if strings.Contains(known.Message, "secret") {
			t.Errorf("the message %q shows the driver's words", known.Message)
		}
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"short", "short"},
		{"a" + strings.Repeat("ä", lehr.StepTailBytes/2), strings.Repeat("ä", lehr.StepTailBytes/2)},
		{strings.Repeat("ä", lehr.StepTailBytes/2) + "z", strings.Repeat("ä", lehr.StepTailBytes/2-1) + "z"},
	} {
		if got := tail(test.in); got != test.want {
			t.Errorf("tail(%d bytes) has %d bytes, want %d", len(test.in), len(got), len(test.want))
		}
	}
}
