// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import "math/bits"

// The functions below work on the bits [from, to) of a word array, from < to.
// They are the inner loops of everything that is said to run at memory speed.

// spanMasks splits [from, to) into a first word, a last word (inclusive) and the
// masks of the bits that belong to the span in these two.
func spanMasks(from, to uint64) (first, last int, head, tail uint64) {
	first, last = int(from/wordBits), int((to-1)/wordBits)
	head = ^uint64(0) << (from % wordBits)
	tail = tailMask(to)
	return first, last, head, tail
}

// tailMask has the bits of a last word that lie below the length n.
func tailMask(n uint64) uint64 {
	return ^uint64(0) >> ((wordBits - n%wordBits) % wordBits)
}

func setWords(words []uint64, from, to uint64) (changed int) {
	first, last, head, tail := spanMasks(from, to)
	if first == last {
		head &= tail
		changed = bits.OnesCount64(head &^ words[first])
		words[first] |= head
		return changed
	}
	changed = bits.OnesCount64(head &^ words[first])
	words[first] |= head
	mid := words[first+1 : last]
	for i, v := range mid {
		changed += wordBits - bits.OnesCount64(v)
		mid[i] = ^uint64(0)
	}
	changed += bits.OnesCount64(tail &^ words[last])
	words[last] |= tail
	return changed
}

func clearWords(words []uint64, from, to uint64) (changed int) {
	first, last, head, tail := spanMasks(from, to)
	if first == last {
		head &= tail
		changed = bits.OnesCount64(head & words[first])
		words[first] &^= head
		return changed
	}
	changed = bits.OnesCount64(head & words[first])
	words[first] &^= head
	mid := words[first+1 : last]
	changed += countAll(mid)
	clear(mid)
	changed += bits.OnesCount64(tail & words[last])
	words[last] &^= tail
	return changed
}

func countWords(words []uint64, from, to uint64) int {
	first, last, head, tail := spanMasks(from, to)
	if first == last {
		return bits.OnesCount64(words[first] & head & tail)
	}
	return bits.OnesCount64(words[first]&head) +
		countAll(words[first+1:last]) +
		bits.OnesCount64(words[last]&tail)
}

func countAll(words []uint64) (n int) {
	for _, v := range words {
		n += bits.OnesCount64(v)
	}
	return n
}

// A pageSet is a small set of page numbers.
type pageSet []uint64

func newPageSet(pages int) pageSet { return make(pageSet, (pages+wordBits-1)/wordBits) }

func (s pageSet) has(p int) bool { return s[p/wordBits]&(1<<(p%wordBits)) != 0 }
func (s pageSet) set(p int)      { s[p/wordBits] |= 1 << (p % wordBits) }
func (s pageSet) clear(p int)    { s[p/wordBits] &^= 1 << (p % wordBits) }

func (s pageSet) put(p int, in bool) {
	if in {
		s.set(p)
	} else {
		s.clear(p)
	}
}

// next returns the first member at or after p, or -1.
func (s pageSet) next(p int) int {
	w := p / wordBits
	if w >= len(s) {
		return -1
	}
	if v := s[w] >> (p % wordBits); v != 0 {
		return p + bits.TrailingZeros64(v)
	}
	for w++; w < len(s); w++ {
		if v := s[w]; v != 0 {
			return w*wordBits + bits.TrailingZeros64(v)
		}
	}
	return -1
}
