// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// giveUp gives up all commands of a node.
func (s *scene) giveUp(n *Node) {
	for cmd := range n.cmds {
		n.event(func() { n.core.Abandon(cmd, errGivenUp) })
	}
}

// TestPromoteGivenUp: a promotion is given up at every step of it. The node is Primary then,
// or it never becomes so, and the peer knows which.
func TestPromoteGivenUp(t *testing.T) {
	late, early := 0, 0
	for step := range 30 {
		opt := testOptions()
		opt.Volumes = 1 + step%2
		s := skipped(t, opt)
		var got error
		done := false
		s.b.Command(func(cmd *core.Command) { s.b.core.Promote(cmd, false) }, func(err error) { done, got = true, err })
		for range step {
			s.step()
		}
		if !done {
			s.giveUp(s.b)
			require.ErrorIs(t, got, errGivenUp)
		}
		was := s.st(s.b).Role
		s.Run(time.Minute)
		for vol := range opt.Volumes {
			b, _ := s.b.State(vol)
			require.Equal(t, was, b.Role)
			a, _ := s.a.State(vol)
			require.Equal(t, was, a.Peer)
		}
		if was == protocol.Primary {
			late++
			s.demote(s.b)
		} else {
			early++
		}
		s.promote(s.a)
		s.write(s.a, 0, 1, 4096)
		s.demote(s.a)
		s.promote(s.b)
		s.equal()
	}
	require.Positive(t, late)
	require.Positive(t, early)
}

// TestAttachInHandshake: a disk is attached at every step of a handshake. The command waits
// for its end and does what it was asked to; one that was given up does nothing.
func TestAttachInHandshake(t *testing.T) {
	waited, gaveUp := 0, 0
	for step := range 40 {
		for _, giveUp := range []bool{false, true} {
			s := skipped(t, testOptions())
			s.promote(s.a)
			s.b.mustDo(t, "detach", func(cmd *core.Command) { s.b.core.Detach(cmd, 0, false) })
			s.write(s.a, 0, 1, 4096)
			s.SetLink(false)
			s.until("cut", func() bool {
				return s.st(s.a).Conn < protocol.Connected && s.st(s.b).Conn < protocol.Connected
			})
			s.SetLink(true)
			s.until("connecting", func() bool { return s.st(s.b).Conn >= protocol.WFReportParams })
			for range step {
				s.step()
			}
			done := false
			var got error
			s.b.Attach(0, func(err error) { done, got = true, err })
			waits := !done && s.st(s.b).Disk == protocol.Diskless
			if waits {
				waited++
			}
			if giveUp && waits {
				gaveUp++
				s.giveUp(s.b)
				s.Run(time.Minute)
				require.Equal(t, protocol.Diskless, s.st(s.b).Disk)
				s.attach(s.b)
			}
			s.until("attached", func() bool { return done })
			require.Equal(t, giveUp && waits, got != nil, "%v", got)
			s.until("both good", s.bothUpToDate)
			s.equal()
		}
	}
	require.Positive(t, waited)
	require.Positive(t, gaveUp)
}
