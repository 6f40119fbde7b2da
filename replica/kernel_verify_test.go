// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// plant changes one byte of each block on the node's disk, behind the mirror.
func (d *duo) plant(blocks ...int64) {
	d.t.Helper()
	for _, b := range blocks {
		var sector [512]byte
		_, err := d.disks[0].ReadAt(sector[:], b*4096)
		require.NoError(d.t, err)
		sector[b%512] ^= 0x10
		d.put(0, sector[:], b*4096)
	}
}

var kernelFound = regexp.MustCompile(`Out of sync: start=(\d+), size=(\d+) \(sectors\)`)

// kernelRanges is what the kernel's log says to be out of sync.
func (d *duo) kernelRanges() (out []replica.ByteRange) {
	d.t.Helper()
	for _, line := range d.kernelLog() {
		var start, size int64
		if m := kernelFound.FindStringSubmatch(line); m != nil {
			_, err := fmt.Sscan(m[1]+" "+m[2], &start, &size)
			require.NoError(d.t, err)
			out = append(out, replica.ByteRange{Off: start * 512, Len: size * 512})
		}
	}
	return out
}

// calm waits until both sides are Connected again, with that much out of sync.
func (d *duo) calm(outOfSync int64) {
	d.t.Helper()
	d.waitNode(func(st replica.VolumeStatus) bool {
		return st.State.Conn == protocol.Connected && st.OutOfSync == outOfSync && st.Pending+st.Unacked == 0
	})
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "Connected" && m.OutOfSync() == outOfSync })
}

// kernelVerify: either side begins; both find exactly the planted differences, also while
// the Primary writes; and they are repaired.
func kernelVerify(t *testing.T, lab *kernelLab) {
	for side, alg := range map[string]string{"node": "sha1", "kernel": "crc32c"} {
		lab.part(t, kernelSide(side), side+" begins, "+alg, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{
				net:    []string{"--verify-alg=" + alg},
				config: func(cfg *replica.Config) { cfg.Peers[0].VerifyAlg = alg },
			})
			d.connect()
			verify := func(from, to int64) {
				if side == "node" {
					opts := []replica.VerifyOption{replica.VerifyFrom(from)}
					if to > 0 {
						opts = append(opts, replica.VerifyTo(to))
					}
					found, err := d.vol().Verify(d.ctx, opts...)
					require.NoError(t, err)
					require.True(t, found.Complete)
					return
				}
				mark, err := lab.guest.Mark(d.ctx)
				require.NoError(t, err)
				opts := []string{fmt.Sprintf("--start=%ds", from/512)}
				if to > 0 {
					opts = append(opts, fmt.Sprintf("--stop=%ds", to/512))
				}
				_, err = d.kernel.Command(d.ctx, d.kernel.Volumes[0], "verify", opts...)
				require.NoError(t, err)
				_, _, err = lab.guest.WaitLog(d.ctx, mark, regexp.MustCompile(`Online verify +done`))
				require.NoError(t, err)
			}
			verify(0, 0)
			d.calm(0)
			require.Empty(t, d.kernelRanges())

			d.plant(99, 1340, 1341, 3980)
			verify(1341*4096, 2000*4096)
			d.calm(4096)
			require.Equal(t, []replica.ByteRange{{Off: 1341 * 4096, Len: 4096}}, d.kernelRanges())
			verify(0, 0)
			d.calm(4 * 4096)
			want := []replica.ByteRange{{Off: 99 * 4096, Len: 4096}, {Off: 1340 * 4096, Len: 8192}, {Off: 3980 * 4096, Len: 4096}}
			require.Equal(t, want, d.kernelRanges()[1:])
			d.mu.Lock()
			for _, r := range want {
				require.Contains(t, d.history, fmt.Sprintf("volume 0: %d bytes at %d are out of sync", r.Len, r.Off))
			}
			d.mu.Unlock()

			// Repair: from this node, both being Secondary; or from the kernel, as Primary.
			good := d.nodeContent(0)
			if side == "kernel" {
				good = d.kernelContent(0)
				require.NoError(t, d.kernel.Primary(d.ctx))
				d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Peer == protocol.Primary })
			}
			require.NoError(t, d.vol().Repair(d.ctx))
			d.waitSync()
			require.Equal(t, 4, d.lastKernelResync())
			d.requireBoth(good)

			// The Primary writes meanwhile.
			if side == "kernel" {
				require.NoError(t, d.kernel.Secondary(d.ctx))
				d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Peer == protocol.Secondary })
				require.NoError(t, d.node.Promote(d.ctx))
			} else {
				require.NoError(t, d.kernel.Primary(d.ctx))
			}
			done := make(chan struct{})
			before := len(d.kernelRanges())
			go func() {
				defer close(done)
				verify(0, 0)
			}()
			for i := range int64(8) {
				if side == "kernel" {
					d.nodeWrite(0, i*3<<20/2, 0, 1<<20)
				} else {
					d.kernelWrite(0, i*3<<20/2, 0, 1<<20, 64<<10)
				}
			}
			<-done
			d.calm(0)
			require.Len(t, d.kernelRanges(), before)
		})
	}
}

// kernelChecksums: a resync by checksums moves only what differs, in both directions.
func kernelChecksums(t *testing.T, lab *kernelLab) {
	for _, source := range []string{"node", "kernel"} {
		lab.part(t, kernelSide(source), "from the "+source, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{
				net:    []string{"--csums-alg=md5"},
				config: func(cfg *replica.Config) { cfg.Peers[0].CSumsAlg = "md5" },
			})
			d.connect()
			model := d.nodeContent(0)
			write := func(off, from, n int64) {
				copy(model[off:off+n], lab.pattern[from:])
				if source == "kernel" {
					d.kernelWrite(0, off, from, n, min(n, 1<<20))
				} else {
					d.nodeWrite(0, off, from, n)
				}
			}
			if source == "kernel" {
				require.NoError(t, d.kernel.Primary(d.ctx))
			} else {
				require.NoError(t, d.node.Promote(d.ctx))
			}
			write(1<<20, 0, 4<<20)
			d.disconnect(source == "node")
			write(1<<20, 0, 4<<20) // the same again
			write(2<<20, 512, 64<<10)
			d.reconnect()
			d.waitSync()
			d.requireBoth(model)
			require.Equal(t, 1024, d.lastKernelResync())
			st := d.status(0)
			moved := st.Sent
			if source == "kernel" {
				moved = st.Received
			}
			require.GreaterOrEqual(t, moved, int64(64<<10))
			// A kernel as target compares up to 1 MiB at once.
			require.LessOrEqual(t, moved, int64(1<<20+64<<10))
			if source == "kernel" {
				require.Equal(t, int64(64<<10), moved)
			}
		})
	}
}
