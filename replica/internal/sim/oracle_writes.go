// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
)

// ledger is what one volume's application knows of its writes, and with that what
// every sector may hold: the last acknowledged write, or one that was submitted and
// not answered since. A sector's content names the write that made it.
type ledger struct {
	ids   *uint64                    // the last id given, of all volumes
	acks  uint64                     // acknowledgements so far
	acked map[uint64]*write          // sector -> last acknowledged; nil is the zero of a new disk
	maybe map[uint64]map[*write]bool // sector -> writes without an answer; nil is the zero of a new disk
	soft  map[uint64][]*write        // sector -> acknowledged since the last flush, behind what held before
	past  map[uint64][]*write        // sector -> every write, in the order of submission
	live  map[*write]struct{}
	end   uint64 // the smallest size that was asked for: sectors behind it promise nothing
}

const noEnd = math.MaxUint64

type write struct {
	id       uint64
	from, to uint64 // sectors
	zero     bool
	fua      bool
	ack      uint64   // its number among the acknowledgements, 0 if there was none or the promise is void
	was      uint64   // the same, void or not
	horizon  uint64   // acknowledgements when it was submitted
	rivals   []*write // overlapping ones that were acknowledged while this one was in flight
}

// content is the id that the sectors hold after the write.
func (w *write) content() uint64 {
	if w == nil || w.zero {
		return 0
	}
	return w.id
}

func newLedger(ids *uint64) *ledger {
	return &ledger{ids: ids, acked: map[uint64]*write{}, maybe: map[uint64]map[*write]bool{}, soft: map[uint64][]*write{},
		past: map[uint64][]*write{}, live: map[*write]struct{}{}, end: noEnd}
}

// begin notes a write and returns its data.
func (o *ledger) begin(from, to uint64, zero, fua bool) (*write, []byte) {
	*o.ids++
	w := &write{id: *o.ids, from: from, to: to, zero: zero, fua: fua, horizon: o.acks}
	o.live[w] = struct{}{}
	for s := from; s < to; s++ {
		o.may(s, w)
		o.past[s] = append(o.past[s], w)
	}
	if zero {
		return w, nil
	}
	data := make([]byte, (to-from)*sectorBytes)
	for s := from; s < to; s++ {
		stamp(data[(s-from)*sectorBytes:][:sectorBytes], w.id, s)
	}
	return w, data
}

func (o *ledger) may(s uint64, w *write) {
	if o.maybe[s] == nil {
		o.maybe[s] = map[*write]bool{}
	}
	o.maybe[s][w] = true
}

func stamp(b []byte, id, sector uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.BigEndian.PutUint64(b[i:], id)
		binary.BigEndian.PutUint64(b[i+8:], sector)
	}
}

// idOf returns the id that a sector holds, or an error if it holds no write.
func idOf(b []byte, sector uint64) (uint64, error) {
	id, at := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	for i := 16; i < len(b); i += 16 {
		if binary.BigEndian.Uint64(b[i:]) != id || binary.BigEndian.Uint64(b[i+8:]) != at {
			return id, fmt.Errorf("sector %d is torn", sector)
		}
	}
	if id != 0 && at != sector || id == 0 && at != 0 {
		return id, fmt.Errorf("sector %d holds data of sector %d", sector, at)
	}
	return id, nil
}

// failed notes that a write was answered with an error: it may have happened.
func (o *ledger) failed(w *write) { delete(o.live, w) }

// done notes the acknowledgement of a write: what was written before it, and never
// answered, can no longer come back.
func (o *ledger) done(w *write) {
	delete(o.live, w)
	o.acks++
	w.ack, w.was = o.acks, o.acks
	for s := w.from; s < w.to; s++ {
		if o.soft[s] == nil {
			o.soft[s] = []*write{o.acked[s]}
		}
		for m := range o.maybe[s] {
			if _, live := o.live[m]; !live && m != w {
				o.soft[s] = append(o.soft[s], m) // that may be what is there now
			}
		}
		o.soft[s] = append(o.soft[s], w)
		if w.fua {
			delete(o.soft, s)
		}
		o.acked[s] = w
		for m := range o.maybe[s] {
			if _, ok := o.live[m]; !ok || m == w {
				delete(o.maybe[s], m)
			}
		}
	}
	// Of two writes that were in flight together either may be the last one.
	for m := range o.live {
		if m.from < w.to && w.from < m.to {
			m.rivals = append(m.rivals, w)
		}
	}
	for _, v := range w.rivals {
		for s := max(v.from, w.from); s < min(v.to, w.to); s++ {
			o.may(s, v)
			if o.soft[s] == nil {
				o.soft[s] = []*write{w}
			}
			o.soft[s] = append(o.soft[s], v)
		}
	}
	w.rivals = nil
}

// flushed notes that a flush has ended, submitted after so many acknowledgements.
func (o *ledger) flushed(acks uint64) {
	for s, list := range o.soft {
		if o.acked[s].ack <= acks {
			delete(o.soft, s)
			continue
		}
		at := -1 // the last one that the flush covers
		for i, w := range list {
			if w != nil && w.was != 0 && w.was <= acks && (at < 0 || w.was > list[at].was) {
				at = i
			}
		}
		if at < 0 {
			continue
		}
		var keep []*write
		for i, w := range list {
			// Those that were in flight together with it may be what it left.
			if i >= at || w != nil && w.ack > list[at].horizon {
				keep = append(keep, w)
			}
		}
		o.soft[s] = keep
	}
}

// crashed notes that the application went down with its node. Nothing is in flight
// any more, and what was may have been seen by a read and be gone; with lost, what was
// not flushed may be lost, too.
func (o *ledger) crashed(lost bool, reads *readHistory) {
	if reads != nil {
		reads.undone(o, lost)
	}
	clear(o.live)
	if !lost {
		return
	}
	for _, s := range slices.Sorted(maps.Keys(o.soft)) {
		list := o.soft[s]
		if reads != nil {
			reads.lost(s, o.past[s])
		}
		for _, w := range list {
			o.may(s, w)
		}
		for _, w := range list {
			if w != nil {
				w.ack = 0 // the promise is void
			}
		}
	}
	clear(o.soft)
}

// zeroedSince reports whether a write of zeroes, which have no name, came after a certain one.
func (o *ledger) zeroedSince(sector, id uint64) bool {
	return slices.ContainsFunc(o.past[sector], func(w *write) bool { return w.zero && w.id > id })
}

// holds says whether a sector may hold what it does.
func (o *ledger) holds(sector uint64, b []byte) error {
	if sector >= o.end {
		return nil
	}
	id, err := idOf(b, sector)
	if err != nil || o.acked[sector].content() == id {
		return err
	}
	if id&garbageID != 0 && len(o.maybe[sector]) > 0 {
		return nil // the power failed while it was written, or before it was flushed
	}
	for w := range o.maybe[sector] {
		if w.content() == id {
			return nil
		}
	}
	return fmt.Errorf("sector %d holds write %d, acknowledged is %d", sector, id, o.acked[sector].content())
}

// checkDisk compares all that was ever written.
func (o *ledger) checkDisk(d *Disk) error {
	bad, found := uint64(0), error(nil)
	for s := range o.past {
		if err := o.holds(s, d.current.at(int64(s)*sectorBytes, sectorBytes)); err != nil && (found == nil || s < bad) {
			bad, found = s, err
		}
	}
	return found
}

// checkAll compares the whole data area: nobody wrote where no application did.
func (o *ledger) checkAll(d *Disk, sectors uint64) error {
	for s := uint64(0); s < sectors; s += chunkBytes / sectorBytes {
		for k := s; k < min(s+chunkBytes/sectorBytes, sectors) && d.current.chunks[s*sectorBytes/chunkBytes] != nil; k++ {
			if err := o.holds(k, d.current.at(int64(k)*sectorBytes, sectorBytes)); err != nil {
				return err
			}
		}
	}
	return o.checkDisk(d)
}

// inOrder says whether what a disk holds after a crash keeps the order in which an
// application wrote: where it holds a write that was submitted after others were
// acknowledged, it holds those, too, or what was written over them.
func (o *ledger) inOrder(d *Disk) error {
	horizon, by := uint64(0), uint64(0)
	held := map[uint64]uint64{}
	for _, s := range slices.Sorted(maps.Keys(o.past)) {
		if s >= o.end {
			break
		}
		id, err := idOf(d.current.at(int64(s)*sectorBytes, sectorBytes), s)
		if err != nil {
			continue // a write that was under way when the power failed
		}
		held[s] = id
		for _, w := range o.past[s] {
			if w.content() == id && id != 0 && w.horizon > horizon {
				horizon, by = w.horizon, w.id
			}
		}
	}
	for _, s := range slices.Sorted(maps.Keys(held)) {
		last := -1 // the last write here that had been acknowledged when by was submitted
		for i, w := range o.past[s] {
			if w.ack != 0 && w.ack <= horizon {
				last = i
			}
		}
		if last < 0 {
			continue
		}
		good := false
		for _, w := range o.past[s][last:] {
			good = good || w.content() == held[s]
		}
		good = good || held[s]&garbageID != 0 && len(o.past[s]) > last+1
		// Overlapping writes in flight together come in either order.
		for _, w := range o.past[s][:last] {
			good = good || w.content() == held[s] && (w.was == 0 || w.was > o.past[s][last].horizon)
		}
		if !good {
			return fmt.Errorf("sector %d holds write %d although write %d, which the disk holds, was submitted after write %d there was acknowledged",
				s, held[s], by, o.past[s][last].id)
		}
	}
	return nil
}
