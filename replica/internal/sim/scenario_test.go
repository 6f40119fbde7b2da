// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// scene is a connected pair with what scenarios need.
type scene struct {
	*Cluster
	t    testing.TB
	a, b *Node
}

func newScene(t testing.TB, opt Options) *scene {
	c := start(t, opt)
	return &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
}

// skipped is a scene whose initial sync was skipped: both UpToDate.
func skipped(t testing.TB, opt Options) *scene {
	s := newScene(t, opt)
	for v := range s.a.disks {
		s.a.mustDo(t, "skip the initial sync", func(cmd *core.Command) { s.a.core.NewCurrentUUID(cmd, v, true) })
	}
	s.until("skipped", s.bothUpToDate)
	return s
}

func (s *scene) until(what string, cond func() bool) {
	s.t.Helper()
	s.Until(what, 2*time.Minute, cond)
	must(s.t, s.Cluster)
}

func (s *scene) promote(n *Node) {
	s.t.Helper()
	n.mustDo(s.t, "promote", func(cmd *core.Command) { n.core.Promote(cmd, false) })
}

func (s *scene) demote(n *Node) {
	s.t.Helper()
	n.mustDo(s.t, "demote", func(cmd *core.Command) { n.core.Demote(cmd) })
}

func (s *scene) connect(n *Node, opt core.ConnectOptions) {
	s.t.Helper()
	n.mustDo(s.t, "connect", func(cmd *core.Command) { n.core.Connect(cmd, 0, opt) })
}

func (s *scene) disconnect(n *Node) {
	s.t.Helper()
	n.mustDo(s.t, "disconnect", func(cmd *core.Command) { n.core.Disconnect(cmd, 0, false) })
}

// io runs one request and returns its error.
func (s *scene) io(n *Node, io *core.IO) error {
	s.t.Helper()
	done := false
	var got error
	io.Len = max(io.Len, int64(len(io.Buf)))
	n.IO(io, func(err error) { done, got = true, err })
	s.until("request", func() bool { return done })
	return got
}

func (s *scene) write(n *Node, off int64, fill byte, size int) {
	s.t.Helper()
	if err := s.io(n, &core.IO{Kind: core.IOWrite, Off: off, Buf: bytes.Repeat([]byte{fill}, size)}); err != nil {
		s.t.Fatalf("write: %v\n%s", err, s.Trace())
	}
}

func (s *scene) read(n *Node, off int64, size int) []byte {
	s.t.Helper()
	buf := make([]byte, size)
	require.NoError(s.t, s.io(n, &core.IO{Kind: core.IORead, Off: off, Buf: buf}))
	return buf
}

func (s *scene) st(n *Node) protocol.State { st, _ := n.State(0); return st }

func (s *scene) oos(n *Node) uint64 { return n.Snapshot().Volumes[0].OutOfSync }

// equal compares the data areas.
func (s *scene) equal() {
	s.t.Helper()
	for i := range s.a.disks {
		size := s.a.Snapshot().Volumes[i].Size * sectorBytes
		if !bytes.Equal(s.a.disks[i].Bytes()[:size], s.b.disks[i].Bytes()[:size]) {
			s.t.Fatalf("the disks differ\n%s", s.Trace())
		}
	}
}

// never asserts that no state of the list was passed since the last call of mark.
func (s *scene) never(bad ...protocol.ConnState) {
	s.t.Helper()
	for _, n := range s.Nodes {
		for _, conn := range s.connStates(n) {
			if slices.Contains(bad, conn) {
				s.t.Fatalf("node %d went through %v\n%s", n.idx, conn, s.Trace())
			}
		}
	}
}

// connStates are the connection states that a node went through since the last call of mark.
func (s *scene) connStates(n *Node) (list []protocol.ConnState) {
	for _, e := range n.Events {
		if e.Kind == core.EventState && e.New.Conn != e.Old.Conn {
			list = append(list, e.New.Conn)
		}
	}
	return list
}

func (s *scene) mark() {
	for _, n := range s.Nodes {
		n.Events = nil
	}
}

var lossStates = []protocol.ConnState{protocol.Timeout, protocol.BrokenPipe, protocol.NetworkFailure, protocol.ProtocolError}

func TestConnectAndDisconnectGracefully(t *testing.T) {
	s := skipped(t, testOptions())
	for i := range 10 {
		s.mark()
		n, o := s.a, s.b
		if i%2 == 1 {
			n, o = o, n
		}
		s.disconnect(n)
		s.until("the other waits", func() bool { return s.st(o).Conn == protocol.WFConnection })
		require.Equal(t, protocol.StandAlone, s.st(n).Conn)
		s.connect(n, core.ConnectOptions{})
		s.until("connected", s.bothUpToDate)
		s.never(append(lossStates, protocol.SyncSource, protocol.SyncTarget)...)
	}
	s.mark()
	s.Run(time.Minute) // several ping intervals
	must(t, s.Cluster)
	s.never(append(lossStates, protocol.WFConnection)...)
}

func TestSkipInitialSync(t *testing.T) {
	s := skipped(t, testOptions())
	s.never(protocol.SyncSource, protocol.SyncTarget)
	require.Zero(t, s.oos(s.a))
	require.Zero(t, s.oos(s.b))
	require.True(t, s.a.Snapshot().Volumes[0].IDs.SameIdentity(s.b.Snapshot().Volumes[0].IDs))
}

func TestSwitchPrimaries(t *testing.T) {
	s := skipped(t, testOptions())
	for i := range 6 {
		n, o := s.a, s.b
		if i%2 == 1 {
			n, o = o, n
		}
		s.promote(n)
		var refusal error
		done := false
		o.Command(func(cmd *core.Command) { o.core.Promote(cmd, false) }, func(err error) { done, refusal = true, err })
		s.until("refused", func() bool { return done })
		require.ErrorIs(t, refusal, core.ErrRefused)
		s.write(n, int64(i)*8192, byte(i+1), 4096)
		require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 4096), s.read(n, int64(i)*8192, 4096))
		s.demote(n)
		require.ErrorIs(t, s.io(n, &core.IO{Kind: core.IORead, Buf: make([]byte, 512)}), core.ErrNotPrimary)
	}
	s.never(lossStates...)
	s.equal()
}

// TestOutageResyncsOnlyWhatChanged is scenario S05: both sides count the same blocks.
func TestOutageResyncsOnlyWhatChanged(t *testing.T) {
	for _, rle := range []bool{true, false} {
		opt := testOptions()
		opt.Net.UseRLE = rle
		s := skipped(t, opt)
		n, o := s.a, s.b
		for i := range 10 {
			s.promote(n)
			s.disconnect(o)
			for k := range i + 1 {
				s.write(n, int64(k*97+i)*4096, byte(i+1), 4096)
			}
			require.Equal(t, uint64(i+1), s.oos(n))
			s.mark()
			s.connect(o, core.ConnectOptions{})
			s.until("synced", s.bothUpToDate)
			for _, x := range s.Nodes {
				var total uint64
				for _, e := range x.Events {
					if e.Kind == core.EventResyncDone {
						total += e.Blocks
					}
				}
				require.Equal(t, uint64(i+1), total, "node %d", x.idx)
				require.Zero(t, s.oos(x))
			}
			s.equal()
			s.demote(n)
			n, o = o, n
		}
	}
}

// diverge ends the connection, and each node writes something that the other has not.
func (s *scene) diverge() {
	s.t.Helper()
	s.disconnect(s.a)
	s.disconnect(s.b)
	for i, n := range s.Nodes {
		s.promote(n)
		s.write(n, int64(i)*65536, byte(0x10+i), 4096)
		s.demote(n)
	}
}

func (s *scene) untilAlone() {
	s.t.Helper()
	s.until("both StandAlone", func() bool {
		return s.st(s.a).Conn == protocol.StandAlone && s.st(s.b).Conn == protocol.StandAlone
	})
}

func TestSplitBrainAndDiscardMyData(t *testing.T) {
	for round := range 4 {
		s := skipped(t, testOptions())
		s.diverge()
		s.mark()
		s.connect(s.a, core.ConnectOptions{})
		s.connect(s.b, core.ConnectOptions{})
		s.untilAlone()
		for _, n := range s.Nodes {
			d := n.Snapshot().Volumes[0].Last
			require.NotNil(t, d)
			require.Equal(t, 90, d.Verdict.Rule)
			require.Equal(t, metadata.SplitBrain, d.Verdict.Outcome)
		}
		victim, survivor := s.a, s.b
		if round%2 == 1 {
			victim, survivor = survivor, victim
		}
		s.connect(victim, core.ConnectOptions{DiscardMyData: true})
		s.connect(survivor, core.ConnectOptions{})
		s.until("synced", s.bothUpToDate)
		s.equal()
		require.Equal(t, byte(0x10+survivor.idx), victim.disks[0].Bytes()[survivor.idx*65536])
		require.Equal(t, byte(0), victim.disks[0].Bytes()[victim.idx*65536])
	}
}

// TestDiscardMyDataOnABadLink: the link breaks after every few steps of the handshake. What
// the administrator has decided holds for the next attempt, and for no later split brain.
func TestDiscardMyDataOnABadLink(t *testing.T) {
	broken := 0
	for step := range 60 {
		s := skipped(t, testOptions())
		s.diverge()
		s.connect(s.b, core.ConnectOptions{DiscardMyData: true})
		s.a.mustDo(t, "connect", func(cmd *core.Command) { s.a.core.Connect(cmd, 0, core.ConnectOptions{}) })
		s.until("connecting", func() bool { return s.st(s.b).Conn == protocol.WFReportParams })
		for range step {
			s.step()
		}
		if s.st(s.b).Conn < protocol.SyncSource {
			broken++
		}
		s.SetLink(false)
		s.until("cut", func() bool {
			return s.st(s.a).Conn < protocol.Connected && s.st(s.b).Conn < protocol.Connected
		})
		s.SetLink(true)
		s.until("synced", s.bothUpToDate)
		s.equal()
		require.Equal(t, byte(0x10), s.b.disks[0].Bytes()[0], "the survivor's data")
		require.Equal(t, byte(0), s.b.disks[0].Bytes()[65536], "the victim's changes are gone")
		s.diverge()
		for _, n := range s.Nodes {
			s.connect(n, core.ConnectOptions{})
		}
		s.untilAlone()
	}
	require.Greater(t, broken, 10)
}

func TestInvalidate(t *testing.T) {
	for _, remote := range []bool{false, true} {
		s := skipped(t, testOptions())
		s.promote(s.a)
		s.write(s.a, 0, 1, 65536)
		s.a.disks[0].current.write([]byte("planted behind the device"), 3<<20)
		s.mark()
		if remote {
			s.a.mustDo(t, "invalidate-remote", func(cmd *core.Command) { s.a.core.InvalidateRemote(cmd, 0) })
		} else {
			s.b.mustDo(t, "invalidate", func(cmd *core.Command) { s.b.core.Invalidate(cmd, 0) })
		}
		s.until("synced", s.bothUpToDate)
		s.equal()
		s.never(lossStates...)
		s.disconnect(s.b)
		done := false
		var got error
		s.a.Command(func(cmd *core.Command) { s.a.core.InvalidateRemote(cmd, 0) }, func(err error) { done, got = true, err })
		s.until("refused", func() bool { return done })
		require.ErrorIs(t, got, protocol.CodeNeedConnection)
	}
}

func TestWriteErrorOnSecondary(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.b.disks[0].FailWrites = true
	s.write(s.a, 40960, 7, 4096)
	s.until("diskless", func() bool {
		return s.st(s.b).Disk == protocol.Diskless && s.st(s.a).PeerDisk == protocol.Diskless
	})
	s.write(s.a, 81920, 8, 4096)
	s.b.disks[0].FailWrites = false
	s.b.Attach(0, func(err error) { require.NoError(t, err) })
	s.until("synced", s.bothUpToDate)
	s.equal()
	s.never(lossStates...)
}

func TestWriteErrorOnPrimary(t *testing.T) {
	for _, meta := range []bool{false, true} {
		s := skipped(t, testOptions())
		s.promote(s.a)
		s.write(s.a, 0, 1, 4096)
		s.a.disks[0].FailWrites, s.a.disks[0].FailMeta = !meta, meta
		s.write(s.a, 1<<20, 7, 4096)
		if meta {
			s.write(s.a, 40960, 3, 4096)
		}
		s.write(s.a, 8192, 8, 4096)
		s.a.disks[0].FailWrites, s.a.disks[0].FailMeta = false, false
		if s.st(s.a).Disk == protocol.Diskless {
			require.Equal(t, bytes.Repeat([]byte{7}, 4096), s.read(s.a, 1<<20, 4096), "read from the peer")
			s.a.Attach(0, func(err error) { require.NoError(t, err) })
		} else {
			require.True(t, meta, "a failing write must detach the disk")
		}
		s.until("synced", s.bothUpToDate)
		require.Equal(t, protocol.Primary, s.st(s.a).Role)
		s.equal()
	}
}

func TestReadErrorIsServedByThePeer(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.write(s.a, 4096, 9, 8192)
	s.a.disks[0].FailReads = true
	require.Equal(t, bytes.Repeat([]byte{9}, 8192), s.read(s.a, 4096, 8192))
	s.until("diskless", func() bool { return s.st(s.a).Disk == protocol.Diskless })
}

func TestDisklessPrimary(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
	s.until("peer knows", func() bool { return s.st(s.b).PeerDisk == protocol.Diskless })
	s.write(s.a, 4096*5, 5, 12288)
	require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOFlush}))
	require.Equal(t, bytes.Repeat([]byte{5}, 12288), s.read(s.a, 4096*5, 12288))
	s.mark()
	s.a.Attach(0, func(err error) { require.NoError(t, err) })
	s.until("synced", s.bothUpToDate)
	for _, e := range s.a.Events {
		if e.Kind == core.EventResyncDone {
			require.Equal(t, uint64(3), e.Blocks, "exactly the tracked blocks")
		}
	}
	s.equal()
	s.never(lossStates...)
}

func TestDetachOfTheLastGoodDiskIsRefused(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.disconnect(s.b)
	done := false
	var got error
	s.a.Command(func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) }, func(err error) { done, got = true, err })
	s.until("refused", func() bool { return done })
	require.ErrorIs(t, got, core.ErrNoUpToDateData)
}

func TestShutdownLeavesCleanMetadata(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.write(s.a, 0, 1, 65536)
	for _, n := range s.Nodes {
		n.mustDo(t, "shutdown", func(cmd *core.Command) { n.core.Shutdown(cmd) })
		sb, _, err := metadata.Read(n.disks[0], metadata.Internal(), n.disks[0].Size())
		require.NoError(t, err)
		require.False(t, sb.NeedsApplyAL())
		require.Zero(t, sb.Flags&metadata.PrimaryInd)
		require.Empty(t, n.disks[0].cache, "all of it is durable")
	}
	for _, n := range s.Nodes {
		n.Crash(true)
		n.Boot()
	}
	s.Run(time.Second)
	for _, n := range s.Nodes {
		s.connect(n, core.ConnectOptions{})
	}
	s.mark()
	s.until("connected", s.bothUpToDate)
	s.equal()
}

// TestActivityLogBoundsTheResync: after a crash only hot extents are compared.
func TestActivityLogBoundsTheResync(t *testing.T) {
	opt := testOptions()
	opt.DiskBytes = 40 << 20
	s := skipped(t, opt)
	s.promote(s.a)
	s.write(s.a, 9<<20, 1, 4096)
	s.a.Crash(true)
	s.until("noticed", func() bool { return s.st(s.b).Conn == protocol.WFConnection })
	s.promote(s.b)
	s.mark()
	s.a.Boot()
	s.Run(time.Second)
	s.connect(s.a, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	var blocks uint64
	for _, e := range s.b.Events {
		if e.Kind == core.EventResyncDone {
			blocks = e.Blocks
		}
	}
	require.Equal(t, uint64(1024), blocks, "one extent of 4 MiB")
	s.equal()
}

func TestProtocolsAndVersions(t *testing.T) {
	for _, wire := range []protocol.ReplicationProtocol{protocol.ProtocolA, protocol.ProtocolB, protocol.ProtocolC} {
		for _, version := range []protocol.Version{86, 88, 90, 94, 95, 96, 99, 100, 101} {
			t.Run(fmt.Sprintf("%v/%d", wire, version), func(t *testing.T) {
				opt := testOptions()
				opt.Net.Protocol, opt.Net.MaxVersion = wire, version
				s := newScene(t, opt)
				s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
				s.until("synced", s.bothUpToDate)
				for i := range 20 {
					s.write(s.a, int64(i)*20480+512, byte(i+1), 512*(1+i*3))
				}
				require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOZero, Off: 4096, Len: 65536}))
				require.NoError(t, s.io(s.a, &core.IO{Kind: core.IODiscard, Off: 1 << 20, Len: 65536}))
				s.write(s.a, 512, 0xee, 1<<20)
				require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOZero, Off: 1536, Len: 3 << 20}))
				s.write(s.a, 2560, 0xdd, 1<<20)
				s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
				if got := s.read(s.a, 2560, 1<<20); !bytes.Equal(bytes.Repeat([]byte{0xdd}, 1<<20), got) {
					t.Fatalf("read %x..., want dd\n%s", got[:16], s.Trace())
				}
				s.a.Attach(0, func(err error) { require.NoError(t, err) })
				s.until("attached", s.bothUpToDate)
				require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOFlush}))
				s.until("synced", s.bothUpToDate)
				s.disconnect(s.b)
				s.write(s.a, 1<<20, 77, 65536)
				s.connect(s.b, core.ConnectOptions{})
				s.until("synced again", s.bothUpToDate)
				s.demote(s.a)
				s.equal()
				s.never(lossStates...)
			})
		}
	}
}

func TestIntegrityAndAuthentication(t *testing.T) {
	for _, alg := range []string{"crc32c", "md5", "xxhash64", "sha256"} {
		opt := testOptions()
		opt.Net.IntegrityAlg, opt.Net.CRAMAlg, opt.Net.Secret = alg, "sha1", "sekrit"
		s := newScene(t, opt)
		s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
		s.write(s.a, 0, 1, 65536)
		require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOZero, Off: 4096, Len: 65536}))
		s.until("synced", s.bothUpToDate)
		s.demote(s.a)
		s.equal()
		s.never(lossStates...)
	}
}

func TestTwoVolumes(t *testing.T) {
	opt := testOptions()
	opt.Volumes = 2
	s := newScene(t, opt)
	s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
	for i := range 10 {
		err := s.io(s.a, &core.IO{Kind: core.IOWrite, Volume: i % 2, Off: int64(i) * 4096, Buf: bytes.Repeat([]byte{byte(i + 1)}, 4096)})
		require.NoError(t, err)
	}
	s.until("synced", s.bothUpToDate)
	s.disconnect(s.b)
	s.write(s.a, 0, 99, 4096)
	s.connect(s.b, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	s.demote(s.a)
	s.equal()
	s.never(lossStates...)
}

func TestSuspendIO(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.a.mustDo(t, "suspend", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, true) })
	done := false
	io := &core.IO{Kind: core.IOWrite, Len: 4096, Buf: make([]byte, 4096)}
	s.a.IO(io, func(error) { done = true })
	s.Run(time.Minute)
	require.False(t, done)
	s.a.mustDo(t, "resume", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, false) })
	s.until("written", func() bool { return done })
}

func TestPauseAndResumeSync(t *testing.T) {
	for who := range 2 {
		opt := testOptions()
		opt.Volume.ResyncRate = 256
		s := newScene(t, opt)
		s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
		s.until("running", func() bool { return s.st(s.b).Conn == protocol.SyncTarget })
		n := s.Nodes[who]
		n.mustDo(t, "pause", func(cmd *core.Command) { n.core.PauseSync(cmd, 0, true) })
		s.until("paused", func() bool {
			return s.st(s.a).Conn == protocol.PausedSyncS && s.st(s.b).Conn == protocol.PausedSyncT
		})
		s.Run(time.Second)
		left := s.oos(s.b)
		s.Run(time.Minute)
		require.Equal(t, left, s.oos(s.b))
		require.NotZero(t, left)
		s.write(s.a, 1<<20, 3, 8192)
		n.mustDo(t, "resume", func(cmd *core.Command) { n.core.PauseSync(cmd, 0, false) })
		s.until("synced", s.bothUpToDate)
		s.demote(s.a)
		s.equal()
	}
}

// TestReadAfterAcknowledgedWrite: with protocol A and B a write may be acknowledged
// while the peer still holds it behind the flush of an earlier epoch. A read that is
// served by the peer sees it all the same.
func TestReadAfterAcknowledgedWrite(t *testing.T) {
	for _, wire := range []protocol.ReplicationProtocol{protocol.ProtocolA, protocol.ProtocolB} {
		opt := testOptions()
		opt.Net.Protocol, opt.Net.MaxVersion = wire, 95
		s := skipped(t, opt)
		s.promote(s.a)
		s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
		s.until("diskless", func() bool { return s.st(s.a).Disk == protocol.Diskless })
		for i := range 100 {
			s.write(s.a, 0, byte(i), 4096)
			s.write(s.a, 4096, byte(i), 4096)
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, 8192), s.read(s.a, 0, 8192))
		}
	}
}
