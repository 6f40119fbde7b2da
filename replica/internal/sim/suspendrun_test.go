// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRandomSuspended plays the random scripts with suspension, fencing or an arbiter.
func TestRandomSuspended(t *testing.T) {
	n := uint64(*seedsFlag)
	if n == 0 {
		n = 60
		if testing.Short() || raceEnabled {
			n = 12
		}
	}
	for _, name := range Families() {
		t.Run(name, func(t *testing.T) {
			var all Figures
			for seed := uint64(1); seed <= n; seed++ {
				if *seedFlag != 0 && seed != *seedFlag {
					continue
				}
				s := Plan(seed)
				if s.Options.Reckless {
					continue
				}
				s.Options.Family = name
				r, err := Play(s, *seedFlag != 0)
				if err != nil {
					t.Logf("%s", r.Trace())
					t.Fatalf("seed %d: %v", seed, err)
				}
				all.Add(r.Figures)
			}
			require.NotZero(t, all.Writes)
			t.Logf("%v", all)
		})
	}
}
