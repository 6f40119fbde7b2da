// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// readHistory keeps what applications saw of a few sectors, for the oracle that asks
// whether one order of all operations explains it (linearizability).
type readHistory struct {
	sectors [watchedSectors]period
	ended   []period
}

// period is a sector's operations, from the first on or from a crash that lost what
// was not flushed: then anything may come first.
type period struct {
	sector  uint64
	unknown bool
	ops     []porcupine.Operation
}

// watchedSectors are those of volume 0 whose reads are kept.
const (
	watchedSectors = 64
	maxOperations  = 300 // of one period
)

type sectorOp struct {
	write bool
	id    uint64
}

func newReadHistory() *readHistory {
	h := &readHistory{}
	for s := range h.sectors {
		h.sectors[s].sector = uint64(s)
	}
	return h
}

const never = int64(1) << 62

// wrote notes that a write was submitted; the answer goes to answered.
func (h *readHistory) wrote(w *write, at time.Duration) {
	for s := w.from; s < min(w.to, watchedSectors); s++ {
		if p := &h.sectors[s]; len(p.ops) < maxOperations {
			p.ops = append(p.ops, porcupine.Operation{ClientId: int(w.id), Input: sectorOp{true, w.content()}, Output: w.id, Call: int64(at), Return: never})
		}
	}
}

func (h *readHistory) answered(w *write, at time.Duration) {
	for s := w.from; s < min(w.to, watchedSectors); s++ {
		for i := range h.sectors[s].ops {
			if op := &h.sectors[s].ops[i]; op.Output == w.id && op.Input.(sectorOp).write {
				op.Return = int64(at)
			}
		}
	}
}

func (h *readHistory) read(sector, id uint64, call, back time.Duration) {
	if sector >= watchedSectors || len(h.sectors[sector].ops) >= maxOperations {
		return
	}
	p := &h.sectors[sector]
	p.ops = append(p.ops, porcupine.Operation{ClientId: 1 << 30, Input: sectorOp{false, 0}, Output: id, Call: int64(call), Return: int64(back)})
}

// lost begins a new period: a crash lost what was not flushed, and every write so far
// may be there or not.
func (h *readHistory) lost(sector uint64, past []*write) {
	if sector >= watchedSectors {
		return
	}
	h.ended = append(h.ended, h.sectors[sector])
	p := period{sector: sector, unknown: true}
	for _, w := range past {
		p.ops = append(p.ops, porcupine.Operation{ClientId: int(w.id), Input: sectorOp{true, w.content()}, Output: w.id, Return: never})
	}
	h.sectors[sector] = p
}

// sectorRegister is one sector: a read returns what was written last.
func sectorRegister(unknown bool) porcupine.Model {
	type state struct {
		id  uint64
		any bool
	}
	return porcupine.Model{
		Init: func() any { return state{any: unknown} },
		Step: func(s, in, out any) (bool, any) {
			st, op := s.(state), in.(sectorOp)
			if op.write {
				return true, state{id: op.id}
			}
			return st.any || st.id == out.(uint64), state{id: out.(uint64)}
		},
	}
}

// check returns a sector whose history cannot be explained.
func (h *readHistory) check() (uint64, bool) {
	for _, p := range append(h.ended, h.sectors[:]...) {
		seen := map[uint64]bool{}
		for _, op := range p.ops {
			if !op.Input.(sectorOp).write {
				seen[op.Output.(uint64)] = true
			}
		}
		var ops []porcupine.Operation
		for _, op := range p.ops { // what was never answered and never seen explains nothing
			if in := op.Input.(sectorOp); !in.write || op.Return != never || seen[in.id] {
				ops = append(ops, op)
			}
		}
		if len(seen) > 0 && porcupine.CheckOperationsTimeout(sectorRegister(p.unknown), ops, time.Second) == porcupine.Illegal {
			return p.sector, true
		}
	}
	return 0, false
}
