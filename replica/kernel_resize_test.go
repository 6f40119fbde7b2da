// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelSize waits until both have a size.
func (d *duo) kernelSize(want int64) {
	d.t.Helper()
	d.waitNode(func(st replica.VolumeStatus) bool { return st.Size == want })
	out, err := d.lab.guest.Run(d.ctx, fmt.Sprintf(
		"i=0; while [ $(cat /sys/block/drbd0/size) -ne %d ] && [ $i -lt 50 ]; do sleep 0.2; i=$((i+1)); done; cat /sys/block/drbd0/size", want/512))
	require.NoError(d.t, err)
	require.Equal(d.t, fmt.Sprint(want/512), strings.TrimSpace(out))
}

// kernelResize: the size is changed on either side, up and down, while it is written to.
func kernelResize(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	full := d.status(0).Size
	require.NoError(t, d.node.Promote(d.ctx))
	for i, size := range []int64{10 << 20, 16<<20 + 4096, 8 << 20, 0} {
		require.NoError(t, d.vol().Resize(d.ctx, size))
		want := size
		if size == 0 {
			want = full
		}
		d.kernelSize(want)
		d.nodeWrite(0, want-64<<10, int64(i)*4096, 64<<10)
		d.waitSync()
	}
	require.NoError(t, d.vol().Resize(d.ctx, 12<<20))
	require.NoError(t, d.vol().Resize(d.ctx, 0, replica.AssumeClean()))
	d.kernelSize(full)
	require.NoError(t, d.node.Demote(d.ctx))
	require.NoError(t, d.kernel.Primary(d.ctx))
	for i, size := range []int64{9 << 20, 18 << 20, 0} {
		_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "resize", fmt.Sprintf("--size=%ds", size/512))
		require.NoError(t, err)
		want := size
		if size == 0 {
			want = full
		}
		d.kernelSize(want)
		d.kernelWrite(0, want-64<<10, int64(i)*4096, 64<<10, 16<<10)
		d.waitSync()
	}
	require.NoError(t, d.kernel.Secondary(d.ctx))
	d.waitQuiet()
	d.requireSame()
	require.NoError(t, d.node.Promote(d.ctx))
	require.NoError(t, d.node.Demote(d.ctx))
}

// kernelChange: the node changes the protocol, the digest and the speed of a live
// connection, and the kernel goes along.
func kernelChange(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	for i, proto := range []protocol.ReplicationProtocol{protocol.A, protocol.B, protocol.C} {
		require.NoError(t, d.node.Promote(d.ctx))
		require.NoError(t, d.node.ChangePeer(d.ctx, func(p *replica.PeerConfig) {
			p.Protocol, p.IntegrityAlg = proto, []string{"crc32c", "", "md5"}[i]
		}))
		d.nodeWrite(0, int64(i)<<20, 512, 256<<10)
		require.NoError(t, d.vol().Flush(d.ctx))
		require.NoError(t, d.node.Demote(d.ctx))
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Protocol == proto.String() })
		require.NoError(t, d.kernel.Primary(d.ctx))
		d.kernelWrite(0, int64(i+8)<<20, 0, 64<<10, 16<<10)
		require.NoError(t, d.kernel.Secondary(d.ctx))
		d.waitQuiet()
		d.requireSame()
	}
	require.NoError(t, d.vol().Change(d.ctx, func(v *replica.VolumeConfig) {
		v.Resync = replica.ResyncConfig{Rate: 5 << 20, PlanAhead: -1, MaxRate: 7 << 20}
	}))
	out, err := lab.guest.Run(d.ctx, "drbdsetup-84 show all --show-defaults 2>/dev/null || drbdsetup-84 show --show-defaults")
	require.NoError(t, err)
	require.Contains(t, out, "5120k")
}
