// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// fillNodeDisk and fillKernelDisk put different data onto disks with fresh metadata,
// behind DRBD's back.
func (d *duo) fillNodeDisk() {
	d.t.Helper()
	for off := int64(0); off+labPatternBytes <= labDiskBytes-1<<20; off += labPatternBytes {
		d.put(0, d.lab.pattern, off)
	}
}

func (d *duo) fillKernelDisk() {
	d.t.Helper()
	f, err := os.OpenFile(d.lab.disks[0], os.O_WRONLY, 0)
	require.NoError(d.t, err)
	for off := int64(512); off+labPatternBytes <= labDiskBytes-1<<20; off += labPatternBytes {
		_, err := f.WriteAt(d.lab.pattern, off)
		require.NoError(d.t, err)
	}
	require.NoError(d.t, f.Close())
}

// kernelFullSyncToKernel: fresh disks; forcing one side to Primary fills the other.
func kernelFullSyncToKernel(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{fresh: true})
	d.fillNodeDisk()
	d.connect()
	d.waitKernelState("Connected Secondary/Secondary Inconsistent/Inconsistent")
	d.waitNodeState("Connected Secondary/Secondary Inconsistent/Inconsistent")
	before := d.nodeContent(0)
	require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
	d.waitKernelState("Connected Secondary/Primary UpToDate/UpToDate")
	d.waitSync()
	d.requireBoth(before)
	require.NoError(t, d.node.Demote(d.ctx))
	d.requireUUIDsAgree()
}

func kernelFullSyncFromKernel(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{fresh: true})
	d.fillKernelDisk()
	d.connect()
	d.waitKernelState("Connected Secondary/Secondary Inconsistent/Inconsistent")
	d.waitNodeState("Connected Secondary/Secondary Inconsistent/Inconsistent")
	before := d.kernelContent(0)
	require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
	d.waitNodeState("Connected Secondary/Primary UpToDate/UpToDate")
	d.waitSync()
	d.requireBoth(before)
	require.NoError(t, d.kernel.Secondary(d.ctx))
	d.requireUUIDsAgree()
}

// requireUUIDsAgree compares the generation identifiers of both Secondaries. In the
// history bit 0 may differ: it says who was Primary, and is no part of the identity.
func (d *duo) requireUUIDsAgree() {
	d.t.Helper()
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Role == "Secondary" })
	own := d.status(0).IDs
	out, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "get-gi")
	require.NoError(d.t, err)
	var kernel [4]uint64
	_, err = fmt.Sscanf(strings.ReplaceAll(strings.TrimSpace(out), ":", " "), "%X %X %X %X", &kernel[0], &kernel[1], &kernel[2], &kernel[3])
	require.NoError(d.t, err, out)
	node := [4]uint64{uint64(own.Current), uint64(own.Bitmap), uint64(own.History[0]), uint64(own.History[1])}
	require.Equal(d.t, node[0], kernel[0])
	for i := 1; i < 4; i++ {
		require.Equal(d.t, node[i]&^1, kernel[i]&^1, "%X and %X", node, kernel)
	}
}

// kernelLateJoiner: a Primary that was in use alone meets a peer with fresh metadata.
func kernelLateJoiner(t *testing.T, lab *kernelLab) {
	for _, side := range []string{"node first", "kernel first"} {
		lab.part(t, kernelSide(side), side, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{fresh: true})
			if side == "node first" {
				require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
				d.nodeWrite(0, 12345*512, 0, labPatternBytes)
			} else {
				require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
				d.kernelWrite(0, 12345*512, 0, labPatternBytes, 1<<20)
			}
			d.connect()
			d.waitSync()
			d.requireSame()
			require.Equal(t, lab.pattern, d.nodeContent(0)[12345*512:][:labPatternBytes])
		})
	}
}

// kernelSkipInitialSync: the administrator says that fresh disks are equal.
func kernelSkipInitialSync(t *testing.T, lab *kernelLab) {
	for _, side := range []string{"node", "kernel"} {
		lab.part(t, kernelSide(side), side, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{fresh: true})
			d.connect()
			d.waitKernelState("Connected Secondary/Secondary Inconsistent/Inconsistent")
			d.waitNodeState("Connected Secondary/Secondary Inconsistent/Inconsistent")
			if side == "node" {
				require.NoError(t, d.vol().ClearBitmap(d.ctx))
			} else {
				_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "new-current-uuid", "--clear-bitmap")
				require.NoError(t, err)
			}
			d.waitSync()
			d.waitKernelState("Connected Secondary/Secondary UpToDate/UpToDate")
			d.requireUUIDsAgree()
			require.NotEqual(t, metadata.UUID(metadata.UUIDJustCreated), d.status(0).IDs.Current)
			d.requireNoResync()
		})
	}
}

// requireNoResync checks that nothing was copied.
func (d *duo) requireNoResync() {
	d.t.Helper()
	d.mu.Lock()
	history := slices.Clone(d.history)
	d.mu.Unlock()
	for _, line := range slices.Concat(d.kernelLog(), history) {
		require.NotRegexp(d.t, `-> (SyncSource|SyncTarget) `, line)
	}
}

// kernelOutage: one side goes on alone. When the other one returns, both know the same
// blocks to differ, and only these travel. The roles alternate.
func kernelOutage(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	model := d.nodeContent(0)
	write := func(kernel bool, off, from, n int64) {
		copy(model[off:off+n], lab.pattern[from:])
		if kernel {
			d.kernelWrite(0, off, from, n, n)
		} else {
			d.nodeWrite(0, off, from, n)
		}
	}
	for round := range int64(10) {
		d.ctx = labContext(t)
		kernel := round%2 == 1
		if kernel {
			require.NoError(t, d.kernel.Primary(d.ctx))
		} else {
			require.NoError(t, d.node.Promote(d.ctx))
		}
		write(kernel, round<<20, 0, 64<<10) // while connected
		primaryLeaves := round/2%2 == 0
		d.disconnect(kernel == primaryLeaves)
		// 4 KiB at an even place; 512 bytes in another block; 8 KiB over three blocks.
		write(kernel, 9<<20+round*40960, 4096, 4096)
		write(kernel, 15<<20+round*40960+1024, 512, 512)
		write(kernel, 18<<20+round*40960+3*512, 8192, 8192)
		blocks := uint64(1 + 1 + 3)
		if kernel {
			oos := d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Counters["ap"] == 0 }).OutOfSync()
			if !primaryLeaves && oos == int64(blocks+16)*4096 {
				// The node was gone before the kernel asked it whether the epoch of the first
				// write is durable: without that word it marks what it wrote.
				blocks += 16
			}
			require.EqualValues(t, blocks*4096, oos)
		} else {
			require.EqualValues(t, blocks*4096, d.status(0).OutOfSync)
		}
		d.reconnect()
		d.waitSync()
		require.Equal(t, []string{fmt.Sprintf("%d KB [%d bits set]", blocks*4, blocks)}, d.kernelResyncs(int(round)))
		require.Equal(t, blocks, d.nodeResyncBlocks(int(round)))
		d.requireBoth(model)
		if kernel {
			require.NoError(t, d.kernel.Secondary(d.ctx))
		} else {
			require.NoError(t, d.node.Demote(d.ctx))
		}
		d.requireUUIDsAgree()
	}
}

// disconnect ends the connection from one side, and waits until the other one looks for it.
func (d *duo) disconnect(kernel bool) {
	d.t.Helper()
	if kernel {
		require.NoError(d.t, d.kernel.Disconnect(d.ctx, d.port))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == protocol.WFConnection })
	} else {
		require.NoError(d.t, d.node.Disconnect(d.ctx))
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" })
	}
}

// reconnect connects the side that is StandAlone.
func (d *duo) reconnect() {
	d.t.Helper()
	if d.status(0).State.Conn == protocol.StandAlone {
		d.connectNode()
	}
	if m, err := d.kernel.State(d.ctx, d.kernel.Volumes[0]); err == nil && m.Conn == "StandAlone" {
		d.connectKernel()
	}
	d.waitConnected()
}

// kernelResyncs returns how much the kernel says was to be copied, of the resyncs from
// the skip-th on.
func (d *duo) kernelResyncs(skip int) []string {
	d.t.Helper()
	var list []string
	for _, line := range d.kernelLog() {
		if _, rest, ok := strings.Cut(line, " (will sync "); ok {
			list = append(list, strings.TrimSuffix(rest, ")."))
		}
	}
	require.GreaterOrEqual(d.t, len(list), skip)
	return list[skip:]
}

// nodeResyncBlocks returns the number of blocks of the node's i-th resync.
func (d *duo) nodeResyncBlocks(i int) uint64 {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []uint64
	for _, line := range d.history {
		var volume int
		var kib uint64
		if _, err := fmt.Sscanf(line, "volume %d: resync of %d KiB began", &volume, &kib); err == nil {
			found = append(found, kib/4)
		}
	}
	require.Greater(d.t, len(found), i, "%v", d.history)
	return found[i]
}

// kernelWritesWhileSyncing: the application goes on while a full sync runs, in both
// directions.
func kernelWritesWhileSyncing(t *testing.T, lab *kernelLab) {
	for _, side := range []string{"node", "kernel"} {
		lab.part(t, kernelSide(side), side, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{fresh: true})
			d.connect()
			d.waitNodeState("Connected Secondary/Secondary Inconsistent/Inconsistent")
			d.waitKernelState("Connected Secondary/Secondary Inconsistent/Inconsistent")
			model := d.nodeContent(0)
			var wg sync.WaitGroup
			if side == "node" {
				require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
				for w := range int64(4) {
					wg.Go(func() {
						for i := range int64(64) {
							off := (i*7+w)*(labDiskBytes-1<<20)/512/512*512 + 512
							d.nodeWrite(0, off, w*65536, 7*512)
						}
					})
				}
			} else {
				require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
				for i := range int64(16) {
					d.kernelWrite(0, i<<20+512, i<<16, 64<<10, 3584<<(i%2))
				}
			}
			_ = model
			wg.Wait()
			d.waitSync()
			d.requireSame()
		})
	}
}
