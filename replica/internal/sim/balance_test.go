// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// TestReadBalancingReadsWhatWasWritten: with every policy and protocol a read sees the
// write that was acknowledged last, also when one of the disks fails.
func TestReadBalancingReadsWhatWasWritten(t *testing.T) {
	for policy := core.ReadLocal; policy <= core.ReadStriping1M; policy++ {
		for wire := protocol.ProtocolA; wire <= protocol.ProtocolC; wire++ {
			t.Run(fmt.Sprintf("%d/%v", policy, wire), func(t *testing.T) {
				opt := testOptions()
				opt.Net.Protocol, opt.Volume.ReadBalancing, opt.Trace = wire, policy, false
				s := skipped(t, opt)
				s.promote(s.a)
				for i := range 60 {
					off := int64(s.rng.IntN(3)) << 15
					s.write(s.a, off, byte(i+1), 4096)
					require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 4096), s.read(s.a, off, 4096), "%d", i)
				}
				s.until("nothing is under way", func() bool { return s.a.Snapshot().Peers[0].Epochs <= 1 })
				before := s.b.Snapshot().Volumes[0].Read
				for i := range int64(16) {
					s.read(s.a, i<<15, 4096)
				}
				fromPeer := s.b.Snapshot().Volumes[0].Read - before
				switch policy {
				case core.ReadLocal, core.ReadLeastPending, core.ReadCongestedRemote:
					require.Zero(t, fromPeer)
				case core.ReadRemote:
					require.EqualValues(t, 64, fromPeer)
				case core.ReadRoundRobin, core.ReadStriping32K:
					require.EqualValues(t, 32, fromPeer)
				}
				for _, n := range []*Node{s.b, s.a} {
					n.disks[0].FailReads = true
					last := s.read(s.a, 0, 4096)
					require.Equal(t, s.other(n).disks[0].Bytes()[:4096], last)
					n.disks[0].FailReads = false
					if s.st(n).Disk == protocol.Diskless {
						n.Attach(0, func(err error) { require.NoError(t, err) })
					}
					s.until("good again", func() bool { return s.bothUpToDate() && s.oos(s.a)+s.oos(s.b) == 0 })
				}
				s.never(lossStates...)
			})
		}
	}
}
