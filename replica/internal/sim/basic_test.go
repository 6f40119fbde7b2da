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

func testOptions() Options {
	return Options{Volumes: 1, DiskBytes: 4 << 20, Trace: true,
		Net:    core.NetOptions{Protocol: protocol.ProtocolC, KoCount: 7, UseRLE: true},
		Volume: core.VolumeConfig{DiskFlushes: true}}
}

func must(t testing.TB, c *Cluster) {
	t.Helper()
	if c.Err() != nil {
		t.Fatalf("%v\n%s", c.Err(), c.Trace())
	}
}

func (n *Node) mustDo(t testing.TB, what string, run func(*core.Command)) {
	t.Helper()
	var done bool
	var got error
	n.Command(run, func(err error) { done, got = true, err })
	n.c.Until(what, time.Minute, func() bool { return done })
	must(t, n.c)
	if got != nil {
		t.Fatalf("%s: %v\n%s", what, got, n.c.Trace())
	}
}

func start(t testing.TB, opt Options) *Cluster {
	c := New(1, opt)
	for _, n := range c.Nodes {
		n.Boot()
	}
	c.Run(time.Second)
	must(t, c)
	for _, n := range c.Nodes {
		n.mustDo(t, "connect", func(cmd *core.Command) { n.core.Connect(cmd, 0, core.ConnectOptions{}) })
	}
	c.Until("connected", time.Minute, func() bool {
		a, _ := c.Nodes[0].State(0)
		b, _ := c.Nodes[1].State(0)
		return a.Conn == protocol.Connected && b.Conn == protocol.Connected
	})
	must(t, c)
	return c
}

func TestInitialSync(t *testing.T) {
	c := start(t, testOptions())
	a := c.Nodes[0]
	a.mustDo(t, "promote", func(cmd *core.Command) { a.core.Promote(cmd, true) })
	c.Until("synced", time.Minute, c.bothUpToDate)
	must(t, c)
	require.True(t, a.Snapshot().Volumes[0].IDs.SameIdentity(c.Nodes[1].Snapshot().Volumes[0].IDs))
}
