// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// resize runs the command and returns its error.
func (s *scene) resize(n *Node, opt core.ResizeOptions) error {
	s.t.Helper()
	done := false
	var got error
	n.Resize(0, opt, func(err error) { done, got = true, err })
	s.until("resize", func() bool { return done })
	return got
}

func (s *scene) size(n *Node) uint64 { return n.Snapshot().Volumes[0].Size }

// usable is what a disk offers with internal metadata.
func usable(t *testing.T, n int64) uint64 {
	t.Helper()
	l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), n, metadata.Geometry{})
	require.NoError(t, err)
	return l.UsableSectors
}

// TestGrowOnline: the disks of both nodes grow, then the volume, under writes, with the
// command on either node. What is new is resynced, and the metadata is at the new end.
func TestGrowOnline(t *testing.T) {
	for _, who := range []int{0, 1} {
		for _, clean := range []bool{false, true} {
			opt := testOptions()
			opt.Trace = false
			s := skipped(t, opt)
			s.promote(s.a)
			s.write(s.a, 1<<20, 7, 1<<20)
			w := &pacedWriter{s: s, n: s.a, every: 3 * time.Millisecond, size: 16 << 10, end: 3 << 20}
			w.start()
			before := s.size(s.a)
			for _, n := range s.Nodes {
				fill := byte(n.idx + 1) // new storage is not empty
				if clean {
					fill = 0
				}
				n.disks[0].Grow(2<<20, fill)
			}
			s.mark()
			require.NoError(t, s.resize(s.Nodes[who], core.ResizeOptions{AssumeClean: clean}))
			s.until("resynced", s.bothUpToDate)
			for _, n := range s.Nodes {
				require.Equal(t, usable(t, 6<<20), s.size(n))
				require.Greater(t, s.size(n), before)
				synced := n.passed(protocol.Connected, protocol.SyncSource) + n.passed(protocol.WFSyncUUID, protocol.SyncTarget)
				require.Equal(t, clean, synced == 0, "node %d", n.idx)
			}
			s.write(s.a, 5<<20, 9, 64<<10)
			w.stop()
			require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOFlush}))
			require.Zero(t, s.oos(s.a))
			s.never(lossStates...)
			s.equal()
			// What is on disk is right: both come back, crashed or not, with all of it.
			s.a.Crash(true)
			s.b.Crash(false)
			for _, n := range s.Nodes {
				n.Boot()
				s.until("attached", func() bool { return s.st(n).Disk == protocol.UpToDate })
				require.Equal(t, usable(t, 6<<20), s.size(n))
				s.connect(n, core.ConnectOptions{})
			}
			s.until("together", s.bothUpToDate)
			s.promote(s.b)
			require.True(t, bytes.Equal(bytes.Repeat([]byte{9}, 64<<10), s.read(s.b, 5<<20, 64<<10)))
			s.equal()
		}
	}
}

// TestResizeByUserSize: the administrator's size goes up and down while connected, the
// peer goes along; what is cut off and comes back is resynced.
func TestResizeByUserSize(t *testing.T) {
	for _, who := range []int{0, 1} {
		s := skipped(t, testOptions())
		s.promote(s.a)
		w := &pacedWriter{s: s, n: s.a, every: 2 * time.Millisecond, size: 8 << 10, end: 1 << 20}
		w.start()
		full := s.size(s.a)
		for _, sectors := range []uint64{4096, 6000, 2048, 0} {
			require.NoError(t, s.resize(s.Nodes[who], core.ResizeOptions{Size: sectors}))
			s.until("resynced", s.bothUpToDate)
			want := sectors
			if want == 0 {
				want = full
			}
			for _, n := range s.Nodes {
				require.Equal(t, want, s.size(n), "node %d", n.idx)
			}
			end := int64(want) * sectorBytes
			require.ErrorIs(t, s.io(s.a, &core.IO{Kind: core.IOWrite, Off: end, Buf: make([]byte, 512)}), core.ErrRange)
			s.write(s.a, end-4096, 3, 4096)
		}
		w.stop()
		s.never(lossStates...)
		s.equal()
		s.disconnect(s.b)
		s.connect(s.b, core.ConnectOptions{})
		s.until("together", s.bothUpToDate)
		require.Equal(t, full, s.size(s.b))
	}
}

// TestResizeRefused: and nothing changes.
func TestResizeRefused(t *testing.T) {
	s := skipped(t, testOptions())
	full := s.size(s.a)
	require.ErrorIs(t, s.resize(s.a, core.ResizeOptions{Size: 2048}), core.ErrRefused, "both Secondary")
	s.promote(s.a)
	require.ErrorIs(t, s.resize(s.a, core.ResizeOptions{Size: full + 8}), core.ErrConfig, "too large")
	s.a.disks[0].Grow(2<<20, 0) // the peer's has not
	require.NoError(t, s.resize(s.a, core.ResizeOptions{}))
	require.Equal(t, full, s.size(s.a))
	s.disconnect(s.b)
	require.NoError(t, s.resize(s.a, core.ResizeOptions{}))
	require.Equal(t, full, s.size(s.a), "the peer's disk is known")
	require.ErrorIs(t, s.resize(s.a, core.ResizeOptions{Size: full + 4096}), core.ErrConfig, "it is too small")
	s.a.mustDo(t, "demote", func(cmd *core.Command) { s.a.core.Demote(cmd) })
	s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
	require.ErrorIs(t, s.resize(s.a, core.ResizeOptions{}), core.ErrDiskless)
}

// TestTooSmallPeer: a volume that grew alone does not shrink for a peer whose disk is too
// small; the data of both stays.
func TestTooSmallPeer(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.write(s.a, 0, 5, 1<<20)
	s.disconnect(s.b)
	before := bytes.Clone(s.b.disks[0].Bytes())
	s.a.disks[0].Grow(2<<20, 0)
	require.NoError(t, s.resize(s.a, core.ResizeOptions{AssumePeerHasSpace: true}))
	require.Equal(t, usable(t, 6<<20), s.size(s.a))
	s.write(s.a, 5<<20, 6, 4096)
	s.mark()
	s.connect(s.b, core.ConnectOptions{})
	s.until("refused", func() bool { return s.st(s.a).Conn == protocol.StandAlone })
	refused := false
	for _, e := range s.a.Events {
		refused = refused || e.Kind == core.EventRefused && errors.Is(e.Err, core.ErrShrink)
	}
	require.True(t, refused)
	require.Equal(t, usable(t, 6<<20), s.size(s.a))
	require.Equal(t, byte(6), s.read(s.a, 5<<20, 512)[0])
	require.Equal(t, before[:int64(s.size(s.b))*sectorBytes], s.b.disks[0].Bytes()[:int64(s.size(s.b))*sectorBytes])
}

// TestGrowIsCut crashes one node or the other after every few steps of a resize. With
// the metadata of either place both come back with every acknowledged write.
func TestGrowIsCut(t *testing.T) {
	moved, old := 0, 0
	for step := range 30 {
		for victim := range 2 {
			opt := testOptions()
			opt.Trace = false
			s := connectedScene(t, New(uint64(step), opt))
			s.promote(s.a)
			for i := range int64(16) {
				s.write(s.a, i*192<<10, byte(i+1), 4096)
			}
			for _, n := range s.Nodes {
				n.disks[0].Grow(2<<20, byte(n.idx+1))
			}
			require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOFlush}))
			s.until("flushed by the peer", s.nothingPending)
			s.Run(100 * time.Millisecond)
			acked := map[int64]byte{}
			s.a.Resize(0, core.ResizeOptions{}, func(error) {})
			for i := range int64(8) { // writes that wait for the resize, or do not
				fill := byte(0x80 + i)
				s.a.IO(&core.IO{Kind: core.IOWrite, Off: i * 384 << 10, Len: 4096, Buf: bytes.Repeat([]byte{fill}, 4096)},
					func(err error) {
						if err == nil {
							acked[i*384<<10] = fill
						}
					})
			}
			for range step*6 + victim {
				s.step()
			}
			must(t, s.Cluster)
			n := s.Nodes[victim]
			power := step%2 == 0
			n.Crash(power)
			if _, _, err := metadata.Read(n.disks[0], metadata.Internal(), n.disks[0].Size()); err != nil {
				_, _, err := metadata.Resize(n.disks[0], metadata.Internal(), 4<<20, 6<<20, metadata.ResizeOptions{})
				require.NoError(t, err, "step %d", step)
				old++
			} else {
				moved++
			}
			n.Boot()
			s.until("attached", func() bool { return s.st(n).Disk >= protocol.Inconsistent })
			s.connect(n, core.ConnectOptions{})
			other := s.Nodes[1-victim]
			s.until("together", func() bool { return s.st(n).Conn >= protocol.Connected && s.st(other).Conn >= protocol.Connected })
			s.until("synced", s.bothUpToDate)
			if victim == 0 {
				s.promote(s.a)
			}
			require.NoError(t, s.resize(s.a, core.ResizeOptions{}))
			s.until("synced", s.bothUpToDate)
			require.Equal(t, usable(t, 6<<20), s.size(s.a), "step %d", step)
			for off, fill := range acked {
				if power {
					break // it was not flushed
				}
				require.Equal(t, fill, s.read(s.a, off, 512)[0], "step %d, node %d, offset %d", step, victim, off)
			}
			for i := range int64(16) {
				if off := i * 192 << 10; i%2 == 1 { // the others were written again
					require.Equal(t, byte(i+1), s.read(s.a, off, 512)[0], "step %d", step)
				}
			}
			size := int64(s.size(s.a)) * sectorBytes
			require.Zero(t, s.oos(s.a), "step %d, victim %d", step, victim)
			require.True(t, bytes.Equal(s.a.disks[0].Bytes()[:size], s.b.disks[0].Bytes()[:size]), "step %d, victim %d: the nodes differ", step, victim)
		}
	}
	require.NotZero(t, moved, "no crash came after the move")
	require.NotZero(t, old, "no crash came before the move")
}
