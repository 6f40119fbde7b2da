// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two rows for one option are no error to the compiler, where keys are structs: the
// later row would win without a word.
func TestNoOptionHasTwoRows(t *testing.T) {
	rows := 0
	for _, file := range []string{"mapping.go", "options.go"} {
		fset := token.NewFileSet()
		f, err := goparser.ParseFile(fset, file, nil, goparser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			table, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			seen := map[string]token.Position{}
			for _, e := range table.Elts {
				row, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				key, ok := row.Key.(*ast.CompositeLit)
				if !ok || len(key.Elts) != 2 {
					continue
				}
				name := key.Elts[0].(*ast.BasicLit).Value + " " + key.Elts[1].(*ast.BasicLit).Value
				if first, ok := seen[name]; ok {
					t.Errorf("%v: a second row for %s, the first is at %v", fset.Position(key.Pos()), name, first)
				}
				seen[name] = fset.Position(key.Pos())
				rows++
			}
			return true
		})
	}
	require.GreaterOrEqual(t, rows, len(mappings)+len(notes)+len(legacy)+len(oldPlaces)+len(negations))
}
