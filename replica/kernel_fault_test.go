// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// kernelNodeDiskFails: the node's disk fails; the service goes on over the kernel's.
func kernelNodeDiskFails(t *testing.T, lab *kernelLab) {
	fault := blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Off: labBadOffset, Len: 4096}
	t.Run("secondary", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		d.inject(fault)
		d.kernelWrite(0, labBadOffset-4096, 0, 4*4096, 4096) // no error for the application
		d.waitKernelState("Connected Primary/Secondary UpToDate/Diskless")
		d.waitNodeState("Connected Secondary/Primary Diskless/UpToDate")
		d.kernelWrite(0, 9<<20, 0, 2*4096, 4096)
		d.heal()
		require.NoError(t, d.vol().Attach(d.ctx))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Disk == protocol.UpToDate })
		d.waitSync()
		d.requireSame()
		require.LessOrEqual(t, d.lastKernelResync(), 4+2)
		d.requireSameVerdicts()
	})
	t.Run("primary", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		d.inject(fault)
		d.nodeWrite(0, labBadOffset-4096, 0, 4*4096)
		d.waitKernelState("Connected Secondary/Primary UpToDate/Diskless")
		d.waitNodeState("Connected Primary/Secondary Diskless/UpToDate")
		d.nodeWrite(0, 9<<20, 0, 2*4096)
		got := make([]byte, 4*4096)
		_, err := d.vol().ReadAtContext(d.ctx, got, labBadOffset-4096)
		require.NoError(t, err)
		require.Equal(t, lab.pattern[:len(got)], got)
		d.heal()
		require.NoError(t, d.vol().Attach(d.ctx))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Disk == protocol.UpToDate })
		d.waitSync()
		d.requireSame()
		require.LessOrEqual(t, d.lastKernelResync(), 2*extentBlocks)
		d.requireSameVerdicts()
	})
}

// kernelKernelDiskFails: the kernel's disk fails; the service goes on over the node's.
func kernelKernelDiskFails(t *testing.T, lab *kernelLab) {
	t.Run("secondary", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{at: labBadOne})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		d.nodeWrite(0, labBadOffset-4096, 0, 4*4096) // answered with P_NEG_ACK
		d.waitKernelState("Connected Secondary/Primary Diskless/UpToDate")
		d.waitNodeState("Connected Primary/Secondary UpToDate/Diskless")
		d.nodeWrite(0, 9<<20, 0, 2*4096)
		require.NoError(t, d.kernel.Attach(d.ctx, d.kernel.Volumes[0]))
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Disk == "UpToDate" })
		d.waitSync()
		d.requireSame()
		require.Equal(t, 4+2, d.lastKernelResync())
		d.requireSameVerdicts()
	})
	t.Run("primary", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{at: labBadTwo})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		d.kernelWrite(0, labBadOffset-4096, 0, 4*4096, 4*4096)
		d.waitKernelState("Connected Primary/Secondary Diskless/UpToDate")
		d.waitNodeState("Connected Secondary/Primary UpToDate/Diskless")
		d.kernelWrite(0, 9<<20, 0, 2*4096, 4096)
		out, err := lab.guest.Run(d.ctx, fmt.Sprintf("dd if=/dev/drbd0 bs=4096 skip=%d count=4 iflag=direct status=none", labBadOffset/4096-1))
		require.NoError(t, err)
		require.Equal(t, string(lab.pattern[:4*4096]), out)
		require.NoError(t, d.kernel.Secondary(d.ctx)) // it does not let the node go before
	})
}
