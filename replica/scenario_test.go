// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestScenarios plays testdata/scenarios/*.txt with two nodes in virtual time.
func TestScenarios(t *testing.T) {
	paths, err := filepath.Glob("testdata/scenarios/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc, err := readScript(path, name)
			require.NoError(t, err)
			require.NotEmpty(t, sc.title, "the first line is a comment with the title")
			synctest.Test(t, func(t *testing.T) { play(t, sc) })
		})
	}
}

func play(t *testing.T, sc *script) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour) // virtual
	defer cancel()
	s := newStage(ctx)
	err := s.run(sc.lines)
	history := s.history()
	if closing := s.close(); err == nil {
		err = closing
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", sc.title, err, history)
	}
}

// history is what happened on both nodes in the end, for people.
func (s *stage) history() string {
	var b strings.Builder
	for _, name := range []string{"P", "S"} {
		n := s.nodes[name]
		if n.other != nil {
			b.WriteString(lastLines(n.other.history()))
			continue
		}
		var part strings.Builder
		n.mu.Lock()
		for _, ev := range n.events {
			fmt.Fprintf(&part, "%s %s %v\n", ev.Time.Format("05.000"), name, ev)
		}
		n.mu.Unlock()
		if n.res != nil {
			fmt.Fprintf(&part, "%s is\n%v", name, n.res.Status())
		}
		b.WriteString(lastLines(part.String()))
	}
	return b.String()
}

// lastLines are the end of a log, where the failure is: all of it buries the failure.
func lastLines(text string) string {
	const most = 60
	lines := strings.SplitAfter(text, "\n")
	if n := len(lines) - most; n > 0 {
		return fmt.Sprintf("(%d lines before)\n", n) + strings.Join(lines[n:], "")
	}
	return text
}
