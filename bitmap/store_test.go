// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// disk is a device in memory that counts and can fail.
type disk struct {
	data          []byte
	reads, writes int
	failWrite     int // number of the write that fails, from 1; 0: none
	wrote         map[int64]int
}

var errDisk = errors.New("disk broken")

func newDisk(size int) *disk { return &disk{data: make([]byte, size), wrote: map[int64]int{}} }

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.reads++
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	n := copy(p, d.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.writes++
	if d.writes == d.failWrite {
		return 0, errDisk
	}
	if off+int64(len(p)) > int64(len(d.data)) {
		return 0, fmt.Errorf("write of %d bytes at %d: past the end", len(p), off)
	}
	d.wrote[off] += len(p)
	return copy(d.data[off:], p), nil
}

// onlyWriter hides that a disk can be read.
type onlyWriter struct{ io.WriterAt }

func golden(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".md.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)
	return raw
}

// Bitmaps as real tools and a real kernel wrote them: the number of bits is theirs
// (after apply-al without those that the tool sets past the end), and storing what was loaded gives the same bytes, as far as they mean something.
func TestGoldenImages(t *testing.T) {
	for _, tc := range []struct {
		name   string
		off    int
		bits   uint64
		counts []uint64 // per slot
	}{
		{"v08-internal-crash", 0, 262126, []uint64{147}},
		{"v08-internal-crash.applied", 0, 262126, []uint64{68674}},
		{"v08-internal-attached", 0, 262126, []uint64{262126}},
		{"v08-flexext-last-extent.applied", 36864, 262144, []uint64{2048}},
		{"v09-internal-3peers-bitmaps", 0, 4000, []uint64{2, 1320, 1984}},
		{"v09-internal-3peers-crash.applied", 0, 500000, []uint64{5408, 5408, 5408}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw := golden(t, tc.name)
			slots := len(tc.counts)
			var maps []*bitmap.Bitmap
			for slot, want := range tc.counts {
				m := bitmap.New(tc.bits)
				require.NoError(t, m.Load(bytes.NewReader(raw), int64(tc.off), slot, slots))
				require.Equal(t, int(want), int(m.Count()), "slot %d", slot)
				require.Zero(t, m.DirtyCount())
				maps = append(maps, m)
			}
			size := int(bitmap.AreaBytes(tc.bits, slots))
			one, all := newDisk(size), newDisk(size)
			for slot, m := range maps {
				m.MarkAllDirty()
				require.NoError(t, m.Store(one, 0, slot, slots))
				require.Zero(t, m.DirtyCount())
				m.MarkAllDirty()
			}
			require.NoError(t, bitmap.Area{Slots: slots}.StoreAll(maps, all))
			want := bytes.Clone(raw[tc.off:][:size])
			maskTail(want, tc.bits, slots)
			require.True(t, bytes.Equal(want, one.data))
			require.True(t, bytes.Equal(want, all.data))
		})
	}
}

// maskTail clears what lies after the last bit of each slot, by the formula of the
// specification (on-disk 4.2).
func maskTail(area []byte, bits uint64, slots int) {
	for word := range len(area) / 4 {
		first := uint64(word/slots) * 32
		v := binary.LittleEndian.Uint32(area[4*word:])
		for bit := range uint64(32) {
			if first+bit >= bits {
				v &^= 1 << bit
			}
		}
		binary.LittleEndian.PutUint32(area[4*word:], v)
	}
}

// The example of the specification, on-disk 4.2.
func TestInterleaving(t *testing.T) {
	d := newDisk(4096)
	var maps []*bitmap.Bitmap
	for slot, v := range []uint64{0x0000_0001_0000_0002, 0x1111_1111_2222_2222, 0x7777_7777_8888_8888} {
		m := bitmap.New(64)
		_, err := m.MergePlain(0, binary.LittleEndian.AppendUint64(nil, v))
		require.NoError(t, err)
		require.NoError(t, m.Store(d, 0, slot, 3))
		maps = append(maps, m)
	}
	require.Equal(t, unhex(t, "02000000 22222222 88888888 01000000 11111111 77777777"), d.data[:24])
	got := bitmap.New(64)
	for slot, want := range maps {
		require.NoError(t, got.Load(d, 0, slot, 3))
		same(t, want, got)
	}
}

// Slots written in any order and way read back, and nothing outside their area or of
// another slot is touched.
func TestSlotsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.SampledFrom([]int{1, 1, 2, 3, 31}).Draw(t, "slots")
		n := rapid.OneOf(rapid.Uint64Range(1, 300), rapid.Uint64Range(1, 5*bitmap.PageBits)).Draw(t, "bits")
		off := 4096 * rapid.IntRange(0, 2).Draw(t, "offset")
		size := int(bitmap.AreaBytes(n, slots))
		d := newDisk(off + size + 4096)
		for i := range d.data {
			d.data[i] = 0xa5
		}
		area := bitmap.Area{Offset: int64(off), Slots: slots}
		maps := make([]*bitmap.Bitmap, slots)
		for slot := range maps {
			maps[slot] = bitmap.New(n)
			maps[slot].MarkAllDirty()
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			slot := rapid.IntRange(0, slots-1).Draw(t, "slot")
			from := rapid.Uint64Range(0, n).Draw(t, "from")
			maps[slot].SetRange(from, from+rapid.Uint64Range(1, n).Draw(t, "length"))
			if rapid.Bool().Draw(t, "all") {
				require.NoError(t, area.StoreAll(maps, onlyWriter{d}))
			} else {
				require.NoError(t, maps[slot].Store(d, int64(off), slot, slots))
			}
		}
		require.NoError(t, area.StoreAll(maps, d))
		for slot, want := range maps {
			require.Zero(t, want.DirtyCount())
			got := bitmap.New(n)
			got.SetAll()
			require.NoError(t, got.Load(d, int64(off), slot, slots))
			same(t, want, got)
		}
		for i, v := range d.data {
			if i < off || i >= off+size {
				require.Equal(t, byte(0xa5), v, "byte %d is outside", i)
			}
		}
	})
}

// Only dirty pages are written, neighbours in one write.
func TestStoreWritesDirtyPages(t *testing.T) {
	m := bitmap.New(1000 * bitmap.PageBits)
	d := newDisk(1000 * 4096)
	require.NoError(t, m.Store(onlyWriter{d}, 0, 0, 1))
	require.Zero(t, d.writes)
	m.SetRange(10*bitmap.PageBits, 12*bitmap.PageBits)
	m.Set(100 * bitmap.PageBits)
	m.SetRange(500*bitmap.PageBits, 700*bitmap.PageBits)
	require.NoError(t, m.Store(onlyWriter{d}, 0, 0, 1))
	require.Equal(t, map[int64]int{
		10 * 4096: 2 * 4096, 100 * 4096: 4096,
		500 * 4096: 64 * 4096, 564 * 4096: 64 * 4096, 628 * 4096: 64 * 4096, 692 * 4096: 8 * 4096,
	}, d.wrote)
	require.Zero(t, d.reads)
}

// A page whose write failed stays dirty, whichever write it is.
func TestStoreFailure(t *testing.T) {
	for fail := 1; ; fail++ {
		m := bitmap.New(10 * bitmap.PageBits)
		for p := uint64(0); p < 10; p += 2 {
			m.Set(p * bitmap.PageBits)
		}
		d := newDisk(10 * 4096)
		d.failWrite = fail
		err := m.Store(d, 0, 0, 1)
		if err == nil {
			require.Equal(t, 6, fail)
			break
		}
		require.ErrorIs(t, err, errDisk)
		require.Equal(t, 5-(fail-1), m.DirtyCount())
		require.True(t, m.PageDirty(2*(fail-1)))
		d.failWrite = 0
		require.NoError(t, m.Store(d, 0, 0, 1))
		got := bitmap.New(m.Len())
		require.NoError(t, got.Load(d, 0, 0, 1))
		same(t, m, got)
	}
}

// A device may end within the last block, as long as it holds all bits.
func TestShortLastBlock(t *testing.T) {
	const n = bitmap.PageBits + 8*1000
	m := build(n, span{0, 1}, span{n - 1, n})
	d := newDisk(4096 + 1024)
	area := bitmap.Area{Slots: 1, Limit: int64(len(d.data))}
	require.NoError(t, area.Store(m, d, 0))
	got := bitmap.New(n)
	require.NoError(t, got.Load(d, 0, 0, 1))
	same(t, m, got)
	require.NoError(t, area.Load(got, d, 0))

	d.data = d.data[:4096+512]
	require.ErrorIs(t, got.Load(d, 0, 0, 1), io.ErrUnexpectedEOF)
	d.data = d.data[:100]
	require.ErrorIs(t, got.Load(d, 0, 0, 1), io.ErrUnexpectedEOF)
}

func TestSlotErrors(t *testing.T) {
	m, d := bitmap.New(100), newDisk(4096*31)
	for _, tc := range [][2]int{{-1, 1}, {1, 1}, {0, 0}, {0, 32}, {31, 31}} {
		require.ErrorIs(t, m.Load(d, 0, tc[0], tc[1]), bitmap.ErrSlot)
		require.ErrorIs(t, m.Store(d, 0, tc[0], tc[1]), bitmap.ErrSlot)
	}
	require.ErrorIs(t, m.Store(onlyWriter{d}, 0, 0, 2), bitmap.ErrNotReadable)
	require.ErrorIs(t, bitmap.Area{Slots: 2}.StoreAll([]*bitmap.Bitmap{m}, d), bitmap.ErrSlot)
	require.ErrorIs(t, bitmap.Area{}.StoreAll(nil, d), bitmap.ErrSlot)
	require.Error(t, bitmap.Area{Slots: 2}.StoreAll([]*bitmap.Bitmap{m, bitmap.New(99)}, d))
}

// The sizes of the specification, on-disk 2.2 and 4.3.
func TestAreaBytes(t *testing.T) {
	for _, tc := range []struct {
		bits  uint64
		slots int
		want  int64
	}{
		{0, 1, 0}, {1, 1, 4096}, {32768, 1, 4096}, {32769, 1, 8192}, {64, 3, 4096},
		{500000, 3, 188416}, {25600, 31, 102400}, {1 << 28, 1, 32 << 20},
	} {
		require.Equal(t, tc.want, bitmap.AreaBytes(tc.bits, tc.slots), "%d bits, %d slots", tc.bits, tc.slots)
	}
}
