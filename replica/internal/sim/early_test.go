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

// Commands that follow one another faster than the peer's answers come. What is
// early depends on the delays, so each of these runs with many seeds.
const earlySeeds = 200

func earlyScene(t *testing.T, seed uint64) *scene {
	c := New(seed, testOptions())
	for _, n := range c.Nodes {
		n.Boot()
	}
	c.Run(time.Second)
	must(t, c)
	s := &scene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
	for _, n := range c.Nodes {
		n.mustDo(t, "connect", func(cmd *core.Command) { n.core.Connect(cmd, 0, core.ConnectOptions{}) })
	}
	s.until("connected", func() bool { return s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected })
	return s
}

// TestWriteRightAfterSkip: the P_STATE in which the peer still is Inconsistent comes
// after the initial sync was skipped here. What is written then has to be mirrored.
func TestWriteRightAfterSkip(t *testing.T) {
	for seed := range uint64(earlySeeds) {
		s := earlyScene(t, seed)
		s.a.mustDo(t, "skip the initial sync", func(cmd *core.Command) { s.a.core.NewCurrentUUID(cmd, 0, true) })
		s.promote(s.a)
		s.write(s.a, 8192, 1, 4096)
		s.until("up to date", s.bothUpToDate)
		require.Zero(t, s.oos(s.a), "seed %d", seed)
		s.equal()
	}
}

// TestPromoteTargetAndWrite: an own write and the block that was asked for do not wait
// for each other, and end in the order in which a disk of its own would have them.
func TestPromoteTargetAndWrite(t *testing.T) {
	for seed := range uint64(earlySeeds) {
		s := earlyScene(t, seed)
		s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
		s.until("a resync", func() bool { return s.st(s.b).Conn == protocol.SyncTarget })
		s.Run(time.Duration(seed%20) * time.Millisecond)
		s.demote(s.a)
		s.until("a Secondary peer", func() bool { return s.st(s.b).Peer == protocol.Secondary })
		s.promote(s.b)
		for i := range int64(20) {
			s.write(s.b, i*37*512, byte(i+1), 4096)
		}
		s.until("synced", s.bothUpToDate)
		s.equal()
		for i := range int64(20) {
			require.Equal(t, byte(i+1), s.read(s.b, i*37*512, 512)[0], "seed %d", seed)
		}
	}
}
