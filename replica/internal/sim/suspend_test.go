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

type result struct {
	done bool
	err  error
}

// submit runs a request and does not wait.
func (s *scene) submit(n *Node, io *core.IO) *result {
	r := &result{}
	io.Len = max(io.Len, int64(len(io.Buf)))
	n.IO(io, func(err error) { r.done, r.err = true, err })
	return r
}

func noDataOptions(p core.NoData) Options {
	opt := testOptions()
	opt.Core = func(_ int, cfg *core.Config) { cfg.NoData = p }
	return opt
}

// A Primary without a disk loses its peer with requests in flight. They wait, and are
// done again when it is back, even if its power failed.
func TestNoDataReplayOverPeer(t *testing.T) {
	for seed := range uint64(30) {
		c := New(seed, noDataOptions(core.NoDataSuspendIO))
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.bootConnected()
		s.promote(s.a)
		s.write(s.a, 0, 0xee, 32*4096)
		s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
		var ws []*result
		for i := range 32 {
			ws = append(ws, s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: int64(i) * 4096, Buf: bytes.Repeat([]byte{byte(i + 1)}, 4096)}))
			if i%8 == 7 { // overlaps the one before: comes after it
				ws = append(ws, s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: int64(i) * 4096, Buf: bytes.Repeat([]byte{byte(i + 101)}, 4096)}))
			}
			s.Run(time.Duration(s.rng.Int64N(int64(time.Millisecond))))
		}
		read := make([]byte, 4096)
		ws = append(ws, s.submit(s.a, &core.IO{Kind: core.IORead, Off: 0, Buf: read}), s.submit(s.a, &core.IO{Kind: core.IOFlush}))
		if seed%2 == 1 {
			s.SetLink(false)
		} else {
			s.b.Crash(true)
		}
		s.until("suspended", func() bool { return s.st(s.a).SuspNoData })
		s.Run(5 * time.Second)
		done := 0
		for _, w := range ws {
			if w.done {
				require.NoError(t, w.err)
				done++
			}
		}
		require.Less(t, done, len(ws))
		late := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 40 * 4096, Buf: bytes.Repeat([]byte{0xdd}, 4096)})
		s.Run(time.Second)
		require.False(t, late.done)
		if seed%2 == 1 {
			s.SetLink(true)
		} else {
			s.b.Boot()
			s.Run(time.Second)
			s.connect(s.b, core.ConnectOptions{})
		}
		s.until("released", func() bool { return !s.st(s.a).SuspNoData })
		for i, w := range append(ws, late) {
			s.until(fmt.Sprintf("request %d", i), func() bool { return w.done })
			require.NoError(t, w.err, i)
		}
		for i := range 32 {
			want := byte(i + 1)
			if i%8 == 7 {
				want = byte(i + 101)
			}
			require.Equal(t, bytes.Repeat([]byte{want}, 4096), s.read(s.a, int64(i)*4096, 4096), i)
		}
		require.Contains(t, []byte{1, 0xee}, read[0], "the write was in flight with it")
		require.Equal(t, byte(0xdd), s.read(s.a, 40*4096, 4096)[0])
	}
}

// A Primary that is a sync target loses its source: writes whose local part is done
// are not complete, as the resync that follows overwrites them.
func TestNoDataReplayOfTarget(t *testing.T) {
	for seed := range uint64(10) {
		opt := noDataOptions(core.NoDataSuspendIO)
		opt.Volume.ResyncRate = 64
		c := New(seed, opt)
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.bootConnected()
		s.promote(s.a)
		s.a.mustDo(t, "invalidate", func(cmd *core.Command) { s.a.core.Invalidate(cmd, 0) })
		s.until("target", func() bool { return s.st(s.a).Conn == protocol.SyncTarget })
		s.Run(time.Second)
		var ws []*result
		for i := range 16 {
			ws = append(ws, s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: int64(i) * 8192, Buf: bytes.Repeat([]byte{byte(i + 1)}, 4096)}))
			s.Run(time.Duration(s.rng.Int64N(int64(time.Millisecond))))
		}
		s.SetLink(false)
		s.until("suspended", func() bool { return s.st(s.a).SuspNoData })
		s.Run(2 * time.Second)
		s.SetLink(true)
		for i, w := range ws {
			s.until("the write", func() bool { return w.done })
			require.NoError(t, w.err, i)
			require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 4096), s.read(s.a, int64(i)*8192, 4096), i)
		}
		require.False(t, s.st(s.a).SuspNoData)
		s.Until("in sync", 10*time.Minute, s.bothUpToDate)
		must(t, s.Cluster)
		s.equal()
		for i := range ws {
			require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 4096), s.read(s.a, int64(i)*8192, 4096), i)
		}
	}
}

// Without the option the same write fails: it was on a disk that is not good.
func TestNoDataErrorOfTarget(t *testing.T) {
	opt := noDataOptions(core.NoDataIOError)
	opt.Volume.ResyncRate = 64
	s := skipped(t, opt)
	s.promote(s.a)
	s.a.mustDo(t, "invalidate", func(cmd *core.Command) { s.a.core.Invalidate(cmd, 0) })
	s.until("target", func() bool { return s.st(s.a).Conn == protocol.SyncTarget })
	s.Run(time.Second)
	s.maxDelay = time.Microsecond
	w := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 0, Buf: make([]byte, 4096)})
	s.b.Crash(false)
	s.until("the write", func() bool { return w.done })
	require.Error(t, w.err)
	require.Contains(t, s.a.handlerEvents(), core.HandlerPriOnInconDegr)
}

// The own disk comes back to a Primary that is alone.
func TestNoDataReplayOverOwnDisk(t *testing.T) {
	s := skipped(t, noDataOptions(core.NoDataSuspendIO))
	s.promote(s.a)
	s.SetLink(false)
	s.until("alone", func() bool { return s.st(s.a).Conn < protocol.Connected })
	s.write(s.a, 0, 1, 4096)
	s.a.disks[0].FailWrites = true
	w := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 4096, Buf: bytes.Repeat([]byte{2}, 4096)})
	r := s.submit(s.a, &core.IO{Kind: core.IORead, Off: 0, Buf: make([]byte, 4096)})
	s.until("diskless", func() bool { return s.st(s.a).Disk == protocol.Diskless })
	s.Run(time.Second)
	require.True(t, s.st(s.a).SuspNoData)
	require.False(t, w.done)
	s.a.disks[0].FailWrites = false
	s.a.Attach(0, func(err error) { require.NoError(t, err) })
	s.until("done again", func() bool { return w.done && r.done })
	require.NoError(t, w.err)
	require.NoError(t, r.err)
	require.False(t, s.st(s.a).SuspNoData)
	require.Equal(t, byte(2), s.read(s.a, 4096, 4096)[0])
	require.ErrorIs(t, s.io(s.a, &core.IO{Kind: core.IOFlush}), core.ErrIO, "what the failed disk had not flushed may be gone")
	require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOFlush}))
	s.SetLink(true)
	s.until("in sync", s.bothUpToDate)
	s.equal()
}

// What becomes of suspended requests is a choice: wait, fail on command, fail after a
// time, or end with what there is.
func TestSuspendedPolicies(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit time.Duration
		do    func(s *scene)
		want  error
	}{
		{"fail on command", 0, func(s *scene) {
			s.a.mustDo(s.t, "fail", func(cmd *core.Command) { s.a.core.FailSuspended(cmd) })
		}, core.ErrSuspended},
		{"fail after a time", time.Minute, func(s *scene) { s.Run(2 * time.Minute) }, core.ErrSuspended},
		{"resume", 0, func(s *scene) {
			s.a.mustDo(s.t, "resume", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, false) })
		}, core.ErrNoUpToDateData},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := testOptions()
			opt.Core = func(_ int, cfg *core.Config) { cfg.NoData, cfg.SuspendLimit = core.NoDataSuspendIO, tc.limit }
			s := skipped(t, opt)
			s.promote(s.a)
			s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
			frozen := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 0, Buf: make([]byte, 4096)})
			overlaps := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 0, Buf: make([]byte, 4096)})
			read := s.submit(s.a, &core.IO{Kind: core.IORead, Off: 0, Buf: make([]byte, 4096)})
			s.SetLink(false)
			s.until("suspended", func() bool { return s.st(s.a).SuspNoData })
			held := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 4096, Buf: make([]byte, 4096)})
			flush := s.submit(s.a, &core.IO{Kind: core.IOFlush})
			s.Run(30 * time.Second)
			all := []*result{frozen, overlaps, read, held, flush}
			for _, r := range all {
				require.False(t, r.done)
			}
			tc.do(s)
			for i, r := range all {
				s.until("the end", func() bool { return r.done })
				require.Error(t, r.err, i)
			}
			require.ErrorIs(t, held.err, tc.want)
			err := s.io(s.a, &core.IO{Kind: core.IOWrite, Off: 4096, Buf: make([]byte, 4096)})
			require.ErrorIs(t, err, tc.want, "and so do those that come later")
			s.SetLink(true)
			s.until("released", func() bool { return s.st(s.a).PeerDisk == protocol.UpToDate && !s.st(s.a).SuspNoData })
			s.write(s.a, 4096, 5, 4096)
		})
	}
}

// TestSuspendIsStill is S16: when a suspension has returned both disks are still and
// equal, although the link was slow, and requests wait until it ends.
func TestSuspendIsStill(t *testing.T) {
	for seed := range uint64(20) {
		c := New(seed, testOptions())
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.bootConnected()
		s.promote(s.a)
		var ws []*result
		for i := range 64 {
			ws = append(ws, s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: int64(i%16) * 4096, Buf: bytes.Repeat([]byte{byte(i)}, 4096)}))
			s.Run(time.Duration(s.rng.Int64N(int64(200 * time.Microsecond))))
		}
		s.maxDelay = 500 * time.Millisecond
		s.a.mustDo(t, "suspend", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, true) })
		s.equal()
		for i, w := range ws {
			require.True(t, w.done, i)
			require.NoError(t, w.err, i)
		}
		copies := [2][]byte{bytes.Clone(s.a.disks[0].Bytes()), bytes.Clone(s.b.disks[0].Bytes())}
		late := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 0, Buf: bytes.Repeat([]byte{0xaa}, 4096)})
		s.Run(20 * time.Second)
		require.False(t, late.done)
		size := s.a.Snapshot().Volumes[0].Size * sectorBytes
		require.True(t, bytes.Equal(copies[0][:size], s.a.disks[0].Bytes()[:size]))
		require.True(t, bytes.Equal(copies[1][:size], s.b.disks[0].Bytes()[:size]))
		s.a.mustDo(t, "resume", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, false) })
		s.until("the write", func() bool { return late.done })
		require.NoError(t, late.err)
	}
}

// Suspended by the administrator, and the peer is lost meanwhile: the new generation
// waits for the end of the suspension, and is dropped if the peer is back before.
func TestSuspendedWhileLost(t *testing.T) {
	for _, back := range []bool{false, true} {
		s := skipped(t, testOptions())
		s.promote(s.a)
		s.write(s.a, 0, 1, 4096)
		s.a.mustDo(t, "suspend", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, true) })
		before := s.a.Snapshot().Volumes[0].IDs
		s.SetLink(false)
		s.until("lost", func() bool { return s.st(s.a).Conn < protocol.Connected })
		require.Equal(t, before, s.a.Snapshot().Volumes[0].IDs)
		if back {
			s.SetLink(true)
			s.until("back", s.bothUpToDate)
		}
		s.a.mustDo(t, "resume", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, false) })
		require.Equal(t, back, before == s.a.Snapshot().Volumes[0].IDs)
		s.write(s.a, 0, 2, 4096)
		s.SetLink(true)
		s.until("in sync", s.bothUpToDate)
		s.equal()
	}
}
