// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"os"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelDisklessNode: a node without disk, as Primary, works on the kernel's disk.
func kernelDisklessNode(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{nodeDiskless: true})
	d.connect()
	d.waitKernelState("Connected Secondary/Secondary UpToDate/Diskless")
	d.waitNodeState("Connected Secondary/Secondary Diskless/UpToDate")
	require.NoError(t, d.node.Promote(d.ctx))
	d.waitKernelState("Connected Secondary/Primary UpToDate/Diskless")
	for i, size := range writeSizes {
		off := int64(i)<<20 + 512*3
		d.nodeWrite(0, off, 0, size)
		got := make([]byte, size)
		_, err := d.vol().ReadAtContext(d.ctx, got, off)
		require.NoError(t, err)
		require.Equal(t, lab.pattern[:size], got)
		require.Equal(t, got, d.kernelContent(0)[off:off+size])
	}
	require.NoError(t, d.vol().Flush(d.ctx))
	require.NoError(t, d.node.Demote(d.ctx))
}

// kernelDisklessKernel: the kernel as diskless Primary works on the node's disk.
func kernelDisklessKernel(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{kernelDiskless: true})
	d.connect()
	d.waitKernelState("Connected Secondary/Secondary Diskless/UpToDate")
	d.waitNodeState("Connected Secondary/Secondary UpToDate/Diskless")
	require.NoError(t, d.kernel.Primary(d.ctx))
	d.waitNodeState("Connected Secondary/Primary UpToDate/Diskless")
	for i, size := range writeSizes {
		off := int64(i)<<20 + 512*3
		d.kernelWrite(0, off, 0, size, size)
		require.Equal(t, lab.pattern[:size], d.nodeContent(0)[off:off+size])
		// Read it again through the network.
		require.NoError(t, lab.guest.Copy(d.ctx, "/dev/vdb", 0, "/dev/drbd0", off, size, size))
		got, err := os.ReadFile(lab.disks[labDisk2])
		require.NoError(t, err)
		require.Equal(t, lab.pattern[:size], got[:size])
	}
	require.NoError(t, d.kernel.Secondary(d.ctx))
}

// kernelDetach: the Primary gives its disk away while connected, goes on over the peer,
// and takes the disk back.
func kernelDetach(t *testing.T, lab *kernelLab) {
	lab.part(t, nodeActs, "node", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		require.NoError(t, d.vol().Detach(d.ctx))
		d.waitKernelState("Connected Secondary/Primary UpToDate/Diskless")
		d.nodeWrite(0, 1<<20, 0, 3*4096)
		got := make([]byte, 4096)
		_, err := d.vol().ReadAtContext(d.ctx, got, 1<<20+4096)
		require.NoError(t, err)
		require.Equal(t, lab.pattern[4096:8192], got)
		require.NoError(t, d.vol().Attach(d.ctx))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Disk == protocol.UpToDate })
		d.waitSync()
		d.requireSame()
		d.requireSameVerdicts()
	})
	lab.part(t, kernelActs, "kernel", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		require.NoError(t, d.kernel.Detach(d.ctx, d.kernel.Volumes[0]))
		d.waitNodeState("Connected Secondary/Primary UpToDate/Diskless")
		d.kernelWrite(0, 1<<20, 0, 3*4096, 4096)
		require.Equal(t, lab.pattern[:3*4096], d.nodeContent(0)[1<<20:1<<20+3*4096])
		require.NoError(t, d.kernel.Attach(d.ctx, d.kernel.Volumes[0]))
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Disk == "UpToDate" })
		d.waitSync()
		d.requireSame()
		d.requireSameVerdicts()
		require.NoError(t, d.kernel.Secondary(d.ctx))
	})
	lab.part(t, kernelActs, "kernel secondary", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		require.NoError(t, d.kernel.Detach(d.ctx, d.kernel.Volumes[0]))
		d.waitNodeState("Connected Primary/Secondary UpToDate/Diskless")
		d.nodeWrite(0, 1<<20, 0, 3*4096)
		require.NoError(t, d.kernel.Attach(d.ctx, d.kernel.Volumes[0]))
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Disk == "UpToDate" })
		d.waitSync()
		d.requireSame()
		require.Equal(t, 3, d.lastKernelResync())
		d.requireSameVerdicts()
	})
	lab.part(t, nodeActs, "node secondary", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		require.NoError(t, d.vol().Detach(d.ctx))
		d.waitKernelState("Connected Primary/Secondary UpToDate/Diskless")
		d.kernelWrite(0, 1<<20, 0, 3*4096, 4096)
		require.NoError(t, d.vol().Attach(d.ctx))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Disk == protocol.UpToDate })
		d.waitSync()
		d.requireSame()
		require.Equal(t, 3, d.lastKernelResync())
		d.requireSameVerdicts()
	})
}
