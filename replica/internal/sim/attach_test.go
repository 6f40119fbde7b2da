// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// attach takes a disk, and waits until it is in use.
func (s *scene) attach(n *Node) {
	s.t.Helper()
	done := false
	n.Attach(0, func(err error) { require.NoError(s.t, err); done = true })
	s.until("attached", func() bool { return done })
}

// A disk is attached while the peer is connected and has none: there is nothing to
// compare it with, and nobody waits for the peer's. The peer's, attached later, is
// compared with it.
func TestAttachBesideDiskless(t *testing.T) {
	s := skipped(t, testOptions())
	s.Run(time.Second)
	for _, n := range s.Nodes {
		n.mustDo(t, "detach", func(cmd *core.Command) { n.core.Detach(cmd, 0, true) })
	}
	s.Run(time.Second)
	for _, n := range s.Nodes {
		s.attach(n)
		require.Equal(t, protocol.UpToDate, s.st(n).Disk)
	}
	s.until("both good", s.bothUpToDate)
	s.promote(s.a)
	s.write(s.a, 0, 1, 4096)
	s.equal()
}

// Both disks are attached at the same time, and the data is that of a split brain: both
// commands end, and no more than one disk stays.
func TestAttachBothDiverged(t *testing.T) {
	neither := 0
	for seed := range uint64(20) {
		c := New(seed, testOptions())
		s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
		s.bootConnected()
		s.SetLink(false)
		for i, n := range s.Nodes {
			s.promote(n)
			s.write(n, 0, byte(1+i), 4096)
			s.demote(n)
			n.mustDo(t, "detach", func(cmd *core.Command) { n.core.Detach(cmd, 0, false) })
		}
		s.SetLink(true)
		s.until("connected", func() bool { return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected })
		var errs [2]error
		done := 0
		for i, n := range s.Nodes {
			n.Attach(0, func(err error) { errs[i] = err; done++ })
		}
		s.until("both have ended", func() bool { return done == 2 })
		require.Error(t, errors.Join(errs[0], errs[1]), "seed %d", seed)
		if errs[0] != nil && errs[1] != nil {
			neither++
		}
	}
	require.Less(t, neither, 20, "one that is faster stays")
}

// An Outdated disk beside a peer that has none yet is as old as it was: neither node is
// promoted with it, and it is Outdated again when the link breaks. The operator may
// declare it good.
func TestOutdatedBesideDiskless(t *testing.T) {
	s := skipped(t, testOptions())
	s.promote(s.a)
	s.SetLink(false)
	s.until("alone", func() bool { return s.st(s.b).Conn < protocol.Connected && s.st(s.a).Conn < protocol.Connected })
	s.b.mustDo(t, "outdate", func(cmd *core.Command) { s.b.core.Outdate(cmd, 0) })
	s.write(s.a, 0, 1, 4096)
	s.demote(s.a)
	s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, false) })
	s.SetLink(true)
	connected := func() bool { return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected }
	s.until("connected", connected)
	refused := func(n *Node, force bool) {
		t.Helper()
		require.ErrorIs(t, s.refuse(n, func(cmd *core.Command) { n.core.Promote(cmd, force) }), protocol.CodeNoUpToDateDisk)
	}
	require.Equal(t, protocol.UpToDate, s.st(s.b).Disk, "as a kernel would show it")
	refused(s.b, false)
	refused(s.a, false)
	refused(s.a, true)

	s.SetLink(false)
	s.until("alone", func() bool { return s.st(s.b).Conn < protocol.Connected && s.st(s.a).Conn < protocol.Connected })
	require.Equal(t, protocol.Outdated, s.st(s.b).Disk)
	s.SetLink(true)
	s.until("connected", connected)

	// Its metadata say so, too.
	s.b.mustDo(t, "detach", func(cmd *core.Command) { s.b.core.Detach(cmd, 0, false) })
	s.attach(s.b)
	require.Equal(t, protocol.UpToDate, s.st(s.b).Disk)
	refused(s.b, false)

	// The newer disk comes: compared with it, the other is good.
	s.attach(s.a)
	s.until("both good", s.bothUpToDate)
	s.promote(s.b)
	s.write(s.b, 4096, 2, 4096)
	s.equal()
}
