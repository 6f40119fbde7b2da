// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"

	"github.com/anishathalye/porcupine"
)

// A sector is a register: a read returns what was written last. Whether one order of
// all operations explains what was read is quickly found where it is known which write
// a read has seen (Gibbons and Korach, Testing Shared Memories, 1997):
//
//	a write and those that read it       |--w--|   |-r-|      a cluster
//	                                           [===]          it ends before it begins: the value lives at least here
//	                                   |---w---|              it overlaps itself: one instant
//	                                        |-r-|             will do, anywhere in
//	                                        [==]              here
//
// There is an order unless two of the first kind overlap, or one of the second kind
// lies within one of the first.

// regOp is a write or a read of one sector.
type regOp struct {
	write     bool
	value     uint64
	call, ret int64
}

const (
	never   = int64(1) << 62
	longAgo = math.MinInt64
)

// regHistory are a sector's operations. What was never answered ends at never.
type regHistory struct {
	ops     []regOp
	unknown bool // what the sector held in the beginning, 0 otherwise
}

// maxGuesses bounds the ways in which reads are given to writes of the same value.
const maxGuesses = 1 << 12

// explained reports whether one order of the operations explains what was read; known
// is false if that would take too long to find out.
func (h regHistory) explained() (good, known bool) {
	writes, reads := []regOp{{write: true, call: longAgo, ret: longAgo}}, []regOp(nil)
	for _, o := range h.ops {
		switch {
		case o.write:
			writes = append(writes, o)
		case o.ret != never:
			reads = append(reads, o)
		}
	}
	good, known = explain(writes, reads)
	if !h.unknown {
		return good, known
	}
	for i, r := range reads { // or what is read at first
		if good {
			break
		}
		if i == 0 || r.value != reads[i-1].value {
			writes[0].value = r.value
			g, k := explain(writes, reads)
			good, known = g, known && k
		}
	}
	return good, known
}

// explain tries every way to give the reads to the writes.
func explain(writes, reads []regOp) (good, known bool) {
	sources, guesses := make([][]int, len(reads)), 1
	for i, r := range reads {
		for k, w := range writes {
			if w.value == r.value && w.call <= r.ret && !replaced(writes, w, r) {
				sources[i] = append(sources[i], k)
			}
		}
		if guesses *= len(sources[i]); guesses == 0 {
			return false, true
		}
		guesses = min(guesses, maxGuesses+1)
	}
	if guesses > maxGuesses {
		return true, false
	}
	chosen := make([]int, len(reads))
	for g := range guesses {
		for i := range reads {
			chosen[i] = sources[i][g%len(sources[i])]
			g /= len(sources[i])
		}
		if orderly(writes, reads, chosen) {
			return true, true
		}
	}
	return false, true
}

// replaced reports whether some other write came after w and was over before r began.
func replaced(writes []regOp, w, r regOp) bool {
	for _, o := range writes {
		if w.ret < o.call && o.ret < r.call {
			return true
		}
	}
	return false
}

// zone is what a cluster needs.
type zone struct {
	ends, begins int64 // the earliest end and the latest beginning
}

// orderly is the theorem: chosen says which write each read has seen.
func orderly(writes, reads []regOp, chosen []int) bool {
	zones := make([]zone, len(writes))
	for k, w := range writes {
		zones[k] = zone{ends: w.ret, begins: w.call}
	}
	for i, r := range reads {
		z := &zones[chosen[i]]
		z.ends, z.begins = min(z.ends, r.ret), max(z.begins, r.call)
	}
	for i, a := range zones {
		if a.ends >= a.begins {
			continue
		}
		for k, b := range zones {
			switch {
			case k == i:
			case b.ends < b.begins && a.ends < b.begins && b.ends < a.begins:
				return false
			case b.ends >= b.begins && a.ends < b.begins && b.ends < a.begins:
				return false
			}
		}
	}
	return true
}

// operations are the same for porcupine, which needs no theorem and more time: what
// was never answered and never seen is left out.
func (h regHistory) operations() []porcupine.Operation {
	seen := map[uint64]bool{}
	for _, o := range h.ops {
		if !o.write && o.ret != never {
			seen[o.value] = true
		}
	}
	var out []porcupine.Operation
	for i, o := range h.ops {
		if o.ret != never || o.write && seen[o.value] {
			out = append(out, porcupine.Operation{ClientId: i, Input: o, Output: o.value, Call: o.call, Return: o.ret})
		}
	}
	return out
}

// model is the register for porcupine.
func (h regHistory) model() porcupine.Model {
	type state struct {
		value uint64
		any   bool
	}
	return porcupine.Model{
		Init: func() any { return state{any: h.unknown} },
		Step: func(s, in, _ any) (bool, any) {
			st, op := s.(state), in.(regOp)
			return op.write || st.any || st.value == op.value, state{value: op.value}
		},
	}
}
