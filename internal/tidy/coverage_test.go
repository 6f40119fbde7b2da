// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	testFunc  = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
	scripted  = regexp.MustCompile(`^(s\d\d|trap\d\d)-`)
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	rowKernel = regexp.MustCompile(`\| ([A-Za-z0-9,' -]*) \|$`)
	matrixRow = regexp.MustCompile(`(?m)^\| ([A-Z][A-Za-z]+|[a-z][a-z0-9]*-[A-Za-z0-9-]+) \|.*\| pass`)
)

// TestCoverageTable holds docs/behaviour.md to the house: each file, test and scenario
// that it names exists.
func TestCoverageTable(t *testing.T) {
	tests, scenarios := map[string]bool{}, map[string]bool{}
	for _, f := range tracked(t) {
		switch {
		case strings.HasSuffix(f, "_test.go"):
			for _, m := range testFunc.FindAllStringSubmatch(string(read(t, f)), -1) {
				tests[m[1]] = true
			}
		case strings.HasPrefix(f, "replica/testdata/scenarios/"):
			scenarios[strings.TrimSuffix(filepath.Base(f), ".txt")] = true
		}
	}
	kernel := map[string]bool{}
	for _, m := range matrixRow.FindAllStringSubmatch(string(read(t, "docs/interop.md")), -1) {
		kernel[m[1]] = true
	}
	rows, mentioned := 0, map[string]bool{}
	for _, row := range strings.Split(string(read(t, "docs/behaviour.md")), "\n") {
		if !strings.HasPrefix(row, "| ") {
			continue
		}
		rows++
		for _, m := range codeSpan.FindAllStringSubmatch(row, -1) {
			name := m[1]
			mentioned[name] = true
			switch {
			case strings.HasPrefix(name, "Test"):
				if !tests[name] {
					t.Errorf("there is no test %s: %s", name, row)
				}
			case strings.Contains(name, ".go") || strings.Contains(name, "/"):
				if !strings.Contains(name, "/") {
					name = "replica/internal/core/" + name
				}
				if _, err := os.Stat(filepath.Join(root, name)); err != nil {
					t.Errorf("there is no file %s: %s", name, row)
				}
			case strings.Contains(name, "-") && (scripted.MatchString(name) || scenarios[name]):
				if !scenarios[name] {
					t.Errorf("there is no scenario %s: %s", name, row)
				}
			}
		}
		if strings.Count(row, " | ") < 3 {
			continue
		}
		if m := rowKernel.FindStringSubmatch(row); m != nil && !strings.HasPrefix(row, "| Rules") && !strings.HasPrefix(row, "| Option") {
			for _, name := range strings.Split(m[1], ", ") {
				if name != "" && name != "every scenario" && name != "not DRBD's" && !kernel[name] {
					t.Errorf("docs/interop.md has no %q: %s", name, row)
				}
			}
		}
	}
	require.Greater(t, rows, 50)
	for name := range scenarios {
		if strings.HasPrefix(name, "trap") {
			require.True(t, mentioned[name], "docs/behaviour.md does not mention %s", name)
		}
	}
}
