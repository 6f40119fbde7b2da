// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import (
	"fmt"
	"iter"
	"math"
	"math/bits"
)

const (
	// BlockSize is the number of bytes of storage that one bit stands for
	// (spec: on-disk 4.1). Do not change: it is part of the disk format and of
	// the wire protocol.
	BlockSize = 4096

	// PageBytes is the size of an on-disk page in bytes.
	PageBytes = 4096

	// PageBits is the number of bits of one slot's on-disk page of 4096 bytes;
	// one page covers 128 MiB of storage. Do not change.
	PageBits = PageBytes * 8

	wordBits  = 64
	pageWords = PageBits / wordBits
)

// A Bitmap says which blocks of a volume differ from one peer's copy: bit b
// covers the storage bytes [b*BlockSize, (b+1)*BlockSize), 1 means out of sync
// (spec: on-disk 4.1).
//
// Beside the bits it keeps the number of set bits per page, two summaries that
// let searches skip empty and full pages, and a mark for every page that changed
// since it was last loaded or marked clean. All of it costs 1/32768 of the
// storage plus less than one per mille of that.
//
// A bit number at or beyond Len is never set: Set, Clear and Test of it do
// nothing and return false, and ranges are clipped. No method but New, Resize,
// Load and Store allocates.
//
// A Bitmap is not safe for concurrent use; the caller's lock guards it.
type Bitmap struct {
	bits  uint64
	count uint64

	words []uint64 // bits past the end are always 0

	ones []uint16 // per page: number of set bits, 0..PageBits
	some pageSet  // pages with ones > 0
	gaps pageSet  // pages with ones < pageLen

	dirty      pageSet
	dirtyCount int
}

// New returns a bitmap of the given number of bits. All bits are clear and all
// pages are clean: a fresh on-disk area that holds something else needs
// MarkAllDirty first.
//
// The number comes from an agreed device size, which the caller has checked; New
// panics when a bitmap of that size cannot be addressed.
func New(bits uint64) *Bitmap {
	b := &Bitmap{}
	b.allocate(bits)
	for p := range b.ones {
		b.gaps.set(p)
	}
	return b
}

// BitsFor returns the number of bits of a device of the given number of 512-byte
// sectors: a last partial block has a bit too (spec: on-disk 4.1).
func BitsFor(sectors uint64) uint64 {
	n := sectors / (BlockSize / 512)
	if sectors%(BlockSize/512) != 0 {
		n++
	}
	return n
}

func (b *Bitmap) allocate(n uint64) {
	words := n / wordBits
	if n%wordBits != 0 {
		words++
	}
	if words > math.MaxInt/8 {
		panic(fmt.Sprintf("bitmap: %d bits are more than this platform can address", n))
	}
	pages := (int(words) + pageWords - 1) / pageWords
	b.bits = n
	b.words = make([]uint64, words)
	b.ones = make([]uint16, pages)
	b.some = newPageSet(pages)
	b.gaps = newPageSet(pages)
	b.dirty = newPageSet(pages)
}

// Len returns the number of bits.
func (b *Bitmap) Len() uint64 { return b.bits }

// Count returns the number of set bits. It takes constant time.
func (b *Bitmap) Count() uint64 { return b.count }

// Test reports whether bit i is set.
func (b *Bitmap) Test(i uint64) bool {
	return i < b.bits && b.words[i/wordBits]&(1<<(i%wordBits)) != 0
}

// Set sets bit i and reports whether that changed it.
func (b *Bitmap) Set(i uint64) bool {
	if i >= b.bits {
		return false
	}
	w, m := &b.words[i/wordBits], uint64(1)<<(i%wordBits)
	if *w&m != 0 {
		return false
	}
	*w |= m
	b.grew(int(i/PageBits), 1)
	return true
}

// Clear clears bit i and reports whether that changed it.
func (b *Bitmap) Clear(i uint64) bool {
	if i >= b.bits {
		return false
	}
	w, m := &b.words[i/wordBits], uint64(1)<<(i%wordBits)
	if *w&m == 0 {
		return false
	}
	*w &^= m
	b.shrank(int(i/PageBits), 1)
	return true
}

// SetRange sets the bits [from, to), clipped to the bitmap, and returns how many
// of them changed.
func (b *Bitmap) SetRange(from, to uint64) uint64 {
	to = min(to, b.bits)
	var changed uint64
	for from < to {
		p := int(from / PageBits)
		end := min(to, uint64(p+1)*PageBits)
		if b.gaps.has(p) {
			n := setWords(b.words, from, end)
			b.grew(p, n)
			changed += uint64(n)
		}
		from = end
	}
	return changed
}

// ClearRange clears the bits [from, to), clipped to the bitmap, and returns how
// many of them changed.
func (b *Bitmap) ClearRange(from, to uint64) uint64 {
	to = min(to, b.bits)
	var changed uint64
	for from < to {
		p := int(from / PageBits)
		end := min(to, uint64(p+1)*PageBits)
		if b.some.has(p) {
			n := clearWords(b.words, from, end)
			b.shrank(p, n)
			changed += uint64(n)
		}
		from = end
	}
	return changed
}

// SetAll sets every bit. Pages that were full already stay clean.
func (b *Bitmap) SetAll() { b.SetRange(0, b.bits) }

// ClearAll clears every bit. Pages that were empty already stay clean.
func (b *Bitmap) ClearAll() { b.ClearRange(0, b.bits) }

// CountRange returns the number of set bits in [from, to), clipped to the bitmap.
func (b *Bitmap) CountRange(from, to uint64) uint64 {
	to = min(to, b.bits)
	var n uint64
	for from < to {
		p := int(from / PageBits)
		end := min(to, uint64(p+1)*PageBits)
		switch {
		case !b.some.has(p):
		case !b.gaps.has(p):
			n += end - from
		case end-from == b.pageLen(p):
			n += uint64(b.ones[p])
		default:
			n += uint64(countWords(b.words, from, end))
		}
		from = end
	}
	return n
}

// NextSet returns the first set bit at or after from.
func (b *Bitmap) NextSet(from uint64) (uint64, bool) {
	if from >= b.bits {
		return 0, false
	}
	w := int(from / wordBits)
	if v := b.words[w] >> (from % wordBits); v != 0 {
		return from + uint64(bits.TrailingZeros64(v)), true
	}
	w++
	for p := b.some.next(w / pageWords); p >= 0; p = b.some.next(p + 1) {
		w = max(w, p*pageWords)
		for end := min((p+1)*pageWords, len(b.words)); w < end; w++ {
			if v := b.words[w]; v != 0 {
				return uint64(w)*wordBits + uint64(bits.TrailingZeros64(v)), true
			}
		}
	}
	return 0, false
}

// NextClear returns the first clear bit at or after from.
func (b *Bitmap) NextClear(from uint64) (uint64, bool) {
	if from >= b.bits {
		return 0, false
	}
	i := b.nextClear(from)
	return i, i < b.bits
}

// nextClear is NextClear with a bit number >= b.bits for "none": the tail of the
// last word reads as clear.
func (b *Bitmap) nextClear(from uint64) uint64 {
	w := int(from / wordBits)
	if v := ^b.words[w] >> (from % wordBits); v != 0 {
		return from + uint64(bits.TrailingZeros64(v))
	}
	w++
	for p := b.gaps.next(w / pageWords); p >= 0; p = b.gaps.next(p + 1) {
		w = max(w, p*pageWords)
		for end := min((p+1)*pageWords, len(b.words)); w < end; w++ {
			if v := ^b.words[w]; v != 0 {
				return uint64(w)*wordBits + uint64(bits.TrailingZeros64(v))
			}
		}
	}
	return b.bits
}

// Ranges iterates over the maximal ranges [from, to) of set bits in ascending
// order. The bitmap may be changed meanwhile: the search for the next range
// begins at the to of the one before.
func (b *Bitmap) Ranges() iter.Seq2[uint64, uint64] {
	return func(yield func(from, to uint64) bool) { b.eachRange(yield) }
}

func (b *Bitmap) eachRange(yield func(from, to uint64) bool) {
	for at := uint64(0); ; {
		from, ok := b.NextSet(at)
		if !ok {
			return
		}
		to := min(b.nextClear(from), b.bits)
		if !yield(from, to) {
			return
		}
		at = to
	}
}

// Or sets every bit that is set in other and returns how many were new. Bits of
// other past the end of b are ignored.
func (b *Bitmap) Or(other *Bitmap) uint64 {
	var changed uint64
	for p := other.some.next(0); p >= 0 && p < len(b.ones); p = other.some.next(p + 1) {
		if !b.gaps.has(p) {
			continue
		}
		end := min((p+1)*pageWords, len(b.words), len(other.words))
		n := 0
		for w := p * pageWords; w < end; w++ {
			n += b.orWord(w, other.words[w])
		}
		b.grew(p, n)
		changed += uint64(n)
	}
	return changed
}

// Resize changes the number of bits. New bits are set if setNew, else clear.
// Every page that did not exist before becomes dirty, for the disk may hold
// anything there, and so does the old last page if its bits changed.
func (b *Bitmap) Resize(n uint64, setNew bool) {
	old := *b
	b.allocate(n)
	copy(b.words, old.words)
	if n < old.bits && n%wordBits != 0 {
		b.words[n/wordBits] &= tailMask(n)
	}
	b.count, b.dirtyCount = 0, 0
	for p := range b.ones {
		end := min((p+1)*pageWords, len(b.words))
		b.setOnes(p, countAll(b.words[p*pageWords:end]))
		cut := p < len(old.ones) && int(old.ones[p]) != int(b.ones[p])
		if p >= len(old.ones) || cut || old.dirty.has(p) {
			b.MarkDirty(p)
		}
	}
	if setNew && n > old.bits {
		b.SetRange(old.bits, n)
	}
}

// orWord ors v into word w and returns the number of new bits. The caller
// accounts for them with grew.
func (b *Bitmap) orWord(w int, v uint64) int {
	if w == len(b.words)-1 {
		v &= tailMask(b.bits)
	}
	add := v &^ b.words[w]
	b.words[w] |= add
	return bits.OnesCount64(add)
}

// grew and shrank account for n bits of page p that were set or cleared.
func (b *Bitmap) grew(p, n int) {
	if n == 0 {
		return
	}
	b.count += uint64(n)
	b.ones[p] += uint16(n)
	b.some.set(p)
	if uint64(b.ones[p]) == b.pageLen(p) {
		b.gaps.clear(p)
	}
	b.MarkDirty(p)
}

func (b *Bitmap) shrank(p, n int) {
	if n == 0 {
		return
	}
	b.count -= uint64(n)
	b.ones[p] -= uint16(n)
	b.gaps.set(p)
	if b.ones[p] == 0 {
		b.some.clear(p)
	}
	b.MarkDirty(p)
}

// setOnes makes n the number of set bits of page p, without marking it dirty.
func (b *Bitmap) setOnes(p, n int) {
	b.count += uint64(n) - uint64(b.ones[p])
	b.ones[p] = uint16(n)
	b.some.put(p, n > 0)
	b.gaps.put(p, uint64(n) < b.pageLen(p))
}

// pageLen returns the number of bits of page p; the last page may be short.
func (b *Bitmap) pageLen(p int) uint64 {
	return min(PageBits, b.bits-uint64(p)*PageBits)
}
