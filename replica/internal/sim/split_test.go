// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// splitCase is a split brain: node a was Primary when the link broke, b was promoted
// after that. Both wrote some blocks, and some are still Primary when they meet.
type splitCase struct {
	zero, one, two protocol.Policy // of a; b has the mirror
	rr             metadata.RRConflict
	blocks         [2]int
	primary        [2]bool
	winner         int    // index, or nobody
	alone          [2]int // if nobody wins: which node must be StandAlone (1), may be anything (0)
	handler        string // that the loser calls
}

const undecided = -1

func (c *splitCase) String() string {
	return fmt.Sprintf("%v,%v,%v,%v,blocks %v,Primary %v", c.zero, c.one, c.two, c.rr, c.blocks, c.primary)
}

// after0 is what after-sb-0pri says, worked out from the documentation alone.
func after0(p protocol.Policy, blocks [2]int) int {
	more := undecided
	if blocks[0] > blocks[1] {
		more = 0
	} else if blocks[1] > blocks[0] {
		more = 1
	}
	switch p {
	case protocol.PolicyDiscardYoungerPrimary:
		return 0
	case protocol.PolicyDiscardOlderPrimary:
		return 1
	case protocol.PolicyDiscardZeroChanges:
		if blocks[0] > 0 && blocks[1] > 0 {
			return undecided
		}
		return more
	case protocol.PolicyDiscardLeastChanges:
		return more
	case protocol.PolicyDiscardLocal: // of a
		return 1
	case protocol.PolicyDiscardRemote:
		return 0
	}
	return undecided
}

// splitCases are all values of after-sb-0pri, -1pri and -2pri, with every combination of
// roles, with either node having written more, and for a losing Primary all of rr-conflict.
func splitCases() (list []splitCase) {
	zero := []protocol.Policy{protocol.PolicyDisconnect, protocol.PolicyDiscardYoungerPrimary, protocol.PolicyDiscardOlderPrimary,
		protocol.PolicyDiscardZeroChanges, protocol.PolicyDiscardLeastChanges, protocol.PolicyDiscardLocal, protocol.PolicyDiscardRemote}
	for _, blocks := range [][2]int{{3, 0}, {0, 3}, {2, 5}} {
		for _, z := range zero {
			w := after0(z, blocks)
			list = append(list, splitCase{zero: z, blocks: blocks, winner: w, alone: [2]int{1, 1}})
			for p := range 2 {
				roles := [2]bool{p == 0, p == 1}
				base := splitCase{zero: z, blocks: blocks, primary: roles, winner: undecided, alone: [2]int{1, 1}}
				add := func(one protocol.Policy, winner int, alone [2]int, rr metadata.RRConflict, handler string) {
					c := base
					c.one, c.winner, c.alone, c.rr, c.handler = one, winner, alone, rr, handler
					list = append(list, c)
				}
				add(protocol.PolicyDisconnect, undecided, [2]int{1, 1}, 0, "split-brain")
				add(protocol.PolicyDiscardSecondary, p, [2]int{}, 0, "")
				refusing := [2]int{}
				refusing[p] = 1
				if w == p || w == undecided {
					for _, one := range []protocol.Policy{protocol.PolicyConsensus, protocol.PolicyViolently, protocol.PolicyCallPriLost} {
						add(one, w, [2]int{1, 1}, 0, "")
					}
					continue
				}
				add(protocol.PolicyConsensus, undecided, [2]int{1, 1}, 0, "split-brain")
				add(protocol.PolicyViolently, undecided, refusing, metadata.RRDisconnect, "")
				add(protocol.PolicyViolently, undecided, refusing, metadata.RRCallPriLost, "pri-lost")
				add(protocol.PolicyViolently, w, refusing, metadata.RRViolently, "")
				add(protocol.PolicyCallPriLost, undecided, refusing, 0, "pri-lost-after-sb")
			}
			two := splitCase{zero: z, blocks: blocks, primary: [2]bool{true, true}, winner: undecided, alone: [2]int{1, 1}}
			list = append(list, two)
			two.two, two.rr, two.winner = protocol.PolicyViolently, metadata.RRViolently, w
			list = append(list, two)
			if w != undecided {
				two.rr, two.winner, two.alone = metadata.RRDisconnect, undecided, [2]int{}
				two.alone[1-w] = 1
				list = append(list, two)
				two.two, two.handler = protocol.PolicyCallPriLost, "pri-lost-after-sb"
				list = append(list, two)
			}
		}
	}
	return list
}

// TestSplitBrainPolicies goes through all of them: the named node's data stays on both,
// or nothing is overwritten on either, and those who have to say no say why.
func TestSplitBrainPolicies(t *testing.T) {
	cases := splitCases()
	require.Greater(t, len(cases), 300)
	for i, c := range cases {
		if i%5 != 0 && testing.Short() || i%20 != 0 && raceEnabled {
			continue
		}
		t.Run(c.String(), func(t *testing.T) { c.run(t, uint64(i+1)) })
	}
}

func (c *splitCase) options(node int) core.NetOptions {
	n := testOptions().Net
	n.AfterSB0, n.AfterSB1, n.AfterSB2, n.RRConflict = c.zero, c.one, c.two, c.rr
	n.AllowTwoPrimary = c.primary[0] && c.primary[1]
	if node == 1 {
		n.AfterSB0 = n.AfterSB0.Mirrored()
	}
	return n
}

func (c *splitCase) run(t *testing.T, seed uint64) {
	s := splitScene(t, seed, c.options)
	nodes := [2]*Node{s.a, s.b}
	s.promote(s.a)
	s.SetLink(false)
	s.until("apart", func() bool {
		return s.st(s.a).Conn < protocol.Connected && s.st(s.b).Conn < protocol.Connected
	})
	s.promote(s.b)
	for i, n := range nodes {
		for k := range c.blocks[i] {
			s.write(n, int64(64*i+k)*4096, byte(1+i), 4096)
		}
		if !c.primary[i] {
			s.demote(n)
		}
	}
	before := [2][]byte{bytes.Clone(s.a.disks[0].Bytes()[:1<<20]), bytes.Clone(s.b.disks[0].Bytes()[:1<<20])}
	for _, n := range nodes {
		n.Events = nil
	}
	s.SetLink(true)
	if c.winner != undecided {
		s.until("synced", s.bothUpToDate)
		require.Equal(t, before[c.winner], s.a.disks[0].Bytes()[:1<<20])
		require.Equal(t, before[c.winner], s.b.disks[0].Bytes()[:1<<20])
		return
	}
	s.until("refused", func() bool {
		return (c.alone[0] == 0 || s.st(s.a).Conn == protocol.StandAlone) && (c.alone[1] == 0 || s.st(s.b).Conn == protocol.StandAlone)
	})
	for i, n := range nodes {
		require.Equal(t, before[i], n.disks[0].Bytes()[:1<<20], "nothing may be overwritten")
		if c.alone == [2]int{1, 1} {
			c.explained(t, n)
		}
	}
	if c.handler != "" {
		require.Contains(t, s.handlersCalled(), c.handler)
	}
}

// explained checks what an operator reads on a node that refuses.
func (c *splitCase) explained(t *testing.T, n *Node) {
	for _, e := range n.Events {
		if e.Kind != core.EventSplitBrain {
			continue
		}
		option := "after-sb-0pri=" + c.zero.String()
		if n.idx == 1 {
			option = "after-sb-0pri=" + c.zero.Mirrored().String()
		}
		switch {
		case c.primary[0] && c.primary[1]:
			option = "after-sb-2pri=" + c.two.String()
		case c.primary[0] || c.primary[1]:
			option = "after-sb-1pri=" + c.one.String()
		}
		ids := n.Snapshot().Volumes[0].IDs
		for _, want := range []string{option, "rule 90", ids.String(), "what would stay:", "connect --discard-my-data"} {
			require.True(t, strings.Contains(e.Text, want), "%q is not in\n%s", want, e.Text)
		}
		return
	}
	t.Fatalf("node %d does not say that it is a split brain", n.idx)
}

func (s *scene) handlersCalled() (names []string) {
	for _, n := range s.Nodes {
		for _, e := range n.Events {
			if e.Kind == core.EventHandler {
				names = append(names, e.Text)
			}
		}
	}
	return names
}

// splitScene is a connected pair, UpToDate, whose nodes have options of their own.
func splitScene(t *testing.T, seed uint64, options func(node int) core.NetOptions) *scene {
	o := testOptions()
	c := New(seed, o)
	for i, n := range c.Nodes {
		c.cfg.Net = options(i)
		n.Boot()
	}
	s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
	s.until("attached", func() bool {
		return s.st(s.a).Disk == protocol.Inconsistent && s.st(s.b).Disk == protocol.Inconsistent
	})
	for _, n := range c.Nodes {
		s.connect(n, core.ConnectOptions{})
	}
	s.until("connected", func() bool {
		return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected
	})
	s.a.mustDo(t, "skip the initial sync", func(cmd *core.Command) { s.a.core.NewCurrentUUID(cmd, 0, true) })
	s.until("UpToDate", s.bothUpToDate)
	return s
}

// TestAlwaysASBP: an old common ancestor is not enough for the policies, unless
// always-asbp says so; then everything is copied.
func TestAlwaysASBP(t *testing.T) {
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprint(always), func(t *testing.T) {
			s := splitScene(t, 7, func(int) core.NetOptions {
				n := testOptions().Net
				n.AlwaysASBP, n.AfterSB0 = always, protocol.PolicyDiscardLeastChanges
				return n
			})
			s.disconnect(s.a)
			s.disconnect(s.b)
			for i, n := range s.Nodes { // two generations on each node: the bitmaps have no common base
				s.promote(n)
				s.write(n, int64(i)*8192, byte(1+i), 4096*(1+i))
				s.demote(n)
				n.mustDo(t, "new generation", func(cmd *core.Command) { n.core.NewCurrentUUID(cmd, 0, false) })
			}
			for _, n := range s.Nodes {
				s.connect(n, core.ConnectOptions{})
			}
			if !always {
				s.until("both refuse", func() bool {
					return s.st(s.a).Conn == protocol.StandAlone && s.st(s.b).Conn == protocol.StandAlone
				})
				return
			}
			s.until("synced", s.bothUpToDate)
			s.equal()
			require.Equal(t, byte(2), s.a.disks[0].Bytes()[8192], "b has more changes")
			full := false
			for _, e := range s.a.Events {
				full = full || e.Kind == core.EventVerdict && e.Decision.FullSync
			}
			require.True(t, full)
		})
	}
}

// TestTentativeSplitBrain: a dry run says what would happen and changes nothing; then the
// victim gives its changes up.
func TestTentativeSplitBrain(t *testing.T) {
	s := splitScene(t, 9, func(int) core.NetOptions {
		n := testOptions().Net
		n.AfterSB0 = protocol.PolicyDiscardYoungerPrimary
		return n
	})
	s.promote(s.a)
	s.SetLink(false)
	s.until("apart", func() bool { return s.st(s.a).Conn < protocol.Connected && s.st(s.b).Conn < protocol.Connected })
	s.promote(s.b)
	s.write(s.a, 0, 1, 4096)
	s.write(s.b, 8192, 2, 4096)
	s.demote(s.a)
	s.demote(s.b)
	s.disconnect(s.b)
	before := bytes.Clone(s.b.disks[0].Bytes()[:1<<20])
	s.SetLink(true)
	s.b.Events = nil
	s.connect(s.b, core.ConnectOptions{Tentative: true})
	s.until("dry run", func() bool { return s.st(s.b).Conn == protocol.StandAlone && s.st(s.a).Conn == protocol.WFConnection })
	require.Equal(t, before, s.b.disks[0].Bytes()[:1<<20])
	said := ""
	for _, e := range s.b.Events {
		if e.Kind == core.EventVerdict {
			said = e.Text
		}
	}
	require.Contains(t, said, "after-sb-0pri=discard-younger-primary")
	require.Contains(t, said, "dry run")
	s.connect(s.b, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	require.Equal(t, byte(1), s.b.disks[0].Bytes()[0])
	s.equal()
}
