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

// Disks that do not answer, with disk-timeout (spec: behaviour 5.8).

const diskTimeout = 2 * time.Second

func timeoutOptions() Options {
	opt := testOptions()
	opt.Volume.DiskTimeout = diskTimeout
	return opt
}

// frozen is a scene whose disk, that of the Primary a or of the Secondary b, has stopped.
func frozen(t *testing.T, opt Options, onPrimary bool) (*scene, *Node) {
	s := skipped(t, opt)
	s.promote(s.a)
	s.write(s.a, 0, 1, 8192)
	s.Run(time.Second)
	n := s.b
	if onPrimary {
		n = s.a
	}
	n.disks[0].Frozen = true
	return s, n
}

// pendingWrite is a write under way.
type pendingWrite struct {
	buf  []byte
	done bool
	err  error
}

func (s *scene) startWrite(n *Node, off int64, fill byte) *pendingWrite {
	w := &pendingWrite{buf: bytes.Repeat([]byte{fill}, 4096)}
	n.IO(&core.IO{Kind: core.IOWrite, Off: off, Len: 4096, Buf: w.buf}, func(err error) { w.done, w.err = true, err })
	return w
}

// passes asserts that a node's disk state went so, in this order.
func (s *scene) passes(n *Node, want ...protocol.DiskState) {
	s.t.Helper()
	for _, e := range n.Events {
		if e.Kind == core.EventState && len(want) > 0 && e.New.Disk == want[0] && e.Old.Disk != want[0] {
			want = want[1:]
		}
	}
	require.Empty(s.t, want, "node %d\n%s", n.idx, s.Trace())
}

// reattach takes the disk again: not before everything has come back from it.
func (s *scene) reattach(n *Node) {
	s.t.Helper()
	var err error
	n.Attach(0, func(e error) { err = e })
	s.Run(time.Second)
	require.ErrorIs(s.t, err, core.ErrHung)
	require.NotZero(s.t, n.Snapshot().Volumes[0].Hung)
	n.disks[0].thaw()
	s.until("thawed", func() bool { return n.Snapshot().Volumes[0].Hung == 0 })
	done := false
	n.Attach(0, func(err error) { done = true; require.NoError(s.t, err) })
	s.until("attached", func() bool { return done && s.bothUpToDate() && s.oos(n) == 0 })
	s.equal()
}

// TestFrozenUnderWrite is scenario S22: a write completes although one of the two disks has
// stopped, and what was handed to that disk stays as it was.
func TestFrozenUnderWrite(t *testing.T) {
	for _, onPrimary := range []bool{true, false} {
		s, n := frozen(t, timeoutOptions(), onPrimary)
		w := s.startWrite(s.a, 4096, 7)
		began := s.now
		s.until("the write", func() bool { return w.done })
		require.NoError(t, w.err)
		require.GreaterOrEqual(t, s.now-began, diskTimeout)
		require.Less(t, s.now-began, 2*diskTimeout)
		s.until("diskless", func() bool { return s.st(n).Disk == protocol.Diskless })
		s.passes(n, protocol.Failed, protocol.Diskless)
		s.until("the other node knows", func() bool { return s.st(s.other(n)).PeerDisk == protocol.Diskless })
		for i := range w.buf {
			w.buf[i] = 0xff // the application has its buffer back, and uses it
		}
		s.write(s.a, 1<<20, 8, 4096)
		require.Equal(t, bytes.Repeat([]byte{7}, 512), s.read(s.a, 4096, 512), "the good copy serves")
		n.disks[0].thaw()
		s.Run(time.Second)
		late := make([]byte, 512)
		_, _ = n.disks[0].ReadAt(late, 4096)
		require.Equal(t, bytes.Repeat([]byte{7}, 512), late, "the disk has written what it was given")
		n.disks[0].Frozen = true
		s.until("everything is back", func() bool { return n.Snapshot().Volumes[0].Hung == 0 })
		n.disks[0].thaw()
		done := false
		n.Attach(0, func(err error) { done = true; require.NoError(t, err) })
		s.until("attached", func() bool { return done && s.bothUpToDate() && s.oos(n) == 0 })
		s.equal()
	}
}

// TestKoCount: a Secondary without disk-timeout whose disk has stopped answers pings, and
// no write. After ko-count times the timeout the Primary goes on without it.
func TestKoCount(t *testing.T) {
	opt := testOptions()
	opt.Net.Timeout = 6 * time.Second
	s, n := frozen(t, opt, false)
	s.mark()
	w := s.startWrite(s.a, 4096, 7)
	began := s.now
	s.until("the write", func() bool { return w.done })
	require.NoError(t, w.err)
	limit := opt.Net.Timeout * time.Duration(opt.Net.KoCount)
	require.GreaterOrEqual(t, s.now-began, limit)
	require.Less(t, s.now-began, limit+opt.Net.Timeout)
	require.Contains(t, s.connStates(s.a), protocol.Timeout)
	n.disks[0].thaw()
	s.until("synced", s.bothUpToDate)
	s.equal()
}

// TestFrozenUnderRead: the peer serves it, and what the disk delivers late reaches nobody.
func TestFrozenUnderRead(t *testing.T) {
	s, n := frozen(t, timeoutOptions(), true)
	buf := make([]byte, 4096)
	io := &core.IO{Kind: core.IORead, Off: 0, Len: 4096, Buf: buf}
	require.NoError(t, s.io(s.a, io))
	require.Equal(t, bytes.Repeat([]byte{1}, 4096), buf)
	copy(buf, bytes.Repeat([]byte{0xee}, 4096))
	s.reattach(n)
	require.Equal(t, bytes.Repeat([]byte{0xee}, 4096), buf)
}

// TestFrozenFlush: an application's flush does not wait for the disk for ever.
func TestFrozenFlush(t *testing.T) {
	s, n := frozen(t, timeoutOptions(), true)
	require.NoError(t, s.io(s.a, &core.IO{Kind: core.IOFlush}))
	s.until("diskless", func() bool { return s.st(n).Disk == protocol.Diskless })
	s.reattach(n)
}

// TestFrozenInResync: the disk of the target, and that of the source, stop while one copies
// to the other.
func TestFrozenInResync(t *testing.T) {
	for _, target := range []bool{true, false} {
		opt := timeoutOptions()
		opt.Volume.ResyncRate = 256
		s := skipped(t, opt)
		s.b.mustDo(t, "invalidate", func(cmd *core.Command) { s.b.core.Invalidate(cmd, 0) })
		s.until("resync", func() bool { return s.st(s.b).Conn == protocol.SyncTarget })
		s.Run(time.Second)
		n := s.a
		if target {
			n = s.b
		}
		n.disks[0].Frozen = true
		s.until("diskless", func() bool { return s.st(n).Disk == protocol.Diskless })
		s.passes(n, protocol.Failed, protocol.Diskless)
		s.reattach(n)
	}
}

// TestFrozenMetadata: only the metadata device stops. on-io-error pass_on is no reason to
// keep it.
func TestFrozenMetadata(t *testing.T) {
	opt := timeoutOptions()
	opt.DiskBytes = 16 << 20
	opt.External, opt.Volume.DetachOnIO, opt.Volume.ALExtents = true, core.IOPassOn, 67
	s := skipped(t, opt)
	s.promote(s.a)
	s.Run(time.Second)
	s.a.metas[0].Frozen = true
	w := s.startWrite(s.a, 5<<20, 7) // an extent that is not in the activity log
	s.until("the write", func() bool { return w.done })
	require.NoError(t, w.err)
	s.until("diskless", func() bool { return s.st(s.a).Disk == protocol.Diskless })
	s.a.metas[0].thaw()
	s.until("back", func() bool { return s.a.Snapshot().Volumes[0].Hung == 0 })
	done := false
	s.a.Attach(0, func(err error) { done = true; require.NoError(t, err) })
	s.until("attached", func() bool { return done && s.bothUpToDate() && s.oos(s.a) == 0 })
	s.equal()
}

// TestFrozenAlone: without a peer the request fails, in time.
func TestFrozenAlone(t *testing.T) {
	s, n := frozen(t, timeoutOptions(), true)
	n.disks[0].thaw()
	s.SetLink(false)
	s.until("alone", func() bool { return s.st(s.a).Conn < protocol.Connected })
	s.Run(time.Second)
	n.disks[0].Frozen = true
	w := s.startWrite(s.a, 4096, 7)
	s.until("the write", func() bool { return w.done })
	require.ErrorIs(t, w.err, core.ErrIO)
	require.ErrorIs(t, w.err, core.ErrDiskTimeout)
}

// TestFrozenWithoutTimeout: by default everything waits for the disk, and goes on with it.
func TestFrozenWithoutTimeout(t *testing.T) {
	s, n := frozen(t, testOptions(), true)
	w := s.startWrite(s.a, 4096, 7)
	s.Run(20 * time.Second)
	require.False(t, w.done)
	require.Equal(t, protocol.UpToDate, s.st(n).Disk)
	n.disks[0].thaw()
	s.until("the write", func() bool { return w.done })
	require.NoError(t, w.err)
}

// TestTimeoutSwitchedOn: disk-timeout begins to count for what comes after it was set. What
// went to the disk before works on the application's memory, and is waited for.
func TestTimeoutSwitchedOn(t *testing.T) {
	s, n := frozen(t, testOptions(), true)
	first := s.startWrite(s.a, 4096, 7)
	s.Run(10 * time.Second)
	v := s.a.core.Volume(0)
	v.DiskTimeout = diskTimeout
	s.a.mustDo(t, "disk-options", func(cmd *core.Command) { s.a.core.SetVolume(cmd, 0, v) })
	s.Run(10 * time.Second)
	require.Equal(t, protocol.UpToDate, s.st(n).Disk, "nothing has a limit yet")
	second := s.startWrite(s.a, 8192, 8)
	s.until("the second write", func() bool { return second.done })
	require.NoError(t, second.err)
	require.Equal(t, protocol.Failed, s.st(n).Disk, "the first one is still in it")
	require.False(t, first.done)
	n.disks[0].thaw()
	s.until("the first write", func() bool { return first.done && s.st(n).Disk == protocol.Diskless })
	require.NoError(t, first.err)
	s.until("back", func() bool { return n.Snapshot().Volumes[0].Hung == 0 })
}

// TestTimeoutAfterStandstill: a machine that stood still does not blame its disk.
func TestTimeoutAfterStandstill(t *testing.T) {
	s := skipped(t, timeoutOptions())
	s.promote(s.a)
	w := s.startWrite(s.a, 4096, 7)
	s.a.pause()
	s.Run(4 * time.Second)
	s.a.resume()
	s.until("the write", func() bool { return w.done })
	s.Run(time.Second)
	require.Equal(t, protocol.UpToDate, s.st(s.a).Disk)
}

// TestFrozenAttach: an attach that hangs fails.
func TestFrozenAttach(t *testing.T) {
	s := skipped(t, timeoutOptions())
	s.b.mustDo(t, "detach", func(cmd *core.Command) { s.b.core.Detach(cmd, 0, false) })
	s.b.disks[0].Frozen = true
	var got error
	s.b.Attach(0, func(err error) { got = err })
	s.until("the attach failed", func() bool { return got != nil && s.st(s.b).Disk == protocol.Diskless })
	require.ErrorIs(t, got, core.ErrDiskTimeout)
	s.reattach(s.b)
}

// TestForcedDetach lets go of what hangs in a disk, also without a timeout; but for what
// works on the application's memory.
func TestForcedDetach(t *testing.T) {
	for _, onPrimary := range []bool{true, false} {
		s, n := frozen(t, testOptions(), onPrimary)
		w := s.startWrite(s.a, 4096, 7)
		s.Run(time.Second)
		done := false
		n.Command(func(cmd *core.Command) { n.core.Detach(cmd, 0, true) }, func(err error) { done = true; require.NoError(t, err) })
		s.Run(10 * time.Second)
		require.Equal(t, !onPrimary, done)
		require.Equal(t, !onPrimary, w.done)
		if !onPrimary {
			s.reattach(n)
			continue
		}
		n.disks[0].thaw()
		s.until("detached", func() bool { return done && w.done })
		require.NoError(t, w.err)
	}
}

// TestTimeoutCallsHandler: local-io-error runs before the peer hears of it.
func TestTimeoutCallsHandler(t *testing.T) {
	opt := timeoutOptions()
	opt.Volume.DetachOnIO = core.IOCallLocalIOError
	var calls []string
	opt.Core = func(_ int, cfg *core.Config) { cfg.Handlers = true }
	opt.Call = func(n *Node, call *core.Call) (func() int, time.Duration) {
		calls = append(calls, call.Name)
		require.Equal(t, protocol.UpToDate, func() protocol.DiskState { s, _ := n.c.Nodes[1-n.idx].State(0); return s.PeerDisk }())
		return func() int { return 0 }, time.Second
	}
	s, n := frozen(t, opt, true)
	w := s.startWrite(s.a, 4096, 7)
	s.until("the write", func() bool { return w.done })
	s.until("diskless", func() bool { return s.st(n).Disk == protocol.Diskless })
	require.Equal(t, []string{core.HandlerLocalIOError}, calls)
}

// TestRandomDiskTimeout plays the random scripts with disks that are given up when they
// stop.
func TestRandomDiskTimeout(t *testing.T) {
	n := uint64(*seedsFlag)
	if n == 0 {
		n = 60
		if testing.Short() || raceEnabled {
			n = 12
		}
	}
	var all Figures
	for seed := uint64(1); seed <= n; seed++ {
		if *seedFlag != 0 && seed != *seedFlag {
			continue
		}
		s := PlanDiskTimeout(seed)
		if s.Options.Reckless {
			continue
		}
		r, err := Play(s, *seedFlag != 0)
		if err != nil {
			t.Logf("%s", r.Trace())
			t.Fatalf("seed %d: %v", seed, err)
		}
		all.Add(r.Figures)
	}
	require.NotZero(t, all.Writes)
	t.Logf("%v", all)
}
