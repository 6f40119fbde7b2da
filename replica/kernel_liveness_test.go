// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// kernelIdle: nothing happens for several ping intervals of both sides, and the
// connection stays.
func kernelIdle(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{
		config: func(cfg *replica.Config) { cfg.Peers[0].PingInterval = time.Second },
		net:    []string{"--ping-int=1"},
	})
	d.connect()
	_, err := lab.guest.Run(d.ctx, "sleep 5")
	require.NoError(t, err)
	d.exchange()
}

// kernelHangs: a kernel that hangs is given up after a ping, the application goes on, and
// what it wrote is copied when the kernel is back.
func kernelHangs(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{mayBreak: true, config: func(cfg *replica.Config) {
		cfg.Peers[0].PingInterval, cfg.Peers[0].PingTimeout = time.Second, time.Second
	}})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx))
	d.nodeWrite(0, 0, 0, 64<<10)
	require.NoError(t, lab.guest.Pause())
	d.nodeWrite(0, 1<<20, 0, 3*4096) // returns when the kernel has been given up
	require.NotEqual(t, protocol.Connected, d.status(0).State.Conn)
	require.NoError(t, lab.guest.Resume())
	d.waitConnected()
	d.waitSync()
	d.requireSame()
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Contains(t, strings.Join(d.history, "\n"), "-> NetworkFailure )")
}

// kernelNodeHangs: the node's disk does not answer; the kernel gives the node up after
// timeout times ko-count, and they meet again when the disk answers.
func kernelNodeHangs(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{mayBreak: true, net: []string{"--timeout=10", "--ko-count=2"}})
	d.connect()
	require.NoError(t, d.kernel.Primary(d.ctx))
	d.kernelWrite(0, 0, 0, 64<<10, 4096)
	d.inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Hang: true})
	d.kernelWrite(0, 1<<20, 0, 3*4096, 4096) // returns when the node has been given up
	require.Contains(t, strings.Join(d.kernelLog(), "\n"), "-> Timeout ")
	d.kernelWrite(0, 2<<20, 0, 3*4096, 4096)
	d.heal()
	d.waitConnected()
	d.waitSync()
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.OutOfSync() == 0 })
	d.requireSame()
}

// kernelSlow: a kernel that acknowledges no write for timeout times ko-count is given up
// although nothing else is wrong with the connection: no ping is due.
func kernelSlow(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{mayBreak: true, config: func(cfg *replica.Config) {
		p := &cfg.Peers[0]
		p.Timeout, p.KoCount, p.PingInterval = time.Second, 2, 2*time.Minute
	}})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx))
	d.nodeWrite(0, 0, 0, 64<<10)
	require.NoError(t, lab.guest.Pause())
	d.nodeWrite(0, 1<<20, 0, 3*4096) // returns when the kernel has been given up
	require.NotEqual(t, protocol.Connected, d.status(0).State.Conn)
	d.nodeWrite(0, 3<<20, 0, 2*4096)
	require.NoError(t, lab.guest.Resume())
	d.waitConnected()
	d.waitSync()
	d.requireSame()
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Contains(t, strings.Join(d.history, "\n"), "-> Timeout )")
}
