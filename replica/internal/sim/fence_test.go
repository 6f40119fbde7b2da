// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// handlers answers the calls of both nodes, and counts them.
type handlers struct {
	codes map[string]int // per name; 0 if missing
	takes time.Duration
	only  string // the others take no time; empty for none
	calls [2]map[string]int
}

func (h *handlers) call(n *Node, call *core.Call) (func() int, time.Duration) {
	if h.calls[n.idx] == nil {
		h.calls[n.idx] = map[string]int{}
	}
	h.calls[n.idx][call.Name]++
	code := h.codes[call.Name]
	if h.only != "" && call.Name != h.only {
		return func() int { return code }, 0
	}
	return func() int { return code }, h.takes
}

func fencingOptions(f core.Fencing, h *handlers) Options {
	opt := testOptions()
	opt.Volume.Fencing = f
	opt.Core = func(_ int, cfg *core.Config) { cfg.Fencer = true }
	opt.Call = h.call
	return opt
}

// begin submits a write and returns how it ended: done is false until it has.
func (s *scene) begin(n *Node, off int64, fill byte) *struct {
	done bool
	err  error
} {
	r := &struct {
		done bool
		err  error
	}{}
	n.IO(&core.IO{Kind: core.IOWrite, Off: off, Len: 4096, Buf: bytes.Repeat([]byte{fill}, 4096)}, func(err error) { r.done, r.err = true, err })
	return r
}

func (s *scene) wasSuspended(n *Node) bool {
	for _, e := range n.Events {
		if e.Kind == core.EventState && (e.New.SuspFencing || e.New.SuspNoData) {
			return true
		}
	}
	return false
}

// TestFencingMatrix is S23 (a): a Primary loses its peer, by force or gracefully.
func TestFencingMatrix(t *testing.T) {
	for _, policy := range []core.Fencing{core.FencingDontCare, core.FencingResourceOnly, core.FencingResourceAndStonith} {
		for code := 3; code <= 8; code++ {
			for _, loss := range []string{"forced", "graceful by the Primary", "graceful by the Secondary"} {
				t.Run(fmt.Sprintf("policy %d, exit code %d, %s", policy, code, loss), func(t *testing.T) {
					h := &handlers{codes: map[string]int{"fence-peer": code}, takes: time.Second}
					s := skipped(t, fencingOptions(policy, h))
					s.promote(s.a)
					s.write(s.a, 0, 1, 4096)
					switch loss {
					case "forced":
						s.SetLink(false)
						s.until("lost", func() bool { return s.st(s.a).Conn < protocol.Connected })
						s.forced(policy, code, h)
						s.SetLink(true)
					default:
						n := s.a
						if loss == "graceful by the Secondary" {
							n = s.b
						}
						s.disconnect(n)
						s.until("apart", func() bool { return s.st(s.a).Conn < protocol.Connected && s.st(s.b).Conn < protocol.Connected })
						s.Run(3 * time.Second)
						s.graceful(policy, h)
						if s.st(n).Conn == protocol.StandAlone {
							s.connect(n, core.ConnectOptions{})
						}
					}
					s.until("in sync again", s.bothUpToDate)
					require.False(t, s.st(s.a).SuspFencing)
					s.write(s.a, 8192, 3, 4096)
					s.equal()
				})
			}
		}
	}
}

// forced checks what a forced loss leads to. The handler takes a second.
func (s *scene) forced(policy core.Fencing, code int, h *handlers) {
	t := s.t
	w := s.begin(s.a, 4096, 2)
	s.Run(500 * time.Millisecond)
	stonith := policy == core.FencingResourceAndStonith
	require.Equal(t, stonith, s.st(s.a).SuspFencing, "until the handler has returned")
	require.Equal(t, !stonith, w.done)
	s.Run(time.Second)
	st := s.st(s.a)
	want := map[int]protocol.DiskState{3: protocol.Inconsistent, 4: protocol.Outdated, 5: protocol.Outdated, 7: protocol.Outdated}[code]
	calls := h.calls[0]["fence-peer"]
	if policy == core.FencingDontCare {
		require.Zero(t, calls)
		want = protocol.DUnknown
	} else {
		require.Equal(t, 1, calls)
		if want == 0 {
			want = protocol.DUnknown
		}
	}
	require.Equal(t, want, st.PeerDisk)
	require.Equal(t, protocol.UpToDate, st.Disk, "a Primary does not outdate itself")
	if stonith && want == protocol.DUnknown {
		require.True(t, st.SuspFencing, "nobody has fenced the peer")
		require.False(t, w.done)
		s.a.mustDo(t, "resume", func(cmd *core.Command) { s.a.core.SetSuspended(cmd, false) })
	}
	s.until("the write", func() bool { return w.done })
	require.NoError(t, w.err)
	require.False(t, s.st(s.a).SuspFencing)
	if !stonith {
		require.False(t, s.wasSuspended(s.a))
	}
	require.NotZero(t, s.a.Snapshot().Volumes[0].IDs.Bitmap, "a generation of its own")
}

// graceful: the nodes outdate the Secondary themselves.
func (s *scene) graceful(policy core.Fencing, h *handlers) {
	t := s.t
	require.Zero(t, h.calls[0]["fence-peer"])
	require.Zero(t, h.calls[1]["fence-peer"])
	require.False(t, s.wasSuspended(s.a))
	if policy == core.FencingDontCare {
		require.Equal(t, protocol.DUnknown, s.st(s.a).PeerDisk)
		require.Equal(t, protocol.UpToDate, s.st(s.b).Disk)
		return
	}
	require.Equal(t, protocol.Outdated, s.st(s.a).PeerDisk)
	require.Equal(t, protocol.Outdated, s.st(s.b).Disk)
	// Outdated over restarts, and not to be promoted.
	s.b.Crash(true)
	s.b.Boot()
	s.Run(time.Second)
	require.Equal(t, protocol.Outdated, s.st(s.b).Disk)
	err := s.try(s.b, func(cmd *core.Command) { s.b.core.Promote(cmd, false) })
	require.ErrorIs(t, err, core.ErrNoUpToDateData)
	s.connect(s.b, core.ConnectOptions{})
}

// try runs a command and returns its error.
func (s *scene) try(n *Node, run func(*core.Command)) error {
	s.t.Helper()
	done, got := false, error(nil)
	n.Command(run, func(err error) { done, got = true, err })
	s.until("the command", func() bool { return done })
	return got
}

// TestFencingPromotion is S23 (b): promoted after the peer was lost.
func TestFencingPromotion(t *testing.T) {
	for _, policy := range []core.Fencing{core.FencingDontCare, core.FencingResourceOnly, core.FencingResourceAndStonith} {
		for code := 3; code <= 8; code++ {
			for _, restarted := range []bool{false, true} {
				t.Run(fmt.Sprintf("policy %d, exit code %d, restarted %v", policy, code, restarted), func(t *testing.T) {
					h := &handlers{codes: map[string]int{"fence-peer": code}, takes: time.Second}
					s := skipped(t, fencingOptions(policy, h))
					s.SetLink(false)
					s.until("lost", func() bool { return s.st(s.a).Conn < protocol.Connected })
					if restarted {
						s.a.Crash(true)
						s.a.Boot()
						s.Run(time.Second)
						want := protocol.Consistent
						if policy == core.FencingDontCare {
							want = protocol.UpToDate
						}
						require.Equal(t, want, s.st(s.a).Disk)
					}
					require.Zero(t, h.calls[0]["fence-peer"], "nobody is Primary")
					err := s.try(s.a, func(cmd *core.Command) { s.a.core.Promote(cmd, false) })
					allowed := policy == core.FencingDontCare || code < 6 || code == 7
					if restarted && code == 5 && policy != core.FencingDontCare {
						// Not reached, and no disk here is known to be good.
						allowed = false
					}
					require.False(t, s.wasSuspended(s.a))
					if !allowed {
						require.ErrorIs(t, err, core.ErrRefused)
						require.Equal(t, protocol.Secondary, s.st(s.a).Role)
						if code == 6 {
							require.Equal(t, protocol.Outdated, s.st(s.a).Disk)
						}
						return
					}
					require.NoError(t, err)
					require.Equal(t, protocol.UpToDate, s.st(s.a).Disk)
					s.write(s.a, 0, 1, 4096)
					s.SetLink(true)
					if restarted {
						s.connect(s.a, core.ConnectOptions{})
					}
					s.until("in sync", s.bothUpToDate)
					s.equal()
				})
			}
		}
	}
}

// A forced promotion goes on without the handler's consent.
func TestFencingForced(t *testing.T) {
	h := &handlers{codes: map[string]int{"fence-peer": 1}}
	s := skipped(t, fencingOptions(core.FencingResourceAndStonith, h))
	s.SetLink(false)
	s.until("lost", func() bool { return s.st(s.a).Conn < protocol.Connected })
	err := s.try(s.a, func(cmd *core.Command) { s.a.core.Promote(cmd, false) })
	require.ErrorIs(t, err, protocol.CodePeerNotOutdated)
	require.ErrorContains(t, err, "Refusing to be Primary while peer is not outdated")
	s.a.mustDo(t, "promote by force", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
	require.Equal(t, protocol.Outdated, s.st(s.a).PeerDisk)
	require.False(t, s.st(s.a).SuspFencing)
}

// The peer is back before the handler has an answer: writes in flight end, and both
// disks hold them, although no generation has begun for the handler.
func TestFrozenUntilPeerReturns(t *testing.T) {
	for seed := range uint64(20) {
		h := &handlers{takes: -1}
		opt := fencingOptions(core.FencingResourceAndStonith, h)
		c := New(seed, opt)
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.bootConnected()
		s.promote(s.a)
		ws := []*struct {
			done bool
			err  error
		}{}
		for i := range 32 {
			ws = append(ws, s.begin(s.a, int64(i)*4096, byte(i+1)))
			s.Run(time.Duration(s.rng.Int64N(int64(500 * time.Microsecond))))
		}
		s.SetLink(false)
		s.until("lost", func() bool { return s.st(s.a).SuspFencing })
		s.Run(2 * time.Second)
		require.True(t, s.st(s.a).SuspFencing)
		if seed%2 == 1 {
			s.b.Crash(true) // its cache is lost, too
			s.b.Boot()
			s.Run(time.Second)
			s.connect(s.b, core.ConnectOptions{})
		}
		s.SetLink(true)
		s.until("released", func() bool { return !s.st(s.a).SuspFencing })
		s.until("in sync", s.bothUpToDate)
		for i, w := range ws {
			s.until("the write", func() bool { return w.done })
			require.NoError(t, w.err, i)
		}
		s.demote(s.a)
		s.Run(time.Second)
		s.equal()
		require.Zero(t, s.oos(s.a))
	}
}

// bootConnected boots both nodes and connects them, both UpToDate.
func (s *scene) bootConnected() {
	s.t.Helper()
	for _, n := range s.Nodes {
		n.Boot()
	}
	s.Run(time.Second)
	for _, n := range s.Nodes {
		s.connect(n, core.ConnectOptions{})
	}
	s.until("connected", func() bool { return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected })
	for v := range s.a.disks {
		s.a.mustDo(s.t, "skip the initial sync", func(cmd *core.Command) { s.a.core.NewCurrentUUID(cmd, v, true) })
	}
	s.until("skipped", s.bothUpToDate)
}

// A frozen Primary that is closed: what it wrote and never acknowledged to anybody is
// still the same on both nodes in the end.
func TestCloseFrozen(t *testing.T) {
	h := &handlers{takes: -1}
	s := skipped(t, fencingOptions(core.FencingResourceAndStonith, h))
	s.promote(s.a)
	w := s.begin(s.a, 0, 7)
	s.SetLink(false)
	s.until("frozen", func() bool { return s.st(s.a).SuspFencing })
	s.Run(time.Second)
	require.False(t, w.done)
	s.a.mustDo(t, "shut down", func(cmd *core.Command) { s.a.core.Shutdown(cmd) })
	require.True(t, w.done)
	require.ErrorIs(t, w.err, core.ErrClosed)
	s.a.Crash(false)
	s.SetLink(true)
	s.a.Boot()
	s.Run(time.Second)
	s.connect(s.a, core.ConnectOptions{})
	s.until("in sync", s.bothUpToDate)
	s.equal()
}

// After a resync the source's node tells that the fence can go.
func TestUnfence(t *testing.T) {
	h := &handlers{codes: map[string]int{"fence-peer": 4}}
	s := skipped(t, fencingOptions(core.FencingResourceOnly, h))
	s.promote(s.a)
	s.SetLink(false)
	s.until("fenced", func() bool { return s.st(s.a).PeerDisk == protocol.Outdated })
	s.write(s.a, 0, 1, 4096)
	s.SetLink(true)
	s.until("in sync", s.bothUpToDate)
	s.Run(time.Second)
	names := []string{}
	for _, e := range s.a.Events {
		if e.Kind == core.EventHandler {
			names = append(names, e.Text)
		}
	}
	require.Equal(t, []string{"fence-peer", "before-resync-source", "unfence-peer"}, names)
	require.Contains(t, s.b.handlerEvents(), "after-resync-target")
}

func (n *Node) handlerEvents() []string {
	var names []string
	for _, e := range n.Events {
		if e.Kind == core.EventHandler {
			names = append(names, e.Text)
		}
	}
	return names
}

// A before-resync handler that refuses ends the connection, and nothing was written.
func TestBeforeResyncRefuses(t *testing.T) {
	for _, name := range []string{core.HandlerBeforeResyncTarget, core.HandlerBeforeResyncSource} {
		for _, code := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%s returns %d", name, code), func(t *testing.T) {
				h := &handlers{codes: map[string]int{name: code}, takes: 3 * time.Second, only: name}
				opt := testOptions()
				opt.Core = func(_ int, cfg *core.Config) { cfg.Handlers = true }
				opt.Call = h.call
				s := skipped(t, opt)
				s.promote(s.a)
				s.SetLink(false)
				s.until("lost", func() bool { return s.st(s.a).Conn < protocol.Connected })
				s.write(s.a, 0, 1, 64<<10)
				before := bytes.Clone(s.b.disks[0].Bytes()[:1<<20])
				s.SetLink(true)
				s.until("asked", func() bool { return s.st(s.b).Conn == protocol.WFSyncUUID })
				if name == core.HandlerBeforeResyncTarget {
					s.until("feeding", func() bool { return s.st(s.a).Conn == protocol.SyncSource })
				}
				w := s.begin(s.a, 1<<19, 9) // while the handler runs
				s.Run(2 * time.Second)
				require.Equal(t, before, s.b.disks[0].Bytes()[:1<<20], "nothing is overwritten before the handler has ended")
				if code == 0 || code == 3 && name == core.HandlerBeforeResyncSource {
					s.until("in sync", s.bothUpToDate)
					s.until("the write", func() bool { return w.done })
					require.NoError(t, w.err)
					s.equal()
					return
				}
				n := s.a
				if name == core.HandlerBeforeResyncTarget {
					n = s.b
				}
				s.until("StandAlone", func() bool { return s.st(n).Conn == protocol.StandAlone })
				require.Equal(t, before, s.b.disks[0].Bytes()[:1<<20])
				refused := false
				for _, e := range n.Events {
					refused = refused || e.Kind == core.EventRefused && errors.Is(e.Err, core.ErrHandler)
				}
				require.True(t, refused)
				h.codes = nil
				s.connect(n, core.ConnectOptions{})
				s.until("in sync", s.bothUpToDate)
				s.equal()
			})
		}
	}
}

// local-io-error runs before the peer hears of the failed disk.
func TestLocalIOErrorFirst(t *testing.T) {
	h := &handlers{takes: 5 * time.Second}
	opt := testOptions()
	opt.Volume.DetachOnIO = core.IOCallLocalIOError
	opt.Core = func(_ int, cfg *core.Config) { cfg.Handlers = true }
	opt.Call = h.call
	s := skipped(t, opt)
	s.promote(s.a)
	s.a.disks[0].FailWrites = true
	w := s.begin(s.a, 0, 1)
	s.until("failed", func() bool { return s.st(s.a).Disk == protocol.Failed })
	s.Run(2 * time.Second)
	require.Equal(t, protocol.UpToDate, s.st(s.b).PeerDisk, "the handler still runs")
	require.Equal(t, protocol.Failed, s.st(s.a).Disk)
	s.until("told", func() bool { return s.st(s.b).PeerDisk == protocol.Diskless && s.st(s.a).Disk == protocol.Diskless })
	s.until("the write", func() bool { return w.done })
	require.NoError(t, w.err)
}

// A Secondary that was left under fencing is Outdated on its disk by the time the
// Primary has gone: a power failure then does not change that.
func TestConsentIsDurable(t *testing.T) {
	for seed := range uint64(20) {
		c := New(seed, fencingOptions(core.FencingResourceOnly, &handlers{}))
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.bootConnected()
		s.promote(s.a)
		s.Run(time.Second)
		s.a.Command(func(cmd *core.Command) { s.a.core.Disconnect(cmd, 0, false) }, func(error) {})
		s.until("agreed", func() bool { return s.st(s.a).PeerDisk == protocol.Outdated })
		s.b.Crash(true)
		s.b.Boot()
		s.Run(time.Second)
		require.Equal(t, protocol.Outdated, s.st(s.b).Disk, seed)
	}
}

// Under protocol A a Primary whose own disk is not good waits for the peer's.
func TestTargetWritesWaitForThePeer(t *testing.T) {
	for _, target := range []bool{false, true} {
		opt := testOptions()
		opt.Net.Protocol = protocol.ProtocolA
		opt.Volume.ResyncRate = 64
		s := skipped(t, opt)
		s.promote(s.a)
		if target {
			s.a.mustDo(t, "invalidate", func(cmd *core.Command) { s.a.core.Invalidate(cmd, 0) })
			s.until("target", func() bool { return s.st(s.a).Conn == protocol.SyncTarget })
		} else {
			s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
		}
		s.Run(time.Second)
		s.b.disks[0].Frozen = true
		w := s.begin(s.a, 1<<20, 7)
		s.Run(time.Second)
		require.False(t, w.done)
		s.b.disks[0].thaw()
		s.until("the write", func() bool { return w.done })
		require.NoError(t, w.err)
	}
}
