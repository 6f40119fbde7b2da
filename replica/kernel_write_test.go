// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/stretchr/testify/require"
)

// writeSizes are in bytes; the offsets of writes are odd multiples of 512.
var writeSizes = []int64{512, 1024, 3584, 4096, 8192, 33 * 512, 128 << 10, 128<<10 + 512, 512 << 10, 1 << 20}

// kernelWrites: an application writes on either side, with flushes in between.
func kernelWrites(t *testing.T, lab *kernelLab, p protocol.ReplicationProtocol) {
	d := newDuo(t, lab, duoOptions{protocol: p})
	d.connect()
	model := d.nodeContent(0)
	place := func(i int) (off, from int64) { return int64(i)<<20 + int64(2*i+1)*512, int64(i) * 4096 }

	require.NoError(t, d.node.Promote(d.ctx))
	for i, size := range writeSizes {
		off, from := place(i)
		d.nodeWrite(0, off, from, size)
		copy(model[off:off+size], lab.pattern[from:])
		if i%3 == 0 {
			require.NoError(t, d.vol().Flush(d.ctx))
		}
	}
	var wg sync.WaitGroup // many at one time, in several epochs
	for w := range 8 {
		off := int64(12+w) << 20
		copy(model[off:off+32*3584], lab.pattern[w*4096:])
		wg.Go(func() {
			for i := range int64(32) {
				d.nodeWrite(0, off+i*3584, int64(w*4096)+i*3584, 3584)
			}
		})
	}
	wg.Wait()
	for _, w := range everySize() {
		d.nodeWrite(0, w.off, w.from, w.size)
		copy(model[w.off:w.off+w.size], lab.pattern[w.from:])
	}
	require.NoError(t, d.vol().Flush(d.ctx))
	_, err := d.vol().WriteFUA(d.ctx, lab.pattern[:4096], 21<<20)
	require.NoError(t, err)
	copy(model[21<<20:], lab.pattern[:4096])
	require.NoError(t, d.node.Demote(d.ctx)) // waits until all is acknowledged
	d.waitQuiet()
	d.requireBoth(model)

	require.NoError(t, d.kernel.Primary(d.ctx))
	for i, size := range writeSizes {
		off, from := place(i)
		off, from = off+512, from+1<<20
		d.kernelWrite(0, off, from, size, size)
		copy(model[off:off+size], lab.pattern[from:])
		if i%3 == 0 {
			_, err := lab.guest.Run(d.ctx, "sync /dev/drbd0")
			require.NoError(t, err)
		}
	}
	// Through the page cache and several processes: writes of many sizes at one time.
	script := ""
	for w := range 4 {
		off := int64(12+2*w) << 20
		from := int64(w) * 700 * 512
		script += fmt.Sprintf("dd if=/dev/vdc of=/dev/drbd0 bs=512 skip=%d seek=%d count=700 conv=notrunc,fsync status=none & ", from/512, off/512+3)
		copy(model[off+3*512:off+703*512], lab.pattern[from:])
	}
	_, err = lab.guest.Run(d.ctx, script+"wait")
	require.NoError(t, err)
	var list strings.Builder
	for _, w := range everySize() {
		from := w.from + 512
		fmt.Fprintf(&list, " %d:%d:%d", w.size, from, w.off)
		copy(model[w.off:w.off+w.size], lab.pattern[from:])
	}
	_, err = lab.guest.Run(d.ctx, "for w in"+list.String()+"; do n=${w%%:*}; w=${w#*:}; dd if=/dev/vdc of=/dev/drbd0 bs=$n count=1 skip=${w%:*} seek=${w#*:} "+
		"conv=notrunc iflag=direct,skip_bytes oflag=direct,seek_bytes status=none || exit 1; done")
	require.NoError(t, err)
	require.NoError(t, d.kernel.Secondary(d.ctx))
	d.waitQuiet()
	d.requireBoth(model)
	d.discardAndZeroes(model)
	require.Zero(t, d.status(0).OutOfSync)
}

// sizedWrite is a write of some size, at an odd sector.
type sizedWrite struct{ off, from, size int64 }

// everySize are writes of every size up to 32 KiB, one behind the other from 10.5 MiB on.
func everySize() (list []sizedWrite) {
	off := int64(21) << 19
	for size := int64(512); size <= 32<<10; size += 512 {
		off |= 512
		list = append(list, sizedWrite{off, size * 64, size})
		off += size
	}
	return list
}

// waitQuiet waits until nothing is under way on either side.
func (d *duo) waitQuiet() {
	d.t.Helper()
	var last kerneldrbd.Minor
	_, err := d.kernel.Wait(d.ctx, func(m kerneldrbd.Minor) bool {
		last = m
		return m.Counters["pe"]+m.Counters["ua"]+m.Counters["lo"]+m.Counters["ap"] == 0 && d.nodeIdle()
	})
	require.NoError(d.t, err, "something hangs: kernel %v, node:\n%v", last.Counters, d.node.Status())
}

func (d *duo) nodeIdle() bool {
	st := d.status(0)
	return st.Pending+st.Unacked+st.LocalPending+st.AppPending == 0
}

// kernelDiscardAndZeroes: ranges that are given up or zeroed, aligned and not.
func kernelDiscardAndZeroes(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx))
	d.nodeWrite(0, 0, 0, labPatternBytes)
	d.nodeWrite(0, labPatternBytes, 0, labPatternBytes)
	require.NoError(t, d.node.Demote(d.ctx))
	d.discardAndZeroes(d.nodeContent(0))
}

// discardAndZeroes gives up and zeroes ranges from both sides, below 8 MiB.
func (d *duo) discardAndZeroes(model []byte) {
	t, lab := d.t, d.lab
	t.Helper()
	require.NoError(t, d.node.Promote(d.ctx))
	zero := func(off, n int64) { clear(model[off : off+n]) }

	require.NoError(t, d.vol().WriteZeroes(d.ctx, 3*512, 5*512))
	zero(3*512, 5*512)
	require.NoError(t, d.vol().WriteZeroes(d.ctx, 1<<20, 1<<20))
	zero(1<<20, 1<<20)
	require.NoError(t, d.vol().Discard(d.ctx, 2<<20, 256<<10))
	zero(2<<20, 256<<10) // these disks read zeroes after a discard
	require.NoError(t, d.vol().Discard(d.ctx, 3<<20+512, 64<<10))
	zero(3<<20+512, 64<<10)
	require.NoError(t, d.node.Demote(d.ctx))
	d.waitQuiet()
	d.requireBoth(model)

	require.NoError(t, d.kernel.Primary(d.ctx))
	_, err := lab.guest.Run(d.ctx, fmt.Sprintf("blkdiscard -o %d -l %d /dev/drbd0 && blkdiscard -o %d -l %d /dev/drbd0", 5<<20, 1<<20, 6<<20+1536, 512*13))
	require.NoError(t, err)
	zero(5<<20, 1<<20)
	zero(6<<20+1536, 512*13)
	_, err = lab.guest.Run(d.ctx, fmt.Sprintf("zero-range -z -o %d -l %d /dev/drbd0 && zero-range -z -o %d -l %d /dev/drbd0", 7<<20, 256<<10, 4<<20+512, 512*11))
	require.NoError(t, err)
	zero(7<<20, 256<<10)
	zero(4<<20+512, 512*11)
	require.NoError(t, d.kernel.Secondary(d.ctx))
	d.waitQuiet()
	d.requireBoth(model)
}
