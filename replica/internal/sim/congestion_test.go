// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

func congestionOptions() Options {
	opt := testOptions()
	opt.Net.Protocol = protocol.ProtocolA
	opt.Net.OnCongestion = core.CongestionPullAhead
	opt.Net.CongestionFill = 64 << 10 / sectorBytes
	return opt
}

// passed counts how often a node went from one state to another.
func (n *Node) passed(from, to protocol.ConnState) (count int) {
	for _, e := range n.Events {
		if e.Kind == core.EventState && e.Old.Conn == from && e.New.Conn == to {
			count++
		}
	}
	return count
}

// TestPullAhead is scenario S24: a burst sends the peer Behind, a resync brings it
// back; again and again.
func TestPullAhead(t *testing.T) {
	opt := congestionOptions()
	opt.Trace = false
	s := skipped(t, opt)
	s.promote(s.a)
	for round := range 4 {
		s.mark()
		w := &pacedWriter{s: s, n: s.a, size: 16 << 10, end: 3 << 20, fill: byte(round * 64)}
		for range 192 {
			w.on = true
			w.step()
			w.on = false
		}
		s.until("Ahead", func() bool { return s.a.passed(protocol.Connected, protocol.Ahead) == 1 })
		w.stop()
		s.until("Behind", func() bool { return s.b.passed(protocol.Connected, protocol.Behind) == 1 })
		s.until("equal again", s.bothUpToDate)
		require.Equal(t, 1, s.a.passed(protocol.Ahead, protocol.SyncSource))
		require.Equal(t, 1, s.b.passed(protocol.Behind, protocol.SyncTarget))
		s.never(append(lossStates, protocol.WFBitMapS, protocol.WFBitMapT)...)
		require.Zero(t, s.oos(s.a))
		s.equal()
	}
}

// TestBehindIsOutdated: the peer's copy is old, and it knows; ours is not touched.
func TestBehindIsOutdated(t *testing.T) {
	s := skipped(t, congestionOptions())
	s.promote(s.a)
	s.burst(s.a, 32)
	s.until("Behind", func() bool { return s.st(s.b).Conn == protocol.Behind })
	require.Equal(t, protocol.Outdated, s.st(s.b).Disk)
	require.Equal(t, protocol.Ahead, s.st(s.a).Conn)
	require.Equal(t, protocol.Consistent, s.st(s.a).PeerDisk)
	require.NotZero(t, s.oos(s.b))
	// Its source is lost: it does not take itself for good, with or without a crash.
	s.a.Crash(false)
	s.until("alone", func() bool { return s.st(s.b).Conn == protocol.WFConnection })
	require.Equal(t, protocol.Outdated, s.st(s.b).Disk)
	s.b.Crash(true)
	s.b.Boot()
	s.until("attached", func() bool { return s.st(s.b).Disk >= protocol.Inconsistent })
	require.Equal(t, protocol.Outdated, s.st(s.b).Disk)
	s.a.Boot()
	s.until("attached", func() bool { return s.st(s.a).Disk == protocol.UpToDate })
	for _, n := range s.Nodes {
		s.connect(n, core.ConnectOptions{})
	}
	s.until("synced", s.bothUpToDate)
	s.equal()
}

// burst writes n blocks of 16 KiB at once, and waits for them.
func (s *scene) burst(n *Node, count int) {
	s.t.Helper()
	left := count
	for i := range count {
		n.IO(&core.IO{Kind: core.IOWrite, Off: int64(i) * 16 << 10, Len: 16 << 10, Buf: bytes.Repeat([]byte{byte(i + 1)}, 16<<10)},
			func(err error) {
				require.NoError(s.t, err)
				left--
			})
	}
	s.until("burst", func() bool { return left == 0 })
}

// TestCongestionSettings: who does not ask for it is not left behind, and who asks to
// be disconnected is.
func TestCongestionSettings(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*Options)
		want protocol.ConnState
	}{
		{"block", func(o *Options) { o.Net.OnCongestion = core.CongestionBlock }, protocol.Connected},
		{"no limit", func(o *Options) { o.Net.CongestionFill = 0 }, protocol.Connected},
		{"limit not reached", func(o *Options) { o.Net.CongestionFill = 1 << 30 }, protocol.Connected},
		{"protocol B", func(o *Options) { o.Net.Protocol = protocol.ProtocolB }, protocol.Connected},
		{"old peer", func(o *Options) { o.Net.MaxVersion = 95 }, protocol.Connected},
		{"pull ahead", func(*Options) {}, protocol.Ahead},
		{"extents", func(o *Options) { o.Net.CongestionFill, o.Net.CongestionExtents = 0, 1 }, protocol.Ahead},
		{"disconnect", func(o *Options) { o.Net.OnCongestion = core.CongestionDisconnect }, protocol.StandAlone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := congestionOptions()
			tc.set(&opt)
			s := skipped(t, opt)
			s.promote(s.a)
			s.mark()
			s.burst(s.a, 32)
			if tc.want == protocol.Connected {
				s.Run(time.Second)
				must(t, s.Cluster)
				require.Zero(t, s.a.passed(protocol.Connected, protocol.Ahead))
				require.Equal(t, protocol.Connected, s.st(s.a).Conn)
				s.equal()
				return
			}
			s.until("relieved", func() bool { return s.st(s.a).Conn == tc.want })
			if tc.want != protocol.StandAlone {
				s.until("synced", s.bothUpToDate)
				s.equal()
				return
			}
			refused := 0
			for _, e := range s.a.Events {
				if e.Kind == core.EventRefused {
					refused++
					require.ErrorIs(t, e.Err, core.ErrCongested)
				}
			}
			require.Equal(t, 1, refused)
			s.until("the peer waits", func() bool { return s.st(s.b).Conn == protocol.WFConnection })
			s.connect(s.a, core.ConnectOptions{})
			s.until("synced", s.bothUpToDate)
			s.equal()
		})
	}
}

// TestPullAheadInTheMiddleOfAResync: while the resync of the last round runs the link
// is congested again. What was asked for is cancelled, no answer is lost, no mark is
// cleared by mistake, and no connection is.
func TestPullAheadInTheMiddleOfAResync(t *testing.T) {
	cancelled := 0
	for seed := range uint64(12) {
		opt := congestionOptions()
		opt.Volume.ResyncRate = 8 << 10
		opt.DiskBytes = 6 << 20
		c := New(seed, opt)
		s := connectedScene(t, c)
		s.maxDelay = time.Duration(1+seed*3) * time.Millisecond
		s.promote(s.a)
		s.mark()
		s.disconnect(s.b)
		for off := int64(0); off < 5<<20; off += 1 << 20 {
			s.write(s.a, off, byte(seed+1), 1<<20)
		}
		s.connect(s.b, core.ConnectOptions{})
		for round := range 6 {
			s.until("a resync", func() bool { return s.st(s.b).Conn == protocol.SyncTarget || s.bothUpToDate() })
			s.Run(time.Duration(30*(round+1)) * time.Millisecond)
			s.burst(s.a, 40)
			s.burst(s.a, 40) // the same blocks again, with the marks still set
		}
		s.until("synced", s.bothUpToDate)
		s.never(lossStates...)
		s.Run(time.Second)
		require.True(t, s.nothingPending())
		require.Zero(t, s.oos(s.a))
		require.Zero(t, s.oos(s.b))
		s.equal()
		require.NotZero(t, s.a.passed(protocol.SyncSource, protocol.Ahead), "seed %d", seed)
		cancelled += bytes.Count([]byte(s.Trace()), []byte("P_RS_CANCEL"))
	}
	require.NotZero(t, cancelled, "no request was cancelled: the scenario is too tame")
}

// connectedScene boots and connects a cluster and skips its initial sync.
func connectedScene(t *testing.T, c *Cluster) *scene {
	t.Helper()
	s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
	for _, n := range s.Nodes {
		n.Boot()
	}
	s.Run(time.Second)
	for _, n := range s.Nodes {
		s.connect(n, core.ConnectOptions{})
	}
	s.until("connected", func() bool { return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected })
	for v := range s.a.disks {
		s.a.mustDo(t, fmt.Sprintf("skip the initial sync of %d", v), func(cmd *core.Command) { s.a.core.NewCurrentUUID(cmd, v, true) })
	}
	s.until("skipped", s.bothUpToDate)
	return s
}
