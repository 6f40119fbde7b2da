// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Errors of Replay, besides those of the reader (spec: on-disk 5.5). A node that was
// not Primary when it stopped may ignore them and initialise the ring; a Primary
// must take the whole volume as out of sync instead.
var (
	// ErrNoLog is returned if no block of the area is a valid one.
	ErrNoLog = errors.New("activitylog: no usable activity log")

	// ErrDamaged is returned if blocks are damaged and no transaction is left.
	ErrDamaged = errors.New("activitylog: damaged activity log")
)

// Result is what a replay found. It is filled as far as possible with ErrNoLog and
// ErrDamaged too.
type Result struct {
	Format Format   // what the area holds
	Hot    []Extent // ascending, each once

	Blocks      int // ring positions: blocks of 4096 bytes, or sectors in the old format
	Updates     int // valid transactions among them
	Initialised int // valid blocks as create-md and apply-al leave them
	Invalid     int // the rest

	Oldest, Newest uint32 // numbers of the first and last transaction, if Updates > 0

	Warnings []string // what an administrator may want to know
}

// Clean reports whether the log is a ring of blocks without a transaction: nothing is
// hot, and if Replay returned no error the ring need not be initialised before it is
// used.
func (r *Result) Clean() bool { return r.Format == FormatBlocks && r.Updates == 0 }

// Replay reads the ring of blocks at areaOffset (in bytes) and returns which extents
// may have had writes in flight (spec: on-disk 5.5). It needs no lock on anything
// and writes nothing. It returns ErrGeometry, ErrNoLog, ErrDamaged, or a read error.
func Replay(r io.ReaderAt, areaOffset int64, g Geometry) (Result, error) {
	res := Result{Format: FormatBlocks}
	if err := g.Check(); err != nil {
		return res, err
	}
	rd := ringReader{r: r, offset: areaOffset, g: g.orDefault()}
	ring, err := rd.scan(&res)
	if err != nil {
		return res, err
	}
	if res.Updates == 0 {
		return res, res.withoutUpdates(ring.firstInvalid)
	}
	return res, rd.walk(ring, &res)
}

// withoutUpdates decides what a ring without transactions means (spec: on-disk 5.5
// step 3). A lone torn block at ring position 0 is a first transaction whose data
// write was never issued.
func (r *Result) withoutUpdates(firstInvalid int) error {
	switch {
	case r.Initialised == 0:
		return ErrNoLog
	case r.Invalid == 0:
		return nil
	case r.Invalid == 1 && firstInvalid == 0:
		r.warnf("the first transaction is torn; it had no consequences")
		return nil
	}
	return fmt.Errorf("%w: %d of %d blocks are invalid and no transaction is left", ErrDamaged, r.Invalid, r.Blocks)
}

func (r *Result) warnf(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// ringSpan is where the transactions of a ring begin and end.
type ringSpan struct {
	oldest, newest int // ring positions
	firstInvalid   int
}

// order takes the transaction with number tr at ring position pos into account.
// Numbers compare by signed difference, for the counter wraps.
func (s *ringSpan) order(res *Result, pos int, tr uint32) {
	if res.Updates == 0 || int32(tr-res.Oldest) < 0 {
		s.oldest, res.Oldest = pos, tr
	}
	if res.Updates == 0 || int32(tr-res.Newest) > 0 {
		s.newest, res.Newest = pos, tr
	}
	res.Updates++
}

// steps returns the number of ring positions from the oldest to the newest
// transaction, both included.
func (s *ringSpan) steps(positions int) int {
	return (s.newest-s.oldest+positions)%positions + 1
}

// ringReader reads blocks by ring position.
type ringReader struct {
	r      io.ReaderAt
	offset int64
	g      Geometry
	raw    [BlockSize]byte
	block  Block
}

// read decodes the block at a ring position; ok is false if it is not valid.
func (rd *ringReader) read(pos int) (ok bool, err error) {
	at := rd.offset + int64(rd.g.Position(uint32(pos)))*BlockSize
	if n, err := rd.r.ReadAt(rd.raw[:], at); n < BlockSize {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return false, fmt.Errorf("activitylog: read block at byte %d: %w", at, err)
	}
	return rd.block.Decode(&rd.raw) == nil, nil
}

// scan looks at every block once.
func (rd *ringReader) scan(res *Result) (ringSpan, error) {
	span := ringSpan{firstInvalid: -1}
	for pos := range int(rd.g.Blocks()) {
		ok, err := rd.read(pos)
		if err != nil {
			return span, err
		}
		res.Blocks++
		switch {
		case !ok:
			if span.firstInvalid < 0 {
				span.firstInvalid = pos
			}
			res.Invalid++
		case rd.block.Type == TypeInitialised:
			res.Initialised++
		default:
			span.order(res, pos, rd.block.Number)
		}
	}
	return span, nil
}

// walk applies the transactions from the oldest to the newest.
func (rd *ringReader) walk(span ringSpan, res *Result) error {
	slots := newSlotTable()
	positions := int(rd.g.Blocks())
	skipped := 0
	for k := range span.steps(positions) {
		ok, err := rd.read((span.oldest + k) % positions)
		if err != nil {
			return err
		}
		switch {
		case !ok:
			skipped++
		case rd.block.Type != TypeInitialised:
			slots.apply(&rd.block)
		}
	}
	if res.Invalid > 0 {
		res.warnf("%d of %d blocks are invalid, %d of them between transactions; one is usual after a crash",
			res.Invalid, res.Blocks, skipped)
	}
	res.Hot = slots.hot()
	return nil
}

// slotTable is the state of the slots during a replay.
type slotTable []Extent

func newSlotTable() slotTable {
	t := make(slotTable, slotLimit)
	for i := range t {
		t[i] = Free
	}
	return t
}

// apply applies a transaction: first the state before it, then its changes (spec:
// on-disk 5.5 step 4).
func (t slotTable) apply(b *Block) {
	for i, e := range b.Context {
		s := int(b.ContextStart) + i
		if e == Free && s >= int(b.ContextSize) {
			continue
		}
		t.put(s, e)
	}
	for i, e := range b.UpdateExtent {
		if i >= int(b.NUpdates) && b.UpdateSlot[i] == freeSlot {
			continue
		}
		t.put(int(b.UpdateSlot[i]), e)
	}
}

func (t slotTable) put(slot int, e Extent) {
	if slot < len(t) {
		t[slot] = e
	}
}

// hot returns the extents in the slots, ascending and each once.
func (t slotTable) hot() []Extent {
	var hot []Extent
	for _, e := range t {
		if e != Free {
			hot = append(hot, e)
		}
	}
	slices.Sort(hot)
	return slices.Compact(hot)
}
