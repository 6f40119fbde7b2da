// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "play only this seed, and print its trace")
	seedsFlag = flag.Int("seeds", 0, "number of random runs")
	fromFlag  = flag.Uint64("from", 1, "the first seed of TestDual")
)

// TestRandom plays scripts that chance wrote, under all oracles.
func TestRandom(t *testing.T) {
	if *seedFlag != 0 {
		r, err := Play(Plan(*seedFlag), true)
		t.Logf("%s", r.Trace())
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	n := *seedsFlag
	if n == 0 {
		n = 100
		if testing.Short() || raceEnabled {
			n = 50
		}
	}
	var all Figures
	for seed := uint64(1); seed <= uint64(n); seed++ {
		s := Plan(seed)
		if s.Options.Reckless {
			continue
		}
		r, err := Play(s, false)
		if err != nil {
			t.Fatal(Report(s, err))
		}
		all.Add(r.Figures)
	}
	require.Greater(t, all.Writes, 10*n, "the runs must write")
	require.Greater(t, all.Reads, n/2)
	t.Logf("%v", all)
}
