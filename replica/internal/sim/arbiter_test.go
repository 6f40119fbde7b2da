// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

func arbitrated(t *testing.T, seed uint64, a *arbiter) *scene {
	opt := testOptions()
	opt.Core = func(_ int, cfg *core.Config) { cfg.Arbiter = true }
	opt.Call = a.call
	a.owner = map[string]int{}
	c := New(seed, opt)
	s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
	s.bootConnected()
	s.promote(s.a)
	s.write(s.a, 0, 1, 4096)
	return s
}

// Both nodes lose each other, and the other one is to take over at the same time:
// exactly one goes on.
func TestArbiterExactlyOne(t *testing.T) {
	wins := [2]int{}
	for seed := range uint64(60) {
		a := &arbiter{}
		s := arbitrated(t, seed, a)
		a.takes = time.Duration(s.rng.Int64N(int64(20 * time.Millisecond)))
		w := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 4096, Buf: make([]byte, 4096)})
		s.SetLink(false)
		promoted := &result{}
		s.after(time.Duration(s.rng.Int64N(int64(10*time.Millisecond))), func() {
			s.b.Command(func(cmd *core.Command) { s.b.core.Promote(cmd, false) }, func(err error) { promoted.done, promoted.err = true, err })
		})
		s.until("an answer", func() bool { return promoted.done })
		s.Run(10 * time.Second)
		aGoes, bGoes := w.done && w.err == nil && !s.st(s.a).SuspFencing, promoted.err == nil
		if w.done && w.err == nil && bGoes {
			aGoes = !s.st(s.a).SuspFencing // it was on both disks before the cut
		}
		require.NotEqual(t, aGoes, bGoes, "seed %d: a %v, b %v", seed, s.st(s.a), s.st(s.b))
		if aGoes {
			wins[0]++
			require.ErrorIs(t, promoted.err, core.ErrNoQuorum)
			s.write(s.a, 8192, 7, 4096)
			s.SetLink(true)
			s.until("in sync", s.bothUpToDate)
			s.equal()
			continue
		}
		wins[1]++
		require.Contains(t, s.a.handlerEvents(), core.HandlerQuorumLost)
		s.write(s.b, 8192, 8, 4096)
		// The loser gives up: its requests end, and it becomes the target. No split brain.
		s.SetLink(true)
		s.a.mustDo(t, "shut down", func(cmd *core.Command) { s.a.core.Shutdown(cmd) })
		s.a.Crash(false)
		s.a.Boot()
		s.Run(time.Second)
		for _, n := range s.Nodes {
			if s.st(n).Conn == protocol.StandAlone {
				s.connect(n, core.ConnectOptions{})
			}
		}
		s.until("in sync", s.bothUpToDate)
		s.equal()
		require.Equal(t, byte(8), s.read(s.b, 8192, 4096)[0])
	}
	require.NotZero(t, wins[0])
	require.NotZero(t, wins[1])
}

// Nobody reaches the arbiter: nobody goes on; with the link, or the arbiter, back the
// Primary does.
func TestArbiterUnreachable(t *testing.T) {
	for _, back := range []string{"link", "arbiter", "slow arbiter", "link, then late answer"} {
		t.Run(back, func(t *testing.T) {
			a := &arbiter{down: [2]bool{true, true}, takes: time.Second}
			if back == "link, then late answer" {
				a.takes = time.Minute
			}
			s := arbitrated(t, 1, a)
			s.SetLink(false)
			s.until("frozen", func() bool { return s.st(s.a).SuspFencing })
			w := s.submit(s.a, &core.IO{Kind: core.IOWrite, Off: 4096, Buf: make([]byte, 4096)})
			require.ErrorIs(t, s.try(s.b, func(cmd *core.Command) { s.b.core.Promote(cmd, false) }), core.ErrArbiterUnreachable)
			s.Run(10 * time.Second)
			require.False(t, w.done)
			switch back {
			case "slow arbiter":
				a.down, a.takes = [2]bool{}, 20*time.Second
			case "arbiter":
				a.down = [2]bool{}
			default:
				a.down = [2]bool{}
				s.SetLink(true)
			}
			s.until("the write", func() bool { return w.done })
			require.NoError(t, w.err)
			s.SetLink(true)
			s.Run(2 * time.Minute) // the late answer comes
			s.until("in sync", s.bothUpToDate)
			s.equal()
			require.False(t, s.st(s.a).SuspFencing)
		})
	}
}

// The arbiter decides, its answers are lost, and the nodes meet again. What was granted
// then is used up: whoever is left alone later can go on.
func TestArbiterAnswerLost(t *testing.T) {
	a := &arbiter{loses: true}
	s := arbitrated(t, 3, a)
	for round := range 4 {
		s.Run(time.Second) // every write is acknowledged by its barrier: nothing is marked
		s.SetLink(false)
		s.until("frozen", func() bool { return s.st(s.a).SuspFencing })
		s.Run(5 * time.Second)
		require.True(t, s.st(s.a).SuspFencing)
		s.SetLink(true)
		s.until("released", func() bool { return !s.st(s.a).SuspFencing })
		s.until("in sync", s.bothUpToDate)
		s.write(s.a, 4096, byte(round), 4096)
	}
	s.equal()
	a.loses = false
	s.a.Crash(true)
	s.until("alone", func() bool { return s.st(s.b).Conn < protocol.Connected })
	s.promote(s.b)
	s.write(s.b, 0, 9, 4096)
	s.a.Boot()
	s.Run(time.Second)
	require.ErrorIs(t, s.try(s.a, func(cmd *core.Command) { s.a.core.Promote(cmd, false) }), core.ErrNoQuorum)
	s.connect(s.a, core.ConnectOptions{})
	s.until("in sync", s.bothUpToDate)
	s.equal()
}

// The arbiter comes first, the fence-peer handler of the winner second.
func TestArbiterThenFence(t *testing.T) {
	for _, policy := range []core.Fencing{core.FencingResourceOnly, core.FencingResourceAndStonith} {
		var order []string
		opt := testOptions()
		opt.Volume.Fencing = policy
		opt.Core = func(_ int, cfg *core.Config) { cfg.Arbiter, cfg.Fencer = true, true }
		opt.Call = func(n *Node, call *core.Call) (func() int, time.Duration) {
			order = append(order, fmt.Sprintf("%d %s", n.idx, call.Name))
			code := core.ArbiterGranted
			if call.Name == core.HandlerFencePeer {
				code = core.FencePeerOutdated
			}
			return func() int { return code }, time.Second
		}
		s := skipped(t, opt)
		s.promote(s.a)
		s.SetLink(false)
		s.until("fenced", func() bool { return s.st(s.a).PeerDisk == protocol.Outdated && !s.st(s.a).SuspFencing })
		require.Equal(t, []string{"0 arbiter", "0 fence-peer"}, order)
		s.write(s.a, 0, 1, 4096)
	}
}

// A node that the arbiter denied fails its requests, if that is the policy.
func TestQuorumLostIOError(t *testing.T) {
	opt := testOptions()
	opt.Core = func(_ int, cfg *core.Config) { cfg.Arbiter, cfg.QuorumLostIOError = true, true }
	opt.Call = func(*Node, *core.Call) (func() int, time.Duration) {
		return func() int { return core.ArbiterDenied }, time.Second
	}
	s := skipped(t, opt)
	s.promote(s.a)
	s.SetLink(false)
	s.until("frozen", func() bool { return s.st(s.a).SuspFencing })
	require.ErrorIs(t, s.io(s.a, &core.IO{Kind: core.IOWrite, Off: 0, Buf: make([]byte, 512)}), core.ErrNoQuorum)
	require.ErrorIs(t, s.try(s.b, func(cmd *core.Command) { s.b.core.Promote(cmd, false) }), core.ErrNoQuorum)
	s.b.mustDo(t, "promote by force", func(cmd *core.Command) { s.b.core.Promote(cmd, true) })
	s.write(s.b, 0, 1, 4096)
}
