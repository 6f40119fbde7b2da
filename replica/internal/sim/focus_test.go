// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFocus plays scripts of each focus.
func TestFocus(t *testing.T) {
	n := uint64(*seedsFlag)
	if n == 0 {
		n = 6
		if testing.Short() || raceEnabled {
			n = 2
		}
	}
	for _, name := range Foci() {
		t.Run(name, func(t *testing.T) {
			var all Figures
			seeds := n
			if name == "log" && *seedsFlag == 0 {
				seeds = 1 + n/4 // its disks are large
			}
			for seed := uint64(1); seed <= seeds; seed++ {
				s, ok := PlanFocus(name, seed)
				require.True(t, ok)
				r, err := Play(s, false)
				if err != nil {
					t.Fatal(Report(s, err))
				}
				all.Add(r.Figures)
			}
			require.Greater(t, all.Writes, int(seeds))
			t.Logf("%v", all)
		})
	}
	_, ok := PlanFocus("nothing", 1)
	require.False(t, ok)
}
