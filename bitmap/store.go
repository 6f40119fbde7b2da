// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxSlots is the largest number of bitmap slots that an area can have (spec:
// on-disk 3.3).
const MaxSlots = 31

// Errors of Load and Store.
var (
	// ErrSlot is returned for a slot that is not in [0, slots), or a number of
	// slots that is not in [1, MaxSlots].
	ErrSlot = errors.New("bitmap: no such bitmap slot")

	// ErrNotReadable is returned by Store if one of several slots is to be written
	// through something that is not an io.ReaderAt: the words of the other slots
	// lie in the same blocks.
	ErrNotReadable = errors.New("bitmap: storing one of several slots needs an io.ReaderAt too")
)

// An Area is the bitmap area of a metadata device. With several slots (v09) the
// slots are interleaved in units of 32-bit little-endian words, so that page p of
// all slots together is the Slots blocks from block p*Slots on (spec: on-disk
// 4.2).
type Area struct {
	Offset int64 // start of the area on the device, in bytes
	Slots  int   // number of bitmap slots; 1 for v07 and v08
	Limit  int64 // bytes that the device has from Offset on; 0: enough
}

// AreaBytes returns the size of the meaningful part of an area in bytes, for a
// number of bits per slot (spec: on-disk 2.2, 4.3).
func AreaBytes(bits uint64, slots int) int64 {
	words := (bits + wordBits - 1) / wordBits
	n := int64(words) * 8 * int64(slots)
	return (n + PageBytes - 1) / PageBytes * PageBytes
}

// Load replaces the whole bitmap by what one slot of an area of the given number of
// slots holds; off is where the area begins. All pages become clean. It is Area.Load
// without a limit.
func (b *Bitmap) Load(r io.ReaderAt, off int64, slot, slots int) error {
	return Area{Offset: off, Slots: slots}.Load(b, r, slot)
}

// Store writes the dirty pages to one slot of an area of the given number of slots
// and marks them clean; off is where the area begins. It is Area.Store without a
// limit.
func (b *Bitmap) Store(w io.WriterAt, off int64, slot, slots int) error {
	return Area{Offset: off, Slots: slots}.Store(b, w, slot)
}

// ioPages is the number of pages moved by one read or write if they are neighbours
// and have one slot; with more slots it is less, so that the buffer stays small.
const ioPages = 64

// Load replaces the whole bitmap by what slot holds. Bits past the end are dropped
// (spec: on-disk 4.3), and all pages become clean. A device that ends within the
// area's last block is read up to there, as long as all bits are present. After an
// error of r the bitmap is partly replaced.
func (a Area) Load(b *Bitmap, r io.ReaderAt, slot int) error {
	if slot < 0 || slot >= a.Slots || a.Slots > MaxSlots {
		return fmt.Errorf("%w: slot %d of %d", ErrSlot, slot, a.Slots)
	}
	batch := max(1, ioPages/a.Slots)
	var buf []byte
	for p := 0; p < b.Pages(); p += batch {
		n := min(batch, b.Pages()-p)
		var err error
		if buf, err = a.read(b, r, p, n, buf); err != nil {
			return err
		}
		for i := range n {
			a.extract(b, p+i, slot, buf[i*a.Slots*PageBytes:])
		}
	}
	return nil
}

// Store writes the dirty pages of b to slot and marks each clean once its write
// has succeeded. Nothing is flushed: the caller does that before it relies on the
// disk (spec: on-disk 10.3). With several slots the blocks are read first, for they
// hold words of the other slots too; use StoreAll where all slots are in memory.
func (a Area) Store(b *Bitmap, w io.WriterAt, slot int) error {
	if slot < 0 || slot >= a.Slots || a.Slots > MaxSlots {
		return fmt.Errorf("%w: slot %d of %d", ErrSlot, slot, a.Slots)
	}
	var r io.ReaderAt
	if a.Slots > 1 {
		var ok bool
		if r, ok = w.(io.ReaderAt); !ok {
			return ErrNotReadable
		}
	}
	var buf []byte
	return a.eachDirtyRun([]*Bitmap{b}, func(p, n int) error {
		var err error
		if buf, err = a.read(b, r, p, n, buf); err != nil {
			return err
		}
		for i := range n {
			a.insert(b, p+i, slot, buf[i*a.Slots*PageBytes:])
		}
		return a.write(b, w, p, buf)
	})
}

// StoreAll writes the pages that are dirty in any of the bitmaps, which are all
// the slots of the area in order and have one length, and marks each clean once
// its write has succeeded. Nothing is read and nothing is flushed.
func (a Area) StoreAll(maps []*Bitmap, w io.WriterAt) error {
	if len(maps) != a.Slots || a.Slots < 1 || a.Slots > MaxSlots {
		return fmt.Errorf("%w: %d bitmaps for %d slots", ErrSlot, len(maps), a.Slots)
	}
	for _, b := range maps {
		if b.bits != maps[0].bits {
			return fmt.Errorf("bitmap: slots of one area have %d and %d bits, want the same", maps[0].bits, b.bits)
		}
	}
	var buf []byte
	return a.eachDirtyRun(maps, func(p, n int) error {
		buf, _ = a.read(maps[0], nil, p, n, buf)
		for slot, b := range maps {
			for i := range n {
				a.insert(b, p+i, slot, buf[i*a.Slots*PageBytes:])
			}
		}
		return a.write(maps[0], w, p, buf)
	})
}

// eachDirtyRun calls store for runs of neighbouring pages that are dirty in one of
// the maps, and marks them clean.
func (a Area) eachDirtyRun(maps []*Bitmap, store func(p, n int) error) error {
	dirty := func(p int) bool {
		for _, b := range maps {
			if b.PageDirty(p) {
				return true
			}
		}
		return false
	}
	pages, batch := maps[0].Pages(), max(1, ioPages/a.Slots)
	for p := 0; p < pages; p++ {
		n := 0
		for n < batch && p+n < pages && dirty(p+n) {
			n++
		}
		if n == 0 {
			continue
		}
		if err := store(p, n); err != nil {
			return err
		}
		for i := range n {
			for _, b := range maps {
				b.MarkClean(p + i)
			}
		}
		p += n - 1
	}
	return nil
}

// span returns where the blocks of n pages from page p on lie, relative to the
// area, and how many bytes they have on the device.
func (a Area) span(b *Bitmap, p, n int) (off, size int64) {
	block := int64(a.Slots) * PageBytes
	off = int64(p) * block
	end := min(off+int64(n)*block, AreaBytes(b.bits, a.Slots))
	if a.Limit > 0 {
		end = min(end, a.Limit)
	}
	return off, max(0, end-off)
}

// read returns a buffer with the blocks of n pages from page p on: their content
// on the device, or zeroes where r is nil or the area ends. It uses buf if that is
// large enough.
func (a Area) read(b *Bitmap, r io.ReaderAt, p, n int, buf []byte) ([]byte, error) {
	size := n * a.Slots * PageBytes
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	clear(buf)
	if r == nil {
		return buf, nil
	}
	off, have := a.span(b, p, n)
	got, err := r.ReadAt(buf[:have], a.Offset+off)
	need := min(off+have, int64(b.Words())*8*int64(a.Slots)) - off
	if int64(got) < need {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return buf, fmt.Errorf("bitmap: read pages %d to %d at byte %d: %w", p, p+n, a.Offset+off, err)
	}
	return buf, nil
}

func (a Area) write(b *Bitmap, w io.WriterAt, p int, buf []byte) error {
	n := len(buf) / (a.Slots * PageBytes)
	off, have := a.span(b, p, n)
	if _, err := w.WriteAt(buf[:have], a.Offset+off); err != nil {
		return fmt.Errorf("bitmap: write pages %d to %d at byte %d: %w", p, p+n, a.Offset+off, err)
	}
	return nil
}

// extract takes slot's words of page p out of its blocks.
func (a Area) extract(b *Bitmap, p, slot int, blocks []byte) {
	stride := a.Slots * 4
	at := blocks[slot*4:]
	words := b.pageSlice(p)
	for i := range words {
		lo := binary.LittleEndian.Uint32(at[2*i*stride:])
		hi := binary.LittleEndian.Uint32(at[(2*i+1)*stride:])
		words[i] = uint64(hi)<<32 | uint64(lo)
	}
	b.loaded(p)
}

// insert puts the words of page p into slot's place in its blocks.
func (a Area) insert(b *Bitmap, p, slot int, blocks []byte) {
	stride := a.Slots * 4
	at := blocks[slot*4:]
	for i, v := range b.pageSlice(p) {
		binary.LittleEndian.PutUint32(at[2*i*stride:], uint32(v))
		binary.LittleEndian.PutUint32(at[(2*i+1)*stride:], uint32(v>>32))
	}
}
