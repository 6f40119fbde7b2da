// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockmirror_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadmeShowsTheExample: the Go code in the README is the body of Example, which
// is compiled and run.
func TestReadmeShowsTheExample(t *testing.T) {
	const file = "example_test.go"
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, source, parser.ParseComments)
	require.NoError(t, err)
	var body string
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == "Example" {
			body = string(source[fset.Position(f.Body.Lbrace).Offset+1 : fset.Position(f.Body.Rbrace).Offset])
		}
	}
	body, _, found := strings.Cut(body, "\t// Output:")
	require.True(t, found, "Example has no output, so it is not run")
	body = strings.TrimSpace(strings.ReplaceAll(body, "\n\t", "\n"))

	blocks := regexp.MustCompile("(?s)```go\n(.*?)\n```").FindAllStringSubmatch(read(t, "README.md"), -1)
	require.Len(t, blocks, 1, "the README has one block of Go code")
	require.Equal(t, body, blocks[0][1])
}

// TestIndexListsEveryPage: a page of docs that is in no index is not found.
func TestIndexListsEveryPage(t *testing.T) {
	index := read(t, "docs/README.md")
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" {
			require.Contains(t, index, "("+name+")", "docs/README.md has no line for %s", page)
		}
	}
	require.Greater(t, len(pages), 1)
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(b)
}
