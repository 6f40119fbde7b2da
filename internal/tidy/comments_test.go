// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"go/ast"
	"go/token"
	"testing"
)

func TestEveryPackageHasDocGo(t *testing.T) {
	hasDoc, packages := map[string]bool{}, map[string]source{}
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		packages[s.pkg] = s
		if s.path == s.pkg+"/doc.go" || s.path == "doc.go" {
			hasDoc[s.pkg] = s.file.Doc.Text() != ""
		}
	}
	for pkg := range packages {
		if !hasDoc[pkg] {
			t.Errorf("%s: no doc.go with a package comment", pkg)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc.Text() == "" && exportedReceiver(d) && !selfEvident(d) {
					t.Errorf("%s: %s has no doc comment", s.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				checkGenDecl(t, s, d)
			}
		}
	}
}

// selfEvident reports whether the method is one of the error interface.
func selfEvident(d *ast.FuncDecl) bool {
	return d.Recv != nil && (d.Name.Name == "Error" || d.Name.Name == "Unwrap")
}

// exportedReceiver reports whether users can see the method: true for functions.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// checkGenDecl wants a comment on each exported type, and on each exported constant
// or variable, or on the group they stand in.
func checkGenDecl(t *testing.T, s source, d *ast.GenDecl) {
	group := d.Doc.Text() != ""
	for _, spec := range d.Specs {
		switch x := spec.(type) {
		case *ast.TypeSpec:
			if x.Name.IsExported() && x.Doc.Text() == "" && !(group && d.Lparen == token.NoPos) {
				t.Errorf("%s: type %s has no doc comment", s.at(x), x.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range x.Names {
				if name.IsExported() && !group && x.Doc.Text() == "" && x.Comment.Text() == "" {
					t.Errorf("%s: %s has no doc comment, nor has its group", s.at(x), name.Name)
				}
			}
		}
	}
}
