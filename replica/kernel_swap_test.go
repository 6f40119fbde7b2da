// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/stretchr/testify/require"
)

// swapDisks gives each side's disk to the other one. Neither side runs.
func (d *duo) swapDisks() {
	d.t.Helper()
	node, kernel := d.nodeImage(), d.kernelImage()
	d.giveNode(kernel)
	d.giveKernel(node)
}

// kernelSwap: a disk moves to the other kind of node, with its metadata.
func kernelSwap(t *testing.T, lab *kernelLab) {
	lab.part(t, nodeActs, "clean", func(t *testing.T) { swapClean(t, lab, "") })
	lab.part(t, kernelActs, "clean, external metadata", func(t *testing.T) { swapClean(t, lab, "flexible") })
	// The kernel crashes as Primary; the node, with the kernel's disk, does what the
	// kernel would do: its activity log is replayed here.
	lab.part(t, kernelActs, "crashed kernel", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		d.kernelWrite(0, 5<<20, 0, 64<<10, 4096)
		require.NoError(t, lab.guest.Crash())
		d.waitNodeState("WFConnection Secondary/Unknown UpToDate/DUnknown")
		require.NoError(t, d.node.Close())
		d.swapDisks()
		d.restartKernel()
		d.openNode()
		require.EqualValues(t, extentBytes, d.status(0).OutOfSync)
		d.connect()
		d.waitSync()
		require.Equal(t, extentBlocks, d.lastKernelResync())
		d.requireSame()
		d.requireSameVerdicts()
	})
	// And the other way round: apply-al in the guest replays the node's activity log.
	lab.part(t, nodeActs, "crashed node", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		d.nodeWrite(0, 5<<20, 0, 64<<10)
		d.nodeWrite(0, 17<<20, 0, 64<<10)
		d.killNode()
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" })
		require.NoError(t, d.kernel.Down(d.ctx))
		d.swapDisks()
		require.NoError(t, d.kernel.Up(d.ctx))
		m := d.waitKernelState("StandAlone Secondary/Unknown UpToDate/DUnknown")
		require.EqualValues(t, 2*extentBytes, m.OutOfSync())
		d.openNode()
		d.connect()
		d.waitSync()
		require.Equal(t, 2*extentBlocks, d.lastKernelResync())
		d.requireSame()
		d.requireSameVerdicts()
	})
}

// swapClean: both sides leave in order, and the disks change places twice.
func swapClean(t *testing.T, lab *kernelLab, meta string) {
	d := newDuo(t, lab, duoOptions{meta: meta})
	d.connect()
	d.exchange()
	for range 2 {
		d.disconnect(true)
		require.NoError(d.t, d.node.Close())
		require.NoError(d.t, d.kernel.Down(d.ctx))
		d.swapDisks()
		require.NoError(d.t, d.kernel.Up(d.ctx))
		d.openNode()
		d.connect()
		d.waitSync()
		d.requireNoResync()
		d.exchange()
		d.requireUUIDsAgree()
	}
}
