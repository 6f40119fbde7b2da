// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
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
	for name, change := range map[string]func(s *Script){
		"no data": func(s *Script) {
			s.Options.Core = func(_ int, cfg *core.Config) { cfg.NoData = core.NoDataSuspendIO }
		},
		"no data, with a limit": func(s *Script) {
			s.Options.Core = func(_ int, cfg *core.Config) {
				cfg.NoData, cfg.SuspendLimit = core.NoDataSuspendIO, 3*time.Second
			}
		},
		"arbiter": func(s *Script) {
			a := &arbiter{owner: map[string]int{}, takes: 5 * time.Millisecond}
			s.Options.Core = func(_ int, cfg *core.Config) { cfg.Arbiter, cfg.NoData = true, core.NoDataSuspendIO }
			s.Options.Call = a.call
		},
	} {
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
				change(&s)
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
