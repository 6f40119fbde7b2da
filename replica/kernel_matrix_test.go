// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernelDirection says who acts: whose data travels, who is Primary, who crashes.
type kernelDirection int

const (
	bothAct kernelDirection = iota
	nodeActs
	kernelActs
)

// kernelSide returns the direction of "node" or "kernel", or of a name that begins so.
func kernelSide(name string) kernelDirection {
	if strings.HasPrefix(name, "kernel") {
		return kernelActs
	}
	return nodeActs
}

// kernelMatrix collects the results of scenarios by direction.
type kernelMatrix struct {
	mu      sync.Mutex
	version string
	cells   map[string]*[3]kernelCell
}

// kernelCell counts the parts of a scenario in one direction.
type kernelCell struct{ passed, failed int }

func (c kernelCell) String() string {
	switch {
	case c.failed > 0:
		return "FAIL"
	case c.passed > 0:
		return "pass"
	}
	return "-"
}

func newKernelMatrix() *kernelMatrix { return &kernelMatrix{cells: map[string]*[3]kernelCell{}} }

func (m *kernelMatrix) row(name string) *[3]kernelCell {
	if m.cells[name] == nil {
		m.cells[name] = &[3]kernelCell{}
	}
	return m.cells[name]
}

// part runs a part of a scenario that has a direction.
func (lab *kernelLab) part(t *testing.T, dir kernelDirection, name string, run func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Cleanup(func() {
			lab.matrix.mu.Lock()
			defer lab.matrix.mu.Unlock()
			if c := &lab.matrix.row(lab.row)[dir]; t.Failed() {
				c.failed++
			} else if !t.Skipped() {
				c.passed++
			}
		})
		run(t)
	})
}

// scenario notes the end of a scenario. One without parts went in both directions.
func (m *kernelMatrix) scenario(t *testing.T, lab *kernelLab) {
	if m.kernel() == "" {
		out, err := lab.guest.Run(labContext(t), "uname -r; cat /proc/drbd")
		if err == nil {
			fields := strings.Fields(out)
			m.mu.Lock()
			m.version = fmt.Sprintf("Linux %s, DRBD %s %s", fields[0], fields[2], strings.Trim(fields[3], "()"))
			m.mu.Unlock()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.row(lab.row)
	if *row != ([3]kernelCell{}) {
		return
	}
	for _, dir := range []kernelDirection{nodeActs, kernelActs} {
		switch {
		case lab.only != bothAct && lab.only != dir:
		case t.Failed():
			row[dir].failed++
		default:
			row[dir].passed++
		}
	}
}

func (m *kernelMatrix) kernel() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version
}

// finish prints the matrix, and writes the page if that was asked for.
func (m *kernelMatrix) finish(t *testing.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s %-16s %s\n", "scenario", "node to kernel", "kernel to node")
	for _, s := range slices.Concat(kernelScenarios, kernelPlays(t)) {
		if c := m.cells[s.name]; c != nil {
			fmt.Fprintf(&b, "%-22s %-16v %v\n", s.name, c[nodeActs], c[kernelActs])
		}
	}
	t.Logf("%s\n%s", m.version, &b)
	if !*kernelPage {
		return
	}
	old, err := os.ReadFile(kernelPagePath)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(kernelPagePath, []byte(m.page(string(old), kernelScripts(t))), 0o644))
}

var kernelPagePath = filepath.Join("..", "docs", "interop.md")

const kernelPageHead = `# What works with the Linux kernel

Written by ` + "`go test ./replica -run 'TestKernel$' -kernel.page`" + `, which runs each scenario against %s.

The columns say who acts: whose data travels, who is Primary, who crashes or leaves. A dash stands for what makes no sense in
that direction. What it takes to run this, and what to know of a kernel as the peer, is in [kernel-peer](kernel-peer.md).

| Scenario | What happens | Node to kernel | Kernel to node |
|---|---|---|---|
`

const kernelPagePlays = `
## Scenarios of two nodes

The scenarios of ` + "`replica/testdata/scenarios`" + `, which every test run plays with two nodes P and S, are played here with a
kernel as one of them. Where it cannot be that one, the cell names the scenario above that has its part, or says why.

| Scenario | What happens | The kernel is S | The kernel is P |
|---|---|---|---|
`

// page keeps the results of scenarios that did not run this time.
func (m *kernelMatrix) page(old string, scripts []*script) string {
	var b strings.Builder
	fmt.Fprintf(&b, kernelPageHead, m.version)
	results := func(name, row string) (node, kernel string) {
		if c := m.cells[name]; c != nil {
			return c[nodeActs].String(), c[kernelActs].String()
		}
		_, rest, _ := strings.Cut(old, row)
		line, _, _ := strings.Cut(rest, "\n")
		node, kernel, _ = strings.Cut(strings.TrimSuffix(line, "|"), "|")
		return strings.TrimSpace(node), strings.TrimSpace(kernel)
	}
	for _, s := range kernelScenarios {
		node, kernel := results(s.name, s.pageRow())
		fmt.Fprintf(&b, "%s %s | %s |\n", s.pageRow(), node, kernel)
	}
	b.WriteString(kernelPagePlays)
	for _, sc := range scripts {
		node, kernel := results(sc.name, sc.pageRow())
		if !slices.Contains(sc.kernel, "S") {
			node = sc.why
		}
		if !slices.Contains(sc.kernel, "P") {
			kernel = sc.why
		}
		fmt.Fprintf(&b, "%s %s | %s |\n", sc.pageRow(), node, kernel)
	}
	return b.String()
}

// pageRow is what the page says of a scenario before the results.
func (s *kernelScenario) pageRow() string { return fmt.Sprintf("| %s | %s |", s.name, s.about) }
func (s *script) pageRow() string         { return fmt.Sprintf("| %s | %s |", s.name, s.title) }

// TestKernelPage holds the page to the list of scenarios: written by a run in which
// everything passed.
func TestKernelPage(t *testing.T) {
	const again = "write the page anew: go test ./replica -run 'TestKernel$' -kernel.page"
	page, err := os.ReadFile(kernelPagePath)
	require.NoError(t, err)
	rows := 0
	for line := range strings.Lines(string(page)) {
		require.NotContains(t, line, "FAIL")
		if strings.HasPrefix(line, "| ") {
			rows++
			require.Equal(t, 5, strings.Count(line, "|"), "%s: %s", again, line)
		}
	}
	scripts := kernelScripts(t)
	require.Equal(t, len(kernelScenarios)+1+len(scripts)+1, rows, again)
	for _, s := range kernelScenarios {
		require.Contains(t, string(page), s.pageRow(), again)
	}
	for _, s := range scripts {
		require.Contains(t, string(page), s.pageRow(), again)
	}
	require.Regexp(t, `Linux \d+\.\S+, DRBD 8\.4\.\d+ `, string(page))
}
