// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/go-blockmirror/blockmirror"

// mayImport is the order of the house: what each package of the product may import of
// it, in files that are not tests. Data flows downward, imports point downward.
var mayImport = map[string][]string{
	".":                       {},
	"bitmap":                  {},
	"activitylog":             {},
	"metadata":                {"activitylog", "bitmap"},
	"protocol":                {"activitylog", "bitmap", "metadata"},
	"transport":               {"protocol"},
	"transport/transporttest": {"protocol", "transport"},
	"replica/blockdev":        {},
	"replica/drbdconf":        {"metadata", "protocol", "replica", "transport"},
	"replica/internal/core":   {"activitylog", "bitmap", "metadata", "protocol"},
	"replica": {
		"activitylog", "bitmap", "metadata", "protocol", "transport", "replica/blockdev", "replica/internal/core",
	},
}

// isTestOnly reports whether a package is a house of tests: it may import anything of
// the product, and no package of the product imports it. A simulator of the core has to
// stand below replica, whose internal package the core is.
func isTestOnly(pkg string) bool {
	return strings.HasPrefix(pkg, "internal/") || pkg == "replica/internal/replay" ||
		pkg == "replica/internal/sim" || strings.HasPrefix(pkg, "replica/internal/sim/")
}

// pure are the packages that know bytes and rules only. They have no goroutine, no
// clock, no chance, no files and no network.
var pure = []string{"metadata", "bitmap", "activitylog", "protocol", "replica/internal/core"}

// What the SDK may require: the first list in the product, the second in tests, the
// third indirectly.
var (
	productModules = []string{"golang.org/x/sys", "github.com/klauspost/crc32", "github.com/cespare/xxhash/v2"}
	testModules    = []string{
		"github.com/stretchr/testify", "pgregory.net/rapid", "github.com/anishathalye/porcupine", "go.uber.org/goleak",
	}
	indirectModules = []string{"go.yaml.in/yaml/v3", "github.com/davecgh/go-spew", "github.com/pmezard/go-difflib", "gopkg.in/yaml.v3"}
)

type source struct {
	path string // relative to root
	pkg  string // its folder
	test bool
	file *ast.File
	fset *token.FileSet
}

func (s source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// sources parses all Go files of the SDK's module; the examples are a module of their own.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, f := range goFiles(t) {
		b := read(t, f)
		if b == nil || strings.HasPrefix(f, "examples/") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.FromSlash(f), b, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		all = append(all, source{
			path: f, pkg: path.Dir(f), test: strings.HasSuffix(f, "_test.go"), file: file, fset: fset,
		})
	}
	return all
}

func imports(s source) []string {
	var list []string
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			list = append(list, p)
		}
	}
	return list
}

func TestImportsPointDownward(t *testing.T) {
	for _, s := range sources(t) {
		testOnly := isTestOnly(s.pkg)
		allowed, known := mayImport[s.pkg]
		if !known && !testOnly {
			t.Errorf("%s: package %s has no place in the order of the house: give it one in mayImport", s.path, s.pkg)
		}
		for _, p := range imports(s) {
			rel, ours := strings.CutPrefix(p, module+"/")
			switch {
			case s.test || testOnly || !ours:
			case !slices.Contains(allowed, rel):
				t.Errorf("%s: %s must not import %s", s.path, s.pkg, rel)
			}
		}
	}
}

func TestProductImportsAllowedModulesOnly(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range imports(s) {
			first, _, _ := strings.Cut(p, "/")
			if !strings.Contains(first, ".") || p == module || strings.HasPrefix(p, module+"/") {
				continue // standard library, ourselves
			}
			ok := slices.ContainsFunc(productModules, under(p))
			if s.test || isTestOnly(s.pkg) || strings.HasSuffix(s.pkg, "test") {
				ok = ok || slices.ContainsFunc(testModules, under(p))
			}
			if !ok {
				t.Errorf("%s imports %s", s.path, p)
			}
		}
	}
}

func under(p string) func(string) bool {
	return func(m string) bool { return p == m || strings.HasPrefix(p, m+"/") }
}

func TestRequiredModules(t *testing.T) {
	line := regexp.MustCompile(`(?m)^(?:require)?\s+([a-z0-9.]+\.[a-z]+/\S+) v\S+`)
	allowed := slices.Concat(productModules, testModules, indirectModules)
	found := line.FindAllStringSubmatch(string(read(t, "go.mod")), -1)
	require.NotEmpty(t, found)
	for _, m := range found {
		require.Contains(t, allowed, m[1], "go.mod requires a module that was not agreed on")
	}
}

func TestPurePackages(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || !slices.Contains(pure, s.pkg) {
			continue
		}
		seen[s.pkg] = true
		for _, p := range imports(s) {
			first, _, _ := strings.Cut(p, "/")
			if first == "os" || first == "net" || p == "math/rand" || p == "math/rand/v2" || p == "crypto/rand" || p == "unsafe" || p == "log" {
				t.Errorf("%s: a pure package must not import %s", s.path, p)
			}
		}
		checkPureCode(t, s)
	}
	for _, p := range pure {
		if !seen[p] {
			t.Errorf("there is no package %s: correct the list", p)
		}
	}
}

// checkPureCode finds goroutines and looks at the clock. Durations are plain numbers.
func checkPureCode(t *testing.T, s source) {
	harmless := []string{
		"Duration", "Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour",
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s: a pure package starts no goroutine", s.at(n))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && !slices.Contains(harmless, n.Sel.Name) && importsTime(s) {
				t.Errorf("%s: a pure package has no clock: time.%s", s.at(n), n.Sel.Name)
			}
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				t.Errorf("%s: a pure package has no init", s.at(n))
			}
		}
		return true
	})
}

func importsTime(s source) bool { return slices.Contains(imports(s), "time") }

func TestFunctionLength(t *testing.T) {
	const limit, long = 120, 70
	for _, s := range sources(t) {
		for _, decl := range s.file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			switch n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; {
			case n > limit:
				t.Errorf("%s: %s has %d lines, %d is the limit", s.at(f), f.Name.Name, n, limit)
			case n > long:
				t.Logf("%s: %s has %d lines: the house aims at %d", s.at(f), f.Name.Name, n, long)
			}
		}
	}
}
