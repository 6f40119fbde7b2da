// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

const (
	extentBytes  = 4 << 20 // what one entry of the activity log covers
	extentBlocks = extentBytes / 4096
)

// differingBlocks returns the blocks of 4 KiB that differ between the two disks.
func (d *duo) differingBlocks() map[int]bool {
	d.t.Helper()
	node, kernel := d.nodeContent(0), d.kernelContent(0)
	differ := map[int]bool{}
	for b := 0; b < len(node); b += 4096 {
		end := min(b+4096, len(node))
		if !bytes.Equal(node[b:end], kernel[b:end]) {
			differ[b/4096] = true
		}
	}
	return differ
}

// lastKernelResync returns the number of blocks of the kernel's latest resync.
func (d *duo) lastKernelResync() int {
	d.t.Helper()
	list := d.kernelResyncs(0)
	require.NotEmpty(d.t, list)
	var kib, bits int
	_, err := fmt.Sscanf(list[len(list)-1], "%d KB [%d bits set]", &kib, &bits)
	require.NoError(d.t, err)
	return bits
}

// killNode ends the node as a dying process does: connections break, the metadata stays
// as it is.
func (d *duo) killNode() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(d.t, d.node.Shutdown(ctx))
}

// restartKernel boots the guest again and attaches the disks.
func (d *duo) restartKernel() {
	d.t.Helper()
	require.NoError(d.t, d.lab.guest.Restart(d.ctx))
	require.NoError(d.t, d.kernel.Up(d.ctx))
}

// kernelCrashOfKernelPrimary: the power of the Primary fails in the middle of writing. The
// node takes over; the kernel comes back and gets the extents it was writing to, and
// what the node wrote, and nothing else.
func kernelCrashOfKernelPrimary(t *testing.T, lab *kernelLab) {
	for _, takeover := range []bool{true, false} {
		t.Run(map[bool]string{true: "taken over", false: "comes back"}[takeover], func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true})
			d.connect()
			require.NoError(t, d.kernel.Primary(d.ctx))
			done := make(chan error, 1)
			go func() {
				// In the extent from 4 MiB on, for ever.
				_, err := lab.guest.Run(d.ctx, "while :; do dd if=/dev/vdc of=/dev/drbd0 bs=3584 count=1000 seek=1171 oflag=direct conv=notrunc status=none; "+
					"dd if=/dev/vdc of=/dev/drbd0 bs=3584 skip=7 count=1000 seek=1171 oflag=direct conv=notrunc status=none; done")
				done <- err
			}()
			d.waitNode(func(st replica.VolumeStatus) bool { return st.Received > 1<<20 })
			require.NoError(t, lab.guest.Crash())
			require.ErrorIs(t, <-done, kerneldrbd.ErrDown)
			d.waitNodeState("WFConnection Secondary/Unknown UpToDate/DUnknown")
			for b := range d.differingBlocks() {
				require.Equal(t, 1, b/extentBlocks, "block %d is not in the extent that was written to", b)
			}
			own := 0
			if takeover {
				require.NoError(t, d.node.Promote(d.ctx))
				d.nodeWrite(0, 9<<20, 0, 3*4096)
				own = 3
			}
			want := d.nodeContent(0)
			d.restartKernel()
			d.waitKernelState("StandAlone Secondary/Unknown UpToDate/DUnknown")
			d.connectKernel()
			d.waitConnected()
			d.waitSync()
			d.requireSame()
			if takeover {
				require.Equal(t, want, d.nodeContent(0), "the node's data counts")
			}
			require.Equal(t, own+extentBlocks, d.lastKernelResync())
			d.requireSameVerdicts()
		})
	}
}

// requireSameVerdicts compares what both sides have to say about the handshakes: the same
// rule, and the opposite outcome.
func (d *duo) requireSameVerdicts() {
	d.t.Helper()
	kernel := d.verdicts(d.kernelLog())
	d.mu.Lock()
	node := d.verdicts(strings.Split(d.log.String(), "\n"))
	d.mu.Unlock()
	require.Len(d.t, node, len(kernel), "kernel %v, node %v", kernel, node)
	for i := range node {
		require.Equal(d.t, mirrorRule(node[i].rule), kernel[i].rule, "kernel %v, node %v", kernel, node)
		want := node[i].outcome
		if want > -100 && want < 100 {
			want = -want
		}
		require.Equal(d.t, want, kernel[i].outcome, "kernel %v, node %v", kernel, node)
	}
}

// verdict is a line "uuid_compare()=1 by rule 70".
type verdict struct{ outcome, rule int }

func (d *duo) verdicts(lines []string) []verdict {
	var list []verdict
	for _, line := range lines {
		if _, rest, ok := strings.Cut(line, "uuid_compare()="); ok {
			var v verdict
			_, err := fmt.Sscanf(rest, "%d by rule %d", &v.outcome, &v.rule)
			require.NoError(d.t, err, line)
			list = append(list, v)
		}
	}
	return list
}

// mirrorRule returns the number that the peer gives a rule.
func mirrorRule(rule int) int {
	mirrored := map[int]int{20: 30, 30: 20, 34: 35, 35: 34, 36: 37, 37: 36, 50: 70, 70: 50, 51: 71, 71: 51, 60: 80, 80: 60}
	if m, ok := mirrored[rule]; ok {
		return m
	}
	return rule
}

// kernelCrashOfNodePrimary: the same with the node as Primary. What it had acknowledged is
// on the kernel's disk; what it had flushed is on both.
func kernelCrashOfNodePrimary(t *testing.T, lab *kernelLab) {
	for _, takeover := range []bool{true, false} {
		t.Run(map[bool]string{true: "taken over", false: "comes back"}[takeover], func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true})
			d.connect()
			require.NoError(t, d.node.Promote(d.ctx))
			acked, flushed := d.crashWriters()
			d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" })
			d.requireBlocks(d.kernelContentOf(0, labDiskBytes), acked)
			own := 0
			if takeover {
				require.NoError(t, d.kernel.Primary(d.ctx))
				d.kernelWrite(0, 9<<20, 0, 3*4096, 4096)
				own = 3
			}
			d.disks[0].Restart()
			d.openNode()
			d.connectNode()
			d.waitConnected()
			d.waitSync()
			d.requireSame()
			require.Equal(t, own+extentBlocks, d.lastKernelResync())
			d.requireSameVerdicts()
			if takeover {
				d.requireBlocks(d.nodeContent(0), acked)
			} else {
				d.requireBlocks(d.nodeContent(0), flushed)
			}
		})
	}
}

// requireBlocks checks that blocks of the pattern are where they were written to.
func (d *duo) requireBlocks(content []byte, blocks map[int64]int64) {
	d.t.Helper()
	for off, from := range blocks {
		require.True(d.t, bytes.Equal(d.lab.pattern[from:from+4096], content[off:off+4096]), "a write is lost at %d", off)
	}
}

// crashWriters writes each block of the extent from 4 MiB on, from four goroutines, until
// the node's power fails before they are done. It returns what was acknowledged, and what
// of it had been flushed: from where in the pattern the block at an offset is.
func (d *duo) crashWriters() (acked, flushed map[int64]int64) {
	require.NoError(d.t, d.disks[0].VolatileCache(true))
	var mu sync.Mutex
	acked = map[int64]int64{}
	enough := make(chan struct{})
	var wg sync.WaitGroup
	for w := range int64(4) {
		wg.Go(func() {
			for i := w; i < extentBlocks; i += 4 {
				off, from := extentBytes+i*4096, i%1000*4096
				if _, err := d.vol().WriteAtContext(d.ctx, d.lab.pattern[from:from+4096], off); err != nil {
					return
				}
				mu.Lock()
				acked[off] = from
				switch len(acked) {
				case 50:
					flushed = maps.Clone(acked)
					if err := d.vol().Flush(d.ctx); err != nil {
						flushed = nil
					}
				case 150:
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	require.NoError(d.t, d.disks[0].Crash(1))
	d.killNode()
	wg.Wait()
	require.NotEmpty(d.t, flushed)
	require.Less(d.t, len(acked), extentBlocks)
	return acked, flushed
}

// kernelCrashOfSecondary: the Primary goes on; what it writes meanwhile is all that is
// copied when the other one is back.
func kernelCrashOfSecondary(t *testing.T, lab *kernelLab) {
	lab.part(t, kernelActs, "kernel", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true})
		d.connect()
		require.NoError(t, d.node.Promote(d.ctx))
		d.nodeWrite(0, 0, 0, 1<<20)
		require.NoError(t, d.vol().Flush(d.ctx))
		d.waitQuietNode()
		require.NoError(t, lab.guest.Crash())
		d.waitNodeState("WFConnection Primary/Unknown UpToDate/DUnknown")
		d.nodeWrite(0, 9<<20, 0, 5*4096)
		d.restartKernel()
		d.connectKernel()
		d.waitSync()
		d.requireSame()
		require.GreaterOrEqual(t, d.lastKernelResync(), 5)
		require.LessOrEqual(t, d.lastKernelResync(), 5+256, "no more than was under way")
		d.requireSameVerdicts()
	})
	lab.part(t, nodeActs, "node", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true})
		d.connect()
		require.NoError(t, d.kernel.Primary(d.ctx))
		d.kernelWrite(0, 0, 0, 1<<20, 1<<20)
		_, err := lab.guest.Run(d.ctx, "sync /dev/drbd0")
		require.NoError(t, err)
		require.NoError(t, d.disks[0].VolatileCache(true))
		require.NoError(t, d.disks[0].Crash(2))
		d.killNode()
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" })
		d.kernelWrite(0, 9<<20, 0, 5*4096, 4096)
		d.disks[0].Restart()
		d.openNode()
		d.connectNode()
		d.waitSync()
		d.requireSame()
		require.GreaterOrEqual(t, d.lastKernelResync(), 5)
		require.LessOrEqual(t, d.lastKernelResync(), 5+256, "no more than was under way")
		d.requireSameVerdicts()
	})
}

// waitQuietNode waits until all is acknowledged, barriers too.
func (d *duo) waitQuietNode() {
	d.t.Helper()
	d.waitNode(func(st replica.VolumeStatus) bool { return st.Pending == 0 && st.Epochs <= 1 })
}
