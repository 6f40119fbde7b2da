// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "play only this seed, and print its trace")
	seedsFlag = flag.Int("seeds", 0, "number of random runs")
)

func randomOptions(seed uint64) Options {
	o := testOptions()
	o.DiskBytes = 1 << 20
	o.Trace = false
	o.Volume.ALExtents = 67
	o.Volumes = 1
	if seed%4 == 3 {
		o.Volumes = 2
	}
	if seed%5 == 4 {
		o.Net.Protocol = protocol.ReplicationProtocol(1 + seed/5%2)
	}
	if o.Net.Protocol == protocol.ProtocolA && seed%4 != 0 {
		o.Net.OnCongestion, o.Net.CongestionFill = core.CongestionPullAhead, 8<<(seed%4)
		o.Volume.ResyncRate = 1024 // meets the next burst
	}
	if seed%7 == 6 {
		o.Net.MaxVersion = protocol.Version(91 + seed/7%11) // older ones cannot sort out a lost sync UUID
		o.Volumes = 1                                       // several need version 100
		// Below 100 the peer acknowledges by the protocol, and A and B promise
		// nothing while its disk is the only one.
		o.Net.Protocol = protocol.ProtocolC
	}
	return o
}

// TestRandom plays random kills, cuts and reconnects under random writes: at the end
// the disks are equal and hold every acknowledged write.
func TestRandom(t *testing.T) {
	if *seedFlag != 0 {
		o := randomOptions(*seedFlag)
		o.Trace = true
		r := NewRandom(*seedFlag, o)
		err := r.Play(120)
		t.Logf("%s", r.Trace())
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	n := *seedsFlag
	if n == 0 {
		n = 1000
		if testing.Short() || raceEnabled {
			n = 100
		}
	}
	faults := map[string]int{}
	writes, reads := 0, 0
	for seed := uint64(1); seed <= uint64(n); seed++ {
		r := NewRandom(seed, randomOptions(seed))
		if err := r.Play(120); err != nil {
			t.Fatalf("%v\nreplay: go test ./replica/internal/sim -run TestRandom -seed %d", err, seed)
		}
		for k, v := range r.Faults {
			faults[k] += v
		}
		writes += r.Writes
		reads += r.Reads
	}
	require.Greater(t, writes, 10*n, "the runs must write")
	require.Greater(t, reads, n)
	t.Logf("%d runs, %d writes, %d reads, faults %v", n, writes, reads, faults)
}
