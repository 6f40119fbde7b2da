// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
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
		"resource-and-stonith": func(s *Script) { fenceOtherWay(s, core.FencingResourceAndStonith) },
		"resource-only":        func(s *Script) { fenceOtherWay(s, core.FencingResourceOnly) },
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

// fenceOtherWay fences by a second way to the other node, which works whenever that is
// up: what is out of order is found out by asking it.
func fenceOtherWay(s *Script, f core.Fencing) {
	if s.Options.Net.Protocol == protocol.ProtocolA {
		s.Options.Net.Protocol = protocol.ProtocolC
	}
	s.Options.Volume.Fencing = f
	s.Options.Core = func(_ int, cfg *core.Config) { cfg.Fencer = true }
	s.Options.Call = func(n *Node, _ *core.Call) (func() int, time.Duration) {
		other := n.c.Nodes[1-n.idx]
		if other.core == nil {
			return func() int { return core.FencePeerUnreachable }, 10 * time.Millisecond
		}
		for v := range other.disks {
			other.Command(func(cmd *core.Command) { other.core.Outdate(cmd, v) }, func(error) {})
		}
		return func() int { return became(other) }, 500 * time.Millisecond
	}
}

// became is the exit code that tells what a node is now.
func became(n *Node) int {
	if n.core == nil {
		return core.FencePeerUnreachable
	}
	code := core.FencePeerOutdated
	for v := range n.disks {
		st, _ := n.State(v)
		switch {
		case st.Role == protocol.Primary:
			return core.FencePeerPrimary
		case st.Disk > protocol.Outdated || st.Conn >= protocol.Connected:
			return 1 // it has not noticed the loss yet
		}
	}
	return code
}
