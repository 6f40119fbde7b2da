// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// kernelFencing: a kernel Primary with fencing outdates the node when it leaves, and the
// node cannot be promoted until they have met again.
func kernelFencing(t *testing.T, lab *kernelLab) { fencing(t, lab, true) }

func fencing(t *testing.T, lab *kernelLab, kernelLeaves bool) {
	d := newDuo(t, lab, duoOptions{disk: []string{"--fencing=resource-only"}})
	d.connect()
	require.NoError(t, d.kernel.Primary(d.ctx))
	d.disconnect(kernelLeaves)
	d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Disk == protocol.Outdated })
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.PeerDisk == "Outdated" && m.Role == "Primary" })
	require.ErrorIs(t, d.node.Promote(d.ctx), replica.ErrNoUpToDateData)
	d.kernelWrite(0, 1<<20, 0, 3*4096, 4096)
	require.NotContains(t, strings.Join(d.kernelLog(), "\n"), "fence-peer")
	d.reconnect()
	d.waitSync()
	d.requireSame()
	require.Equal(t, 3, d.lastKernelResync())
	require.NoError(t, d.kernel.Secondary(d.ctx))
}

// kernelAhead: a node that is too slow for protocol A is left behind, and catches up.
func kernelAhead(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{protocol: protocol.A,
		net: []string{"--on-congestion=pull-ahead", "--congestion-fill=256", "--congestion-extents=1000"}})
	d.connect()
	require.NoError(t, d.kernel.Primary(d.ctx))
	slow := time.NewTicker(30 * time.Millisecond)
	defer slow.Stop()
	behind := 0
	for round := range int64(2) {
		d.disks[0].Observe(func(r blockdev.Request) {
			if r.Kind == blockdev.OpWrite {
				<-slow.C
			}
		})
		d.kernelWrite(0, round*4<<20, 0, 1<<20, 16<<10)
		d.kernelWrite(0, round*4<<20+2<<20+512, 0, 1<<20, 16<<10)
		d.disks[0].Observe(nil)
		d.waitSync()
		d.requireSame()
		d.mu.Lock()
		history := strings.Join(d.history, "\n")
		d.mu.Unlock()
		// On a slow machine the writes that are left when it has caught up are too many once more.
		now := strings.Count(history, "conn( Connected -> Behind )")
		require.Greater(t, now, behind, history)
		behind = now
	}
	require.NoError(t, d.kernel.Secondary(d.ctx))
}

// kernelNodeAhead: a kernel that is too slow for protocol A is left behind by the node, and
// catches up; once more in the middle of that.
func kernelNodeAhead(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{protocol: protocol.A,
		disk: []string{"--resync-rate=2000", "--c-plan-ahead=0"},
		config: func(cfg *replica.Config) {
			cfg.Peers[0].OnCongestion, cfg.Peers[0].CongestionFill = replica.PullAhead, 128<<10
			cfg.Volumes[0].Resync = replica.ResyncConfig{PlanAhead: -1, Rate: 2 << 20}
		}})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx))
	burst := func(round int64) {
		var wg sync.WaitGroup
		for w := range int64(8) {
			wg.Go(func() {
				for i := range int64(16) {
					d.nodeWrite(0, (w*16+i)*16<<10+round*512, (w+round)*4096, 16<<10)
				}
			})
		}
		wg.Wait()
	}
	for round := range int64(3) {
		mark, err := lab.guest.Mark(d.ctx)
		require.NoError(t, err)
		burst(round)
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn != protocol.Ahead })
		burst(round + 3) // while it catches up
		d.waitSync()
		d.waitQuiet()
		d.requireSame()
		lines, err := lab.guest.Log(d.ctx, mark)
		require.NoError(t, err)
		log := strings.Join(lines, "\n")
		require.Contains(t, log, "-> Behind )")
		require.Contains(t, log, "conn( Behind -> SyncTarget )")
	}
	require.NoError(t, d.node.Demote(d.ctx))
}

// kernelPromoteTarget: the target of a full sync becomes Primary before it is done; what
// it has not yet, it reads from the source.
func kernelPromoteTarget(t *testing.T, lab *kernelLab) {
	for _, target := range []string{"kernel", "node"} {
		lab.part(t, kernelSide(target), target, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{fresh: true,
				disk: []string{"--resync-rate=4000"},
				config: func(cfg *replica.Config) {
					cfg.Volumes[0].Resync = replica.ResyncConfig{PlanAhead: -1, Rate: 4 << 20}
				},
			})
			size := 4096
			if target == "kernel" {
				d.fillNodeDisk()
				require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
				require.NoError(t, d.node.Demote(d.ctx))
				want := d.nodeContent(0)
				d.connect()
				d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "SyncTarget" })
				require.NoError(t, d.kernel.Primary(d.ctx))
				for _, off := range []int{0, 10 << 20, 20 << 20} {
					out, err := lab.guest.Run(d.ctx, fmt.Sprintf("dd if=/dev/drbd0 bs=4096 skip=%d count=1 iflag=direct status=none", off/4096))
					require.NoError(t, err)
					require.Equal(t, string(want[off:off+size]), out)
				}
				d.kernelWrite(0, 20<<20+512, 4096, 64<<10, 64<<10)
				copy(want[20<<20+512:], lab.pattern[4096:4096+64<<10])
				require.NotZero(t, d.status(0).OutOfSync, "the sync ended too early for this test")
				d.waitSync()
				require.NoError(t, d.kernel.Secondary(d.ctx))
				d.waitQuiet()
				d.requireBoth(want)
				return
			}
			d.fillKernelDisk()
			require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
			require.NoError(t, d.kernel.Secondary(d.ctx))
			d.connect()
			want := d.kernelContent(0)
			d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == protocol.SyncTarget })
			require.NoError(t, d.node.Promote(d.ctx))
			for _, off := range []int{0, 10 << 20, 20 << 20} {
				got := make([]byte, size)
				_, err := d.vol().ReadAtContext(d.ctx, got, int64(off))
				require.NoError(t, err)
				require.Equal(t, want[off:off+size], got)
			}
			d.nodeWrite(0, 20<<20+512, 4096, 64<<10)
			copy(want[20<<20+512:], lab.pattern[4096:4096+64<<10])
			require.NotZero(t, d.status(0).OutOfSync, "the sync ended too early for this test")
			d.waitSync()
			require.NoError(t, d.node.Demote(d.ctx))
			d.waitQuiet()
			d.requireBoth(want)
		})
	}
}

// kernelActivityLog: many more extents are written to than the activity log has room for,
// on a large disk; then the Primary crashes, and no more is copied than the log held.
// Checksums keep what the emulated network has to carry small.
func kernelActivityLog(t *testing.T, lab *kernelLab) {
	const slots, extents = 67, labLargeBytes/extentBytes - 1
	lab.part(t, nodeActs, "node", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{at: labLarge, mayBreak: true, net: []string{"--csums-alg=xxhash64"},
			config: func(cfg *replica.Config) { cfg.Volumes[0].ALExtents, cfg.Peers[0].CSumsAlg = slots, "xxhash64" }})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		var wg sync.WaitGroup
		for w := range int64(8) {
			wg.Go(func() {
				for i := w; i < 2*extents; i += 8 {
					d.nodeWrite(0, i%extents*extentBytes+(i&255)*4096, i*512, 4096)
				}
			})
		}
		wg.Wait()
		d.killNode()
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" })
		d.openNode()
		d.connectNode()
		d.waitConnected()
		d.waitSync()
		require.LessOrEqual(t, d.lastKernelResync(), slots*extentBlocks)
		require.GreaterOrEqual(t, d.lastKernelResync(), extentBlocks)
		d.requireSame()
	})
	lab.part(t, kernelActs, "kernel", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{at: labLarge, mayBreak: true, disk: []string{fmt.Sprintf("--al-extents=%d", slots)},
			net: []string{"--csums-alg=xxhash64"}, config: func(cfg *replica.Config) { cfg.Peers[0].CSumsAlg = "xxhash64" }})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		script := ""
		for w := range 4 {
			script += fmt.Sprintf("( i=%d; while [ $i -lt %d ]; do dd if=/dev/vdc of=/dev/drbd0 bs=4096 count=1 skip=$i seek=$(( i * 1024 + i )) oflag=direct conv=notrunc status=none || exit 1; i=$((i+4)); done ) & ", w, extents)
		}
		_, err := lab.guest.Run(d.ctx, script+"wait")
		require.NoError(t, err)
		d.waitNode(func(st replica.VolumeStatus) bool { return st.Received >= extents*4096 })
		require.NoError(t, lab.guest.Crash())
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == protocol.WFConnection })
		d.restartKernel()
		d.connectKernel()
		d.waitConnected()
		d.waitSync()
		require.LessOrEqual(t, d.lastKernelResync(), slots*extentBlocks)
		require.GreaterOrEqual(t, d.lastKernelResync(), extentBlocks)
		d.requireSame()
	})
}
