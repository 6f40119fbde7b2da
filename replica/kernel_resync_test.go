// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelResyncCut: a full sync is cut five times, in every way and anywhere, and goes on where it was.
func kernelResyncCut(t *testing.T, lab *kernelLab) {
	for _, source := range []string{"node", "kernel"} {
		lab.part(t, kernelSide(source), "from the "+source, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{
				fresh: true, mayBreak: true,
				disk: []string{"--resync-rate=8000"},
				config: func(cfg *replica.Config) {
					cfg.Volumes[0].Resync = replica.ResyncConfig{PlanAhead: -1, Rate: 8 << 20}
				},
			})
			var want []byte
			if source == "node" {
				d.fillNodeDisk()
				require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
				want = d.nodeContent(0)
			} else {
				d.fillKernelDisk()
				require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
				want = d.kernelContentOf(0, labDiskBytes)
			}
			d.connect()
			left := int64(len(want))
			for i, cut := range []func(){
				func() { require.NoError(t, d.node.Disconnect(d.ctx)) },
				func() { require.NoError(t, d.kernel.Disconnect(d.ctx, d.port)) },
				func() { require.NoError(t, d.node.Disconnect(d.ctx, replica.Force())) },
				func() { require.NoError(t, d.kernel.Disconnect(d.ctx, d.port, "--force")) },
				func() { require.NoError(t, d.node.Disconnect(d.ctx, replica.Force())) },
			} {
				limit := min(left, int64(len(want))-int64(i+1)*700*4096) - rand.Int64N(300)*4096
				left = d.waitNode(func(st replica.VolumeStatus) bool {
					sync := st.State.Conn == protocol.SyncSource || st.State.Conn == protocol.SyncTarget
					return sync && st.OutOfSync < limit
				}).OutOfSync
				require.Positive(t, left, "it was done before it could be cut")
				cut()
				d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn <= protocol.WFConnection })
				d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" || m.Conn == "StandAlone" })
				st := d.status(0)
				require.Zero(t, st.Pending+st.Unacked)
				mark, err := lab.guest.Mark(d.ctx)
				require.NoError(t, err)
				d.reconnect()
				// What was under way may have to be copied again: half of max-buffers.
				require.LessOrEqual(t, d.kernelResyncAfter(mark), (left>>12)+1024, "it began anew")
			}
			d.waitSync()
			require.Equal(t, want[:d.vol().Size()], d.nodeContent(0))
			d.requireSame()
			d.requireSameVerdicts()
		})
	}
}

// kernelResyncAfter waits for the next resync of the kernel and returns its blocks.
func (d *duo) kernelResyncAfter(mark kerneldrbd.Mark) int64 {
	d.t.Helper()
	line, _, err := d.lab.guest.WaitLog(d.ctx, mark, regexp.MustCompile(`Began resync as`))
	require.NoError(d.t, err)
	var kib, bits int64
	_, rest, _ := strings.Cut(line, "(will sync ")
	_, err = fmt.Sscanf(rest, "%d KB [%d bits set]", &kib, &bits)
	require.NoError(d.t, err, line)
	return bits
}

// kernelInvalidate: either side gives up its own data, or the peer's.
func kernelInvalidate(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	plant := func() { // behind the mirror's back
		d.put(0, lab.pattern[:4096], 3<<20)
	}
	for _, test := range []struct {
		name string
		run  func() error
		node bool // the node is the victim
	}{
		{"node invalidate", func() error { return d.vol().Invalidate(d.ctx) }, true},
		{"node invalidate-remote", func() error { return d.vol().InvalidateRemote(d.ctx) }, false},
		{"kernel invalidate", func() error {
			_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "invalidate")
			return err
		}, false},
		{"kernel invalidate-remote", func() error {
			_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "invalidate-remote")
			return err
		}, true},
	} {
		want := d.kernelContent(0)
		plant()
		require.Len(t, d.differingBlocks(), 1)
		if !test.node {
			want = d.nodeContent(0)
		}
		require.NoError(t, test.run(), test.name)
		d.waitSync()
		d.requireBoth(want)
		require.Equal(t, int(d.vol().Size()/4096), d.lastKernelResync(), test.name)
		d.requireUUIDsAgree()
		clear(want[3<<20 : 3<<20+4096])
		d.put(0, want[3<<20:3<<20+4096], 3<<20)
		f, err := os.OpenFile(lab.disks[0], os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(want[3<<20:3<<20+4096], 3<<20)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
}

// kernelPauseSync: either side may pause a resync, and only who paused it resumes it.
func kernelPauseSync(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{fresh: true,
		disk: []string{"--resync-rate=4000"},
		config: func(cfg *replica.Config) {
			cfg.Volumes[0].Resync = replica.ResyncConfig{PlanAhead: -1, Rate: 4 << 20}
		},
	})
	d.fillNodeDisk()
	require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
	d.connect()
	d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == protocol.SyncSource })
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "SyncTarget" })
	kernel := func(command string) {
		_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], command)
		require.NoError(t, err)
	}
	require.NoError(t, d.vol().PauseSync(d.ctx))
	m := d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "PausedSyncT" })
	require.Equal(t, "r-p---", m.Flags)
	d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == protocol.PausedSyncS && st.State.UserISP })
	kernel("pause-sync")
	d.waitNode(func(st replica.VolumeStatus) bool { return st.State.PeerISP })
	require.NoError(t, d.vol().ResumeSync(d.ctx))
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "PausedSyncT" && m.Flags == "r--u--" })
	require.Equal(t, protocol.PausedSyncS, d.status(0).State.Conn)
	kernel("resume-sync")
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "SyncTarget" || m.Conn == "Connected" })
	d.waitSync()
	d.requireSame()
}
