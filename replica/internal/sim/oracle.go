// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"fmt"
)

// oracle knows what every sector may hold: the last acknowledged write, or one that
// was submitted and not answered since (spec of protocol C: an acknowledged write is
// on both disks). A sector's content names the write that made it.
type oracle struct {
	next  uint64
	acked map[uint64]uint64            // sector -> id, 0 for zeroes
	maybe map[uint64]map[uint64]*write // sector -> writes without an answer
}

type write struct {
	id       uint64
	from, to uint64 // sectors
	zero     bool
	rivals   []*write // overlapping ones that were acknowledged while this one was in flight
}

// content is the id that the sectors hold after the write.
func (w *write) content() uint64 {
	if w.zero {
		return 0
	}
	return w.id
}

func newOracle() *oracle {
	return &oracle{acked: map[uint64]uint64{}, maybe: map[uint64]map[uint64]*write{}}
}

// begin notes a write and returns its data.
func (o *oracle) begin(from, to uint64, zero bool) (*write, []byte) {
	o.next++
	w := &write{id: o.next, from: from, to: to, zero: zero}
	for s := from; s < to; s++ {
		if o.maybe[s] == nil {
			o.maybe[s] = map[uint64]*write{}
		}
		o.maybe[s][w.id] = w
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

func stamp(b []byte, id, sector uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.BigEndian.PutUint64(b[i:], id)
		binary.BigEndian.PutUint64(b[i+8:], sector)
	}
}

// done notes the acknowledgement of a write: what was written before it, and never
// answered, can no longer come back. live are the writes still in flight.
func (o *oracle) done(w *write, live map[*write]struct{}) {
	for s := w.from; s < w.to; s++ {
		o.acked[s] = w.content()
		for id, m := range o.maybe[s] {
			if _, ok := live[m]; !ok || m == w {
				delete(o.maybe[s], id)
			}
		}
	}
	// Of two writes that were in flight together either may be the last one.
	for m := range live {
		if m.from < w.to && w.from < m.to {
			m.rivals = append(m.rivals, w)
		}
	}
	for _, v := range w.rivals {
		for s := max(v.from, w.from); s < min(v.to, w.to); s++ {
			o.maybe[s][v.id] = v
		}
	}
	w.rivals = nil
}

// check compares a sector's content with what it may be.
func (o *oracle) check(sector uint64, b []byte) error {
	id, at := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	for i := 16; i < len(b); i += 16 {
		if binary.BigEndian.Uint64(b[i:]) != id || binary.BigEndian.Uint64(b[i+8:]) != at {
			return fmt.Errorf("sector %d is torn", sector)
		}
	}
	if id != 0 && at != sector {
		return fmt.Errorf("sector %d holds data of sector %d", sector, at)
	}
	if o.acked[sector] == id {
		return nil
	}
	for _, w := range o.maybe[sector] {
		if w.content() == id {
			return nil
		}
	}
	return fmt.Errorf("sector %d holds write %d, acknowledged is %d", sector, id, o.acked[sector])
}

// checkDisk compares a whole data area.
func (o *oracle) checkDisk(data []byte, sectors uint64) error {
	for s := range sectors {
		if err := o.check(s, data[s*sectorBytes:(s+1)*sectorBytes]); err != nil {
			return err
		}
	}
	return nil
}
