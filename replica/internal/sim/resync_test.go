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

// pacedWriter writes size bytes every interval, at offsets that go round a range of
// the first volume. Each write waits for nothing but its turn.
type pacedWriter struct {
	s         *scene
	n         *Node
	every     time.Duration
	size      int64
	from, end int64
	off       int64
	fill      byte
	on        bool
	inFlight  int
	written   int64
	failed    error
}

func (w *pacedWriter) start() {
	w.on, w.off = true, w.from
	w.s.after(0, w.step)
}

func (w *pacedWriter) step() {
	if !w.on {
		return
	}
	w.fill++
	buf := bytes.Repeat([]byte{w.fill | 1}, int(w.size))
	w.inFlight++
	w.n.IO(&core.IO{Kind: core.IOWrite, Off: w.off, Len: w.size, Buf: buf}, func(err error) {
		w.inFlight--
		w.written += w.size
		if err != nil {
			w.failed = err
		}
	})
	if w.off += w.size; w.off+w.size > w.end {
		w.off = w.from
	}
	w.s.after(w.every, w.step)
}

// stop ends the writer and waits for what it has begun.
func (w *pacedWriter) stop() {
	w.s.t.Helper()
	w.on = false
	w.s.until("the writer's last requests", func() bool { return w.inFlight == 0 })
	require.NoError(w.s.t, w.failed)
}

// dirty writes n bytes on a while b is away.
func (s *scene) dirty(n int64) {
	s.t.Helper()
	s.disconnect(s.b)
	for off := int64(0); off < n; off += 1 << 20 {
		s.write(s.a, off, byte(off>>20)|1, int(min(1<<20, n-off)))
	}
}

// timeSync connects b and returns how long its resync took.
func (s *scene) timeSync() time.Duration {
	s.t.Helper()
	s.connect(s.b, core.ConnectOptions{})
	s.until("target", func() bool { return s.st(s.b).Conn == protocol.SyncTarget })
	began := s.now
	s.until("synced", s.bothUpToDate)
	return s.now - began
}

// TestResyncRates: a fixed rate is kept; the controller reaches c-max-rate and keeps
// below it; without either it is as fast as it goes.
func TestResyncRates(t *testing.T) {
	for _, tc := range []struct {
		name     string
		set      core.VolumeConfig
		from, to time.Duration // for 4 MiB
	}{
		{"fixed 1 MiB/s", core.VolumeConfig{ResyncRate: 1024, CMaxRate: 100}, 3800 * time.Millisecond, 4500 * time.Millisecond},
		{"fixed 16 MiB/s", core.VolumeConfig{ResyncRate: 16 << 10}, 200 * time.Millisecond, 600 * time.Millisecond},
		{"controller, at most 2 MiB/s", core.VolumeConfig{ResyncRate: 1024, CPlanAhead: 5, CFill: 2048, CMaxRate: 2048}, 1900 * time.Millisecond, 3 * time.Second},
		{"controller of DRBD", core.VolumeConfig{ResyncRate: 250, CPlanAhead: 20, CDelay: 10, CFill: 100, CMaxRate: 102400}, 4 * time.Second, 20 * time.Second},
		{"no limit", core.VolumeConfig{CMaxRate: 100}, 0, 400 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := testOptions()
			opt.DiskBytes = 6 << 20
			tc.set.DiskFlushes = true
			opt.Volume = tc.set
			s := skipped(t, opt)
			s.promote(s.a)
			s.dirty(4 << 20)
			took := s.timeSync()
			require.GreaterOrEqual(t, took, tc.from)
			require.LessOrEqual(t, took, tc.to)
			s.equal()
		})
	}
}

// TestMinRate is scenario S11: while the application writes, the resync keeps to
// c-min-rate, and gets that; without it, it does not make way.
func TestMinRate(t *testing.T) {
	for _, throttle := range []bool{true, false} {
		opt := testOptions()
		opt.DiskBytes, opt.Trace = 42<<20, false
		opt.Volume = core.VolumeConfig{DiskFlushes: true, ResyncRate: 40 << 10, CPlanAhead: 20, CFill: 2048, CMaxRate: 40 << 10}
		if throttle {
			opt.Volume.CMinRate = 5 << 10
		}
		s := skipped(t, opt)
		s.promote(s.a)
		s.dirty(20 << 20)
		w := &pacedWriter{s: s, n: s.a, every: 12500 * time.Microsecond, size: 256 << 10, from: 20 << 20, end: 40 << 20}
		w.start()
		took := s.timeSync()
		w.stop()
		if throttle {
			require.GreaterOrEqual(t, took, 3*time.Second)
			require.LessOrEqual(t, took, 16*time.Second)
		} else {
			require.Less(t, took, 2*time.Second)
		}
		s.equal()
	}
}

// TestSourceYields: the application reads, of which the target's disk knows nothing. The
// source holds the resync back to c-min-rate, and no request of it is forgotten.
func TestSourceYields(t *testing.T) {
	free := time.Duration(0)
	for _, minRate := range []uint32{0, 2 << 10} {
		opt := testOptions()
		opt.DiskBytes, opt.Trace = 24<<20, false
		opt.Volume = core.VolumeConfig{DiskFlushes: true, ResyncRate: 40 << 10, CMinRate: minRate}
		s := skipped(t, opt)
		s.promote(s.a)
		s.dirty(20 << 20)
		reads, stop := 0, false
		var read func()
		read = func() {
			if stop {
				return
			}
			reads++
			s.a.IO(&core.IO{Kind: core.IORead, Len: 64 << 10, Buf: make([]byte, 64<<10)}, func(err error) {
				require.NoError(t, err)
				s.after(10*time.Millisecond, read)
			})
		}
		read()
		took := s.timeSync()
		stop = true
		if minRate == 0 {
			free = took
		} else {
			require.Greater(t, took, 2*free)
			require.Less(t, took, 20*time.Second)
		}
		require.Positive(t, reads)
		require.True(t, s.nothingPending())
		s.equal()
	}
}

// TestResyncStartsUnderWrites is scenario S10: the target's resync begins while writes
// of protocol A are on their way.
func TestResyncStartsUnderWrites(t *testing.T) {
	opt := testOptions()
	opt.DiskBytes, opt.Trace = 9<<20, false
	opt.Net.Protocol = protocol.ProtocolA
	s := skipped(t, opt)
	s.maxDelay = 25 * time.Millisecond
	s.promote(s.a)
	w := &pacedWriter{s: s, n: s.a, every: 6 * time.Millisecond, size: 64 << 10, end: 8 << 20}
	w.start()
	for range 4 {
		s.Run(200 * time.Millisecond)
		s.disconnect(s.b)
		s.Run(time.Second)
		s.mark()
		s.connect(s.b, core.ConnectOptions{})
		s.until("synced", s.bothUpToDate)
		s.never(lossStates...)
	}
	w.stop()
	s.demote(s.a)
	s.equal()
}

// TestResyncIsCut is scenario S13: the resync is cut when a fifth is done, by a
// command, by a broken link, by a crash of the target; nothing stays pending, and it
// goes on from there.
func TestResyncIsCut(t *testing.T) {
	for _, how := range []string{"disconnect", "cut", "crash", "power failure"} {
		for _, writes := range []bool{false, true} {
			t.Run(how, func(t *testing.T) {
				opt := testOptions()
				opt.DiskBytes, opt.Trace = 9<<20, false
				opt.Volume.ResyncRate = 4 << 10
				s := skipped(t, opt)
				s.promote(s.a)
				s.dirty(8 << 20)
				s.connect(s.b, core.ConnectOptions{})
				w := &pacedWriter{s: s, n: s.a, every: 31 * time.Millisecond, size: 64 << 10, end: 8 << 20}
				if writes {
					w.start()
				}
				s.until("a fifth is done", func() bool {
					r := s.b.Snapshot().Volumes[0].Resync
					return r != nil && r.Left <= r.Total*4/5
				})
				s.cutResync(how)
				w.stop()
				s.until("nothing is pending", func() bool { return s.nothingPending() })
				left := s.oos(s.a)
				require.Less(t, left, uint64(8<<20/4096))
				s.resumeResync(how)
				s.until("synced", s.bothUpToDate)
				s.demote(s.a)
				s.equal()
			})
		}
	}
}

func (s *scene) cutResync(how string) {
	switch how {
	case "disconnect":
		s.disconnect(s.b)
	case "cut":
		s.SetLink(false)
	default:
		s.b.Crash(how == "power failure")
	}
	s.until("cut", func() bool {
		st, up := s.b.State(0)
		return s.st(s.a).Conn < protocol.Connected && (!up || st.Conn < protocol.Connected)
	})
}

func (s *scene) resumeResync(how string) {
	switch how {
	case "disconnect":
		s.connect(s.b, core.ConnectOptions{})
	case "cut":
		s.SetLink(true)
	default:
		s.b.Boot()
		s.until("attached", func() bool { return s.st(s.b).Disk == protocol.Inconsistent })
		s.connect(s.b, core.ConnectOptions{})
	}
}

// nothingPending reports whether no counter says that somebody waits.
func (s *scene) nothingPending() bool {
	for _, n := range s.Nodes {
		if n.core == nil {
			continue
		}
		snap := n.Snapshot()
		v := snap.Volumes[0]
		if v.Pending+v.Unacked+v.AppPending+v.LocalPending > 0 || snap.Peers[0].APInFlight > 0 {
			return false
		}
	}
	return true
}
