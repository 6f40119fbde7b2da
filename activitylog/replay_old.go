// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The form of 0.7 to 8.3 (spec: on-disk 5.6).
const (
	oldMagic   = 0x83740267
	oldSectors = 64  // size of the area
	oldPairs   = 62  // slot and extent, per sector
	oldContext = 61  // pairs of a sector that repeat the state
	oldXOR     = 504 // offset of the checksum
)

// oldSector is a transaction of the old form: pair 0 is the change, the others
// repeat the state of other slots.
type oldSector struct {
	number uint32
	slot   [oldPairs]uint32
	extent [oldPairs]Extent
}

// decode reads a sector and reports whether it is valid.
func (s *oldSector) decode(raw []byte) bool {
	if len(raw) != 512 || binary.BigEndian.Uint32(raw) != oldMagic {
		return false
	}
	s.number = binary.BigEndian.Uint32(raw[4:])
	var xor Extent
	for i := range s.slot {
		s.slot[i] = binary.BigEndian.Uint32(raw[8+8*i:])
		s.extent[i] = Extent(binary.BigEndian.Uint32(raw[12+8*i:]))
		xor ^= s.extent[i]
	}
	return uint32(xor) == binary.BigEndian.Uint32(raw[oldXOR:])
}

// apply applies a transaction so that its change wins over its context. The free
// mark stands for an unused pair here and clears nothing.
func (s *oldSector) apply(t slotTable) {
	for i := len(s.slot) - 1; i >= 0; i-- {
		if s.extent[i] != Free && s.slot[i] < slotLimit {
			t.put(int(s.slot[i]), s.extent[i])
		}
	}
}

// ReplayOld reads a log of 512-byte sectors as 0.7 to 8.3 wrote it (spec: on-disk
// 5.6). slots is the superblock's al_nr_extents, from which the length of the ring
// follows. A log without a valid sector is no error: nothing is hot. It returns a
// read error of r.
func ReplayOld(r io.ReaderAt, areaOffset int64, slots uint32) (Result, error) {
	res := Result{Format: FormatSectors}
	res.Blocks = int(min(1+(uint64(slots)+oldContext-1)/oldContext, oldSectors))
	raw := make([]byte, 512*res.Blocks)
	if n, err := r.ReadAt(raw, areaOffset); n < len(raw) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return res, fmt.Errorf("activitylog: read %d bytes at byte %d: %w", len(raw), areaOffset, err)
	}
	var span ringSpan
	var s oldSector
	sector := func(pos int) []byte { return raw[512*pos:][:512] }
	for pos := range res.Blocks {
		if s.decode(sector(pos)) {
			span.order(&res, pos, s.number)
		} else {
			res.Invalid++
		}
	}
	if res.Invalid > 0 {
		res.warnf("%d of %d sectors are invalid or were never used", res.Invalid, res.Blocks)
	}
	if res.Updates == 0 {
		return res, nil
	}
	t := newSlotTable()
	for k := range span.steps(res.Blocks) {
		if s.decode(sector((span.oldest + k) % res.Blocks)) {
			s.apply(t)
		}
	}
	res.Hot = t.hot()
	return res, nil
}
