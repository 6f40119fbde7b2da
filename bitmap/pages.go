// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import (
	"encoding/binary"
	"iter"
)

// Pages returns the number of on-disk pages of one slot.
func (b *Bitmap) Pages() int { return len(b.ones) }

// PageOfBit returns the number of the page that holds a bit.
func (b *Bitmap) PageOfBit(bit uint64) int { return int(bit / PageBits) }

// Page copies page p into dst as it has to be on disk with one slot: bit b is bit
// b&7 of byte b>>3, and everything after the last bit is zero (spec: on-disk 4.1,
// 4.3). It does not change the page's mark; a caller that writes the copy outside
// its lock calls MarkClean now, and MarkDirty if the write fails, so that a change
// in between is not lost. It panics if there is no such page.
func (b *Bitmap) Page(p int, dst *[PageBytes]byte) {
	words := b.pageSlice(p)
	for i, v := range words {
		binary.LittleEndian.PutUint64(dst[i*8:], v)
	}
	clear(dst[len(words)*8:])
}

// LoadPage replaces the bits of page p by those of an on-disk page of one slot.
// Whatever the page holds after the last bit is dropped (spec: on-disk 4.3). The
// page becomes clean. It panics if there is no such page.
func (b *Bitmap) LoadPage(p int, src *[PageBytes]byte) {
	words := b.pageSlice(p)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(src[i*8:])
	}
	b.loaded(p)
}

// loaded masks the tail of page p and brings its counters up to date after its
// words were replaced from disk.
func (b *Bitmap) loaded(p int) {
	if p == len(b.ones)-1 {
		b.words[len(b.words)-1] &= tailMask(b.bits)
	}
	b.setOnes(p, countAll(b.pageSlice(p)))
	b.MarkClean(p)
}

func (b *Bitmap) pageSlice(p int) []uint64 {
	return b.words[p*pageWords : min((p+1)*pageWords, len(b.words))]
}

// DirtyPages iterates in ascending order over the pages that changed since they
// were loaded or marked clean. Pages may be marked while it runs.
func (b *Bitmap) DirtyPages() iter.Seq[int] {
	return func(yield func(int) bool) { b.eachDirty(yield) }
}

func (b *Bitmap) eachDirty(yield func(int) bool) {
	for p := b.dirty.next(0); p >= 0; p = b.dirty.next(p + 1) {
		if !yield(p) {
			return
		}
	}
}

// NextDirty returns the first dirty page at or after page p.
func (b *Bitmap) NextDirty(p int) (int, bool) {
	p = b.dirty.next(p)
	return p, p >= 0
}

// PageDirty reports whether page p is dirty.
func (b *Bitmap) PageDirty(p int) bool { return b.dirty.has(p) }

// DirtyCount returns the number of dirty pages. It takes constant time.
func (b *Bitmap) DirtyCount() int { return b.dirtyCount }

// MarkClean says that the disk holds page p as it is now, or will once the copy
// that was just taken has been written.
func (b *Bitmap) MarkClean(p int) {
	if b.dirty.has(p) {
		b.dirty.clear(p)
		b.dirtyCount--
	}
}

// MarkDirty says that the disk does not hold page p as it is now.
func (b *Bitmap) MarkDirty(p int) {
	if !b.dirty.has(p) {
		b.dirty.set(p)
		b.dirtyCount++
	}
}

// MarkAllDirty marks every page, for an area that was moved or never written.
func (b *Bitmap) MarkAllDirty() {
	for p := range b.ones {
		b.MarkDirty(p)
	}
}
