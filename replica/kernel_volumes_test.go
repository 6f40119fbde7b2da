// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// waitVolumes waits until all volumes of the kernel are in a state that is wanted.
func (d *duo) waitVolumes(wanted func(kerneldrbd.Minor) bool) {
	d.t.Helper()
	var list []kerneldrbd.Minor
	_, err := d.kernel.Wait(d.ctx, func(kerneldrbd.Minor) bool {
		all, err := d.lab.guest.ProcDRBD(d.ctx)
		require.NoError(d.t, err)
		list = all
		n := 0
		for _, m := range all {
			if m.Number < len(d.kernel.Volumes) && wanted(m) {
				n++
			}
		}
		return n == len(d.kernel.Volumes)
	})
	require.NoError(d.t, err, "%v", list)
}

// waitVolumesSync is waitSync for all volumes.
func (d *duo) waitVolumesSync() {
	d.t.Helper()
	d.waitSync()
	d.waitVolumes(func(m kerneldrbd.Minor) bool {
		return m.State() == "Connected "+m.Role+"/"+m.Peer+" UpToDate/UpToDate" && m.OutOfSync() == 0
	})
}

// volumeResyncs returns what the kernel says was to be copied on a volume, in blocks.
func (d *duo) volumeResyncs(minor int) []int {
	d.t.Helper()
	var list []int
	for _, line := range d.kernelLog() {
		if !strings.Contains(line, fmt.Sprintf("drbd%d:", minor)) {
			continue
		}
		if _, rest, ok := strings.Cut(line, " (will sync "); ok {
			var kib, bits int
			_, err := fmt.Sscanf(rest, "%d KB [%d bits set]", &kib, &bits)
			require.NoError(d.t, err, line)
			list = append(list, bits)
		}
	}
	return list
}

// kernelVolumes: two volumes share one connection, one order of writes, and one fate.
func kernelVolumes(t *testing.T, lab *kernelLab) {
	lab.part(t, nodeActs, "node", func(t *testing.T) { volumes(t, lab, false) })
	lab.part(t, kernelActs, "kernel", func(t *testing.T) { volumes(t, lab, true) })
	lab.part(t, nodeActs, "split brain of one", func(t *testing.T) { volumesSplitBrain(t, lab) })
}

// volumes: one side fills the other one, both write, and each volume gets what it missed.
func volumes(t *testing.T, lab *kernelLab, kernel bool) {
	d := newDuo(t, lab, duoOptions{fresh: true, two: true})
	d.put(1, lab.pattern[:1<<20], 7<<20)
	d.connect()
	d.waitVolumes(func(m kerneldrbd.Minor) bool {
		return m.State() == "Connected Secondary/Secondary Inconsistent/Inconsistent"
	})
	promote := func(kernel bool) {
		if kernel {
			require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
		} else {
			require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
		}
	}
	demote := func(kernel bool) {
		if kernel {
			require.NoError(t, d.kernel.Secondary(d.ctx))
		} else {
			require.NoError(t, d.node.Demote(d.ctx))
		}
	}
	write := func(kernel bool, volume uint16, off, from, n int64) {
		if kernel {
			d.kernelWrite(int(volume), off, from, n, n)
		} else {
			d.nodeWrite(volume, off, from, n)
		}
	}
	promote(kernel)
	d.waitVolumesSync()
	d.requireSame()
	demote(kernel)

	for round, side := range []bool{!kernel, kernel} {
		promote(side)
		// One epoch after the other over both volumes: B's data depends on A's.
		for i := range int64(8) {
			write(side, uint16(i%2), i<<20+512, i<<12, 3584+i*512)
			write(side, uint16(1-i%2), i<<20+512, i<<12, 4096)
		}
		if !side {
			d.waitQuietNode() // else the last write is without its P_BARRIER_ACK, and marked
		}
		d.disconnect(side)
		write(side, 0, 10<<20, 0, 3*4096)
		write(side, 1, 11<<20, 0, 5*4096)
		d.reconnect()
		d.waitVolumesSync()
		d.requireSame()
		for minor, want := range []int{3, 5} {
			list := d.volumeResyncs(minor)
			require.Len(t, list, 2+round)
			require.Equal(t, want, list[1+round])
		}
		demote(side)
	}
	if first := d.nodeContent(0); !bytes.Equal(first[10<<20:10<<20+3*4096], lab.pattern[:3*4096]) {
		require.Fail(t, "volume 0 has not what was written")
	}
	d.disconnect(kernel)
}

// volumesSplitBrain: only volume 1 was used on both sides, yet no volume connects.
func volumesSplitBrain(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{two: true, mayBreak: true})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx))
	d.waitVolumes(func(m kerneldrbd.Minor) bool { return m.Peer == "Primary" })
	require.NoError(t, d.kernel.Disconnect(d.ctx, d.port))
	require.NoError(t, d.node.Disconnect(d.ctx))
	d.nodeWrite(0, 1<<20, 0, 3*4096)
	d.nodeWrite(1, 1<<20, 0, 4096)
	require.NoError(t, d.node.Demote(d.ctx))
	_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[1], "primary")
	require.NoError(t, err)
	d.kernelWrite(1, 2<<20, 0, 2*4096, 4096)
	require.NoError(t, d.kernel.Secondary(d.ctx))
	zero, one := d.nodeContent(0), d.nodeContent(1)

	d.connectKernel()
	d.connectNode()
	require.ErrorIs(t, d.node.WaitConnected(d.ctx), replica.ErrSplitBrain)
	d.waitVolumes(func(m kerneldrbd.Minor) bool { return m.Conn == "StandAlone" })
	for i := range uint16(2) {
		require.Equal(t, protocol.StandAlone, d.status(i).State.Conn)
	}
	d.connectKernel("--discard-my-data")
	d.connectNode()
	d.waitConnected()
	d.waitVolumesSync()
	d.requireSame()
	require.True(t, bytes.Equal(zero, d.nodeContent(0)) && bytes.Equal(one, d.nodeContent(1)), "the node's data counts")
	for minor, want := range []int{3, 3} {
		list := d.volumeResyncs(minor)
		require.NotEmpty(t, list)
		require.Equal(t, want, list[len(list)-1])
	}
}
