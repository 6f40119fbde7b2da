// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// wishes are the commands that need the peer's consent (spec: behaviour 2.5).
var wishes = map[string]func(n *Node, cmd *core.Command){
	"promote":           func(n *Node, cmd *core.Command) { n.core.Promote(cmd, false) },
	"disconnect":        func(n *Node, cmd *core.Command) { n.core.Disconnect(cmd, 0, false) },
	"detach":            func(n *Node, cmd *core.Command) { n.core.Detach(cmd, 0, false) },
	"invalidate":        func(n *Node, cmd *core.Command) { n.core.Invalidate(cmd, 0) },
	"invalidate-remote": func(n *Node, cmd *core.Command) { n.core.InvalidateRemote(cmd, 0) },
}

// neverBothPrimary fails if both nodes have seen themselves Primary and connected.
func (s *scene) neverBothPrimary(what string) {
	s.t.Helper()
	a, b := s.st(s.a), s.st(s.b)
	if a.Role == protocol.Primary && b.Role == protocol.Primary && a.Conn >= protocol.Connected && b.Conn >= protocol.Connected {
		s.t.Fatalf("%s: two Primaries\n%s", what, s.Trace())
	}
}

// Both nodes wish for something at the same time, and perhaps the link dies in between.
// Both commands end; there are never two connected Primaries; the last good disk that
// somebody uses stays; and afterwards the nodes find together again.
func TestClusterRaces(t *testing.T) {
	seeds := uint64(24)
	if raceEnabled || testing.Short() {
		seeds = 4
	}
	for first, wishA := range wishes {
		for second, wishB := range wishes {
			t.Run(first+" against "+second, func(t *testing.T) {
				outcomes := map[string]int{}
				for seed := range seeds {
					c := New(seed, testOptions())
					s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
					s.bootConnected()
					name := fmt.Sprintf("seed %d", seed)
					if seed%3 == 0 {
						s.promote(s.a)
					}
					var ra, rb result
					wait := func(limit time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(limit))) }
					s.after(wait(4*time.Millisecond), func() {
						s.a.Command(func(cmd *core.Command) { wishA(s.a, cmd) }, func(err error) { ra.done, ra.err = true, err })
					})
					s.after(wait(4*time.Millisecond), func() {
						s.b.Command(func(cmd *core.Command) { wishB(s.b, cmd) }, func(err error) { rb.done, rb.err = true, err })
					})
					if seed%2 == 0 {
						s.after(wait(12*time.Millisecond), func() { s.SetLink(false) })
					}
					s.until("both commands end", func() bool {
						s.neverBothPrimary(name)
						return ra.done && rb.done
					})
					outcomes[fmt.Sprint(ra.err == nil, rb.err == nil)]++
					s.endsWell(name, ra.err, rb.err)
				}
				t.Log(outcomes)
			})
		}
	}
}

// endsWell checks the errors, and that the nodes can be brought together again.
func (s *scene) endsWell(name string, errs ...error) {
	t := s.t
	for _, err := range errs {
		if err != nil && !errors.Is(err, core.ErrRefused) && !errors.Is(err, core.ErrConnectionLost) && !errors.Is(err, core.ErrDiskless) {
			t.Fatalf("%s: %v\n%s", name, err, s.Trace())
		}
	}
	good := false
	for _, n := range s.Nodes {
		good = good || s.st(n).Disk >= protocol.Consistent
		if s.st(n).Role == protocol.Primary && s.st(n).Conn >= protocol.Connected {
			require.True(t, s.st(n).Disk == protocol.UpToDate || s.st(n).PeerDisk == protocol.UpToDate, name)
		}
	}
	if s.st(s.a).Role == protocol.Primary && s.st(s.b).Role == protocol.Primary {
		require.False(t, s.st(s.a).Conn >= protocol.Connected && s.st(s.b).Conn >= protocol.Connected)
		return // promoted apart: a split brain, as it should be
	}
	s.Run(20 * time.Millisecond) // the cut may still come
	s.SetLink(true)
	s.Run(30 * time.Second)
	for _, n := range s.Nodes {
		if s.st(n).Disk == protocol.Diskless {
			n.Attach(0, func(error) {})
		}
	}
	s.Run(10 * time.Second)
	for _, n := range s.Nodes {
		if s.st(n).Conn == protocol.StandAlone {
			s.connect(n, core.ConnectOptions{})
		}
	}
	s.Run(time.Minute)
	must(t, s.Cluster)
	s.neverBothPrimary(name)
	if !good {
		return // nobody used the data, and both gave it up
	}
	s.until(name+" connected", func() bool {
		return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected
	})
	if s.bothUpToDate() {
		s.equal()
	}
}
