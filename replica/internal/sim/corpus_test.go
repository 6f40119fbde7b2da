// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCorpus plays the scripts that once found a bug. Each says what it was.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/*.sim")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			s, err := ParseScript(string(text))
			require.NoError(t, err)
			again, err := ParseScript(s.String())
			require.NoError(t, err)
			require.Equal(t, s.String(), again.String())
			if r, err := Play(s, true); err != nil {
				t.Fatalf("%v\n%s", err, r.Trace())
			}
		})
	}
}

// TestShrink: a script that fails becomes a short one that fails in the same way.
func TestShrink(t *testing.T) {
	s := Plan(2)
	s.Actions = append(s.Actions, Action{Name: "no-such-action"})
	_, before := Play(s, false)
	require.Error(t, before)
	short := Shrink(s)
	require.Len(t, short.Actions, 1)
	_, after := Play(short, false)
	require.Equal(t, FailureKind(before), FailureKind(after))
}

// TestReplay: a seed decides everything.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 4; seed++ {
		a, err := Play(Plan(seed), true)
		require.NoError(t, err)
		b, err := Play(Plan(seed), true)
		require.NoError(t, err)
		require.Equal(t, a.Trace(), b.Trace(), "seed %d", seed)
	}
}
