// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import "time"

// readHistory keeps what applications saw of a few sectors, for the oracle that asks
// whether one order of all operations explains it (linearizability).
type readHistory struct {
	now     func() time.Duration
	sectors [watchedSectors]period
	ended   []period
}

// period is a sector's operations, from the first on or from a crash that lost what
// was not flushed: then anything may come first.
type period struct {
	sector uint64
	regHistory
	writes []*write // that made the operations; nil for reads
	began  time.Duration
}

// watchedSectors are those of volume 0 whose reads are kept.
const (
	watchedSectors = 64
	maxOperations  = 300 // of one period
)

func (p *period) add(o regOp, w *write) {
	p.ops, p.writes = append(p.ops, o), append(p.writes, w)
}

func newReadHistory(now func() time.Duration) *readHistory {
	h := &readHistory{now: now}
	for s := range h.sectors {
		h.sectors[s].sector = uint64(s)
	}
	return h
}

// wrote notes that a write was submitted; the answer goes to answered.
func (h *readHistory) wrote(w *write, at time.Duration) {
	for s := w.from; s < min(w.to, watchedSectors); s++ {
		if p := &h.sectors[s]; len(p.ops) < maxOperations {
			p.add(regOp{write: true, value: w.content(), call: int64(at), ret: never}, w)
		}
	}
}

func (h *readHistory) answered(w *write, at time.Duration) {
	for s := w.from; s < min(w.to, watchedSectors); s++ {
		for i, v := range h.sectors[s].writes {
			if v == w {
				h.sectors[s].ops[i].ret = int64(at)
			}
		}
	}
}

func (h *readHistory) read(sector, id uint64, call, back time.Duration) {
	if sector >= watchedSectors || len(h.sectors[sector].ops) >= maxOperations || call < h.sectors[sector].began {
		return // one that began in the last period may have seen what was there then
	}
	h.sectors[sector].add(regOp{value: id, call: int64(call), ret: int64(back)}, nil)
}

// lost begins a new period: a crash lost what was not flushed, and every write so far
// may be there or not.
func (h *readHistory) lost(sector uint64, past []*write) {
	if sector >= watchedSectors {
		return
	}
	h.ended = append(h.ended, h.sectors[sector])
	p := period{sector: sector, began: h.now(), regHistory: regHistory{unknown: true}}
	for _, w := range past {
		p.add(regOp{write: true, value: w.content(), ret: never}, w)
	}
	h.sectors[sector] = p
}

// undone begins new periods where writes were in flight when a node crashed. A read may
// have seen such a write on its disk before anybody acknowledged it; that it is not
// there any more is no loss. One that was in flight at an earlier crash may have been in
// the cache of the disk, and gone with the power.
func (h *readHistory) undone(o *ledger, power bool) {
	for s := range uint64(watchedSectors) {
		for w := range o.maybe[s] {
			if _, live := o.live[w]; live || power {
				h.lost(s, o.past[s])
				break
			}
		}
	}
}

// failed begins new periods where a write was answered with an error: it may have been
// seen, and may not be there when it is looked for on another disk.
func (h *readHistory) failed(w *write, o *ledger) {
	for s := w.from; s < min(w.to, watchedSectors); s++ {
		h.lost(s, o.past[s])
	}
}

// check returns a sector whose history cannot be explained.
func (h *readHistory) check() (uint64, bool) {
	for _, p := range append(h.ended, h.sectors[:]...) {
		if good, known := p.explained(); known && !good {
			return p.sector, true
		}
	}
	return 0, false
}
