// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var trace = flag.Bool("trace", false, "TestReplay shows everything that happens")

// recordings returns the names of all recordings.
func recordings(t testing.TB) []string {
	list, err := filepath.Glob(filepath.Join("testdata", "*.jsonl.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, list)
	return list
}

func load(t testing.TB, path string) Recording {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	rec, err := ReadRecording(bytes.NewReader(b))
	require.NoError(t, err)
	return rec
}

// TestReplay plays every recording.
func TestReplay(t *testing.T) {
	for _, path := range recordings(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".jsonl.gz"), func(t *testing.T) {
			opt := Options{}
			if *trace {
				opt.Trace = func(s string) { t.Log(s) }
			}
			require.NoError(t, Play(load(t, path), opt))
		})
	}
}
