package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// The hard budgets; the soft ones are for people.
const (
	maxFileLines        = 600
	maxFuncLines        = 80
	maxParams           = 5
	maxInterfaceMethods = 9
)

// badNames are package names that say nothing.
var badNames = map[string]bool{
	"util": true, "utils": true, "common": true, "helper": true, "helpers": true, "shared": true, "types": true, "manager": true, "pkg": true,
}

// Inspect checks one Go file against the budgets and the rule that exports are
// documented. It returns one sentence for each finding.
func Inspect(name string, src []byte) ([]string, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	in := &inspection{fset: fset, name: name, test: strings.HasSuffix(name, "_test.go")}
	if lines := strings.Count(string(src), "\n"); lines > maxFileLines {
		in.report("has %d lines, more than %d", lines, maxFileLines)
	}
	if badNames[f.Name.Name] {
		in.report("package name %s says nothing", f.Name.Name)
	}
	for _, d := range f.Decls {
		in.decl(d)
	}
	return in.found, nil
}

// HasPackageDoc reports whether a file of the package carries its comment.
func HasPackageDoc(src []byte) bool {
	f, err := parser.ParseFile(token.NewFileSet(), "", src, parser.ParseComments|parser.PackageClauseOnly)
	return err == nil && f.Doc != nil && len(strings.TrimSpace(f.Doc.Text())) > 0
}

type inspection struct {
	fset  *token.FileSet
	name  string
	test  bool
	found []string
}

func (in *inspection) report(format string, args ...any) {
	in.found = append(in.found, filepath.ToSlash(in.name)+": "+fmt.Sprintf(format, args...))
}

func (in *inspection) decl(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		in.function(d)
	case *ast.GenDecl:
		for _, s := range d.Specs {
			in.spec(d, s)
		}
	}
}

func (in *inspection) function(d *ast.FuncDecl) {
	lines := in.fset.Position(d.End()).Line - in.fset.Position(d.Pos()).Line + 1
	if lines > maxFuncLines {
		in.report("%s has %d lines, more than %d", d.Name.Name, lines, maxFuncLines)
	}
	if n := d.Type.Params.NumFields(); n > maxParams {
		in.report("%s has %d parameters, more than %d", d.Name.Name, n, maxParams)
	}
	if !in.test && d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
		in.report("%s has no comment", d.Name.Name)
	}
}

// exportedReceiver is true for functions, and for methods of exported types
// other than the well-known ones whose meaning an interface of the standard
// library gives.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if idx, ok := t.(*ast.IndexExpr); ok {
		t = idx.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

func (in *inspection) spec(d *ast.GenDecl, s ast.Spec) {
	switch s := s.(type) {
	case *ast.TypeSpec:
		if !in.test && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
			in.report("%s has no comment", s.Name.Name)
		}
		if it, ok := s.Type.(*ast.InterfaceType); ok && explicitMethods(it) > maxInterfaceMethods {
			in.report("%s has %d methods, more than %d", s.Name.Name, explicitMethods(it), maxInterfaceMethods)
		}
	case *ast.ValueSpec:
		if in.test || d.Doc != nil || s.Doc != nil || s.Comment != nil {
			return
		}
		for _, n := range s.Names {
			if n.IsExported() {
				in.report("%s has no comment", n.Name)
			}
		}
	}
}

func explicitMethods(it *ast.InterfaceType) int {
	n := 0
	for _, m := range it.Methods.List {
		if _, ok := m.Type.(*ast.FuncType); ok {
			n += len(m.Names)
		}
	}
	return n
}
