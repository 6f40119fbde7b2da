// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// flagOnDisk reports whether a flag would survive a power failure.
func (n *Node) flagOnDisk(t *testing.T, f metadata.Flags) bool {
	sb, _, err := metadata.Read(&n.disks[0].durable, metadata.Internal(), n.disks[0].Size())
	require.NoError(t, err)
	return sb.Flags&f != 0
}

func (s *scene) alWrites(n *Node) uint64 { return n.Snapshot().Volumes[0].ALWrites }

// TestWithoutActivityLog: al-updates no. Nothing is logged, and a crash of the Primary
// costs a full sync.
func TestWithoutActivityLog(t *testing.T) {
	o := testOptions()
	o.Volume.NoALUpdates = true
	s := skipped(t, o)
	s.promote(s.a)
	s.write(s.a, 0, 1, 4096)
	require.Zero(t, s.alWrites(s.a))
	require.True(t, s.a.flagOnDisk(t, metadata.ALDisabled))
	s.a.Crash(true)
	s.until("alone", func() bool { return s.st(s.b).Conn < protocol.Connected })
	s.a.Boot()
	s.until("attached", func() bool { return s.st(s.a).Disk == protocol.UpToDate })
	require.Equal(t, s.a.Snapshot().Volumes[0].Size/8, s.oos(s.a), "everything may differ")
	s.connect(s.a, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	s.equal()
}

// TestActivityLogSwitched: al-updates changes while the volume is written to.
func TestActivityLogSwitched(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.write(s.a, 0, 1, 4096)
	before := s.alWrites(s.a)
	require.NotZero(t, before)
	set := func(no bool) {
		done := 0
		for i := range int64(8) {
			s.a.IO(&core.IO{Kind: core.IOWrite, Off: i * 8192, Len: 4096, Buf: make([]byte, 4096)}, func(err error) {
				require.NoError(t, err)
				done++
			})
		}
		v := s.a.core.Volume(0)
		v.NoALUpdates = no
		s.a.mustDo(t, "change al-updates", func(cmd *core.Command) { s.a.core.SetVolume(cmd, 0, v) })
		require.Equal(t, no, s.a.flagOnDisk(t, metadata.ALDisabled), "durable before it is in force")
		s.until("written", func() bool { return done == 8 })
	}
	set(true)
	before = s.alWrites(s.a)
	s.write(s.a, 65536, 2, 4096)
	require.Equal(t, before, s.alWrites(s.a))
	set(false)
	s.write(s.a, 0, 3, 4096)
	require.Greater(t, s.alWrites(s.a), before)
	s.a.Crash(false)
	s.a.Boot()
	s.until("attached", func() bool { return s.st(s.a).Disk == protocol.UpToDate })
	require.Less(t, s.oos(s.a), s.a.Snapshot().Volumes[0].Size/8+1)
	s.connect(s.a, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	s.equal()
}

// TestActivityLogSuspended: without a peer, and with everything marked on disk, the log
// is not written; with the connection it is again.
func TestActivityLogSuspended(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.write(s.a, 0, 1, 4096)
	s.disconnect(s.a)
	susp := func() bool { return s.a.Snapshot().Volumes[0].ALSusp }
	require.False(t, susp())
	s.a.mustDo(t, "invalidate the peer", func(cmd *core.Command) { s.a.core.InvalidateRemote(cmd, 0) })
	s.until("suspended", susp)
	require.False(t, s.a.flagOnDisk(t, metadata.FullSync), "the bitmap itself says it")
	before := s.alWrites(s.a)
	s.write(s.a, 8192, 2, 4096)
	require.Equal(t, before, s.alWrites(s.a))

	s.a.Crash(true)
	s.a.Boot()
	s.until("attached", func() bool { return s.st(s.a).Disk == protocol.UpToDate })
	all := s.a.Snapshot().Volumes[0].Size / 8
	require.Equal(t, all, s.oos(s.a))
	require.False(t, susp(), "a Secondary writes nothing")
	s.promote(s.a)
	s.until("suspended again", susp)
	before = s.alWrites(s.a)
	s.write(s.a, 8192, 2, 4096)
	require.Equal(t, before, s.alWrites(s.a))
	s.connect(s.a, core.ConnectOptions{})
	s.until("connected", func() bool { return s.st(s.a).Conn >= protocol.Connected })
	require.False(t, susp())
	s.write(s.a, 16384, 3, 4096)
	require.Greater(t, s.alWrites(s.a), before)
	s.until("synced", s.bothUpToDate)
	s.equal()
}
