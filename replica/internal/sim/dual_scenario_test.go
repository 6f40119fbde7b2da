// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// TestSwitchAtOnce: one node is promoted at the very moment at which the other one's
// demotion is done. Whatever arrives first, it is never refused.
func TestSwitchAtOnce(t *testing.T) {
	for seed := uint64(1); seed <= 200; seed++ {
		o := testOptions()
		o.DiskBytes = 1 << 20
		o.Volumes = 1 + int(seed%2)
		c := New(seed, o)
		for _, n := range c.Nodes {
			n.Boot()
		}
		c.Until("attached", time.Minute, func() bool {
			for _, n := range c.Nodes {
				for v := range n.disks {
					if s, _ := n.State(v); s.Disk != protocol.Inconsistent {
						return false
					}
				}
			}
			return true
		})
		for _, n := range c.Nodes {
			n.mustDo(t, "connect", func(cmd *core.Command) { n.core.Connect(cmd, 0, core.ConnectOptions{}) })
		}
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.until("connected", func() bool {
			return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected
		})
		s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
		s.until("synced", c.bothUpToDate)
		from, to := s.a, s.b
		for range 4 {
			s.demote(from)
			s.promote(to) // at once
			from, to = to, from
		}
		// Who is really Primary still refuses.
		refused := false
		to.Command(func(cmd *core.Command) { to.core.Promote(cmd, false) }, func(err error) {
			require.ErrorIs(t, err, protocol.CodeTwoPrimaries)
			refused = true
		})
		s.until("refused", func() bool { return refused })
	}
}

// twoPrimaries is a pair of Primaries, UpToDate.
func twoPrimaries(t *testing.T, change func(*Options)) *scene {
	o := testOptions()
	o.Net.AllowTwoPrimary = true
	if change != nil {
		change(&o)
	}
	s := skipped(t, o)
	s.promote(s.a)
	s.promote(s.b)
	return s
}

// TestTwoPrimariesCut: both write while they are apart. Both end StandAlone; the
// operator's victim gets the survivor's data, and may then be promoted again.
func TestTwoPrimariesCut(t *testing.T) {
	s := twoPrimaries(t, nil)
	s.write(s.a, 0, 1, 4096)
	s.write(s.b, 8192, 2, 4096)
	s.SetLink(false)
	s.until("apart", func() bool {
		return s.st(s.a).Conn < protocol.Connected && s.st(s.b).Conn < protocol.Connected
	})
	s.write(s.a, 16384, 3, 4096)
	s.write(s.b, 16384, 4, 8192)
	s.SetLink(true)
	s.until("both refuse", func() bool {
		return s.st(s.a).Conn == protocol.StandAlone && s.st(s.b).Conn == protocol.StandAlone
	})
	s.demote(s.b)
	s.connect(s.a, core.ConnectOptions{})
	s.connect(s.b, core.ConnectOptions{DiscardMyData: true})
	s.until("synced", s.bothUpToDate)
	s.promote(s.b)
	require.Equal(t, bytes.Repeat([]byte{3}, 4096), s.read(s.b, 16384, 4096))
	require.Equal(t, make([]byte, 4096), s.read(s.b, 20480, 4096))
	s.equal()
}

// TestTwoPrimariesCrash: the other one goes on, and the crashed one comes back as its
// target, is promoted during the resync and writes.
func TestTwoPrimariesCrash(t *testing.T) {
	s := twoPrimaries(t, func(o *Options) { o.Volume.ResyncRate = 1024 })
	s.write(s.b, 8192, 2, 4096)
	s.b.Crash(true)
	s.until("alone", func() bool { return s.st(s.a).Conn < protocol.Connected })
	for i := range int64(64) {
		s.write(s.a, i*16384, 5, 4096)
	}
	s.b.Boot()
	s.until("attached", func() bool { return s.st(s.b).Disk == protocol.UpToDate })
	s.connect(s.b, core.ConnectOptions{})
	s.until("syncing", func() bool { return s.st(s.b).Conn == protocol.SyncTarget })
	s.promote(s.b)
	require.Equal(t, protocol.SyncTarget, s.st(s.b).Conn)
	s.write(s.b, 63*16384, 6, 8192) // a block that is out of sync
	s.write(s.a, 62*16384, 7, 512)
	require.Equal(t, bytes.Repeat([]byte{5}, 4096), s.read(s.b, 61*16384, 4096))
	s.until("synced", s.bothUpToDate)
	require.Equal(t, bytes.Repeat([]byte{6}, 8192), s.read(s.a, 63*16384, 8192))
	s.equal()
}

// TestTwoPrimariesDemote: demotion back to one Primary, and the rule holds again once
// two are forbidden.
func TestTwoPrimariesDemote(t *testing.T) {
	s := twoPrimaries(t, nil)
	s.demote(s.a)
	s.until("one", func() bool { return s.st(s.b).Peer == protocol.Secondary })
	require.ErrorIs(t, s.io(s.a, &core.IO{Kind: core.IOWrite, Buf: make([]byte, 512)}), core.ErrNotPrimary)
	n := s.b.core.Net()
	n.AllowTwoPrimary = false
	s.b.mustDo(t, "forbid", func(cmd *core.Command) { s.b.core.SetNet(cmd, n) })
	s.until("told", func() bool { return !s.a.core.Net().AllowTwoPrimary })
	refused := false
	s.a.Command(func(cmd *core.Command) { s.a.core.Promote(cmd, false) }, func(err error) {
		require.ErrorIs(t, err, protocol.CodeTwoPrimaries)
		refused = true
	})
	s.until("refused", func() bool { return refused })
}
