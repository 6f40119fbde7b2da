// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Format is a form of the log on disk.
type Format uint8

const (
	// FormatBlocks is the form of 8.4 and 9: a ring of 4096-byte blocks.
	FormatBlocks Format = iota
	// FormatSectors is the form of 0.7 to 8.3: a ring of 512-byte sectors.
	FormatSectors
	// FormatPersistent is the array that 9 keeps in persistent memory.
	FormatPersistent
)

// String returns a short name of the format.
func (f Format) String() string {
	switch f {
	case FormatBlocks:
		return "blocks"
	case FormatSectors:
		return "sectors"
	case FormatPersistent:
		return "persistent memory"
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// Magic numbers of superblocks, as far as they tell the log's format (spec: on-disk
// 3).
const (
	magicV07        = 0x8374026A
	magicV08Clean   = 0x8374026B
	persistentMagic = 0x6AA667A6
)

// DetectFormat tells which form of log lies at areaOffset (in bytes), given the
// superblock's magic number and geometry (spec: on-disk 5.6, 5.7). Only under a v08
// magic of the clean kind, or of v07, can the log have the old form. It returns a
// read error of r.
func DetectFormat(r io.ReaderAt, areaOffset int64, g Geometry, superblockMagic uint32) (Format, error) {
	if superblockMagic == magicV07 {
		return FormatSectors, nil
	}
	var magic [2]uint32
	for i := range magic {
		var raw [4]byte
		at := areaOffset + int64(i)*BlockSize
		if n, err := r.ReadAt(raw[:], at); n < len(raw) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return FormatBlocks, fmt.Errorf("activitylog: read magic at byte %d: %w", at, err)
		}
		magic[i] = binary.BigEndian.Uint32(raw[:])
	}
	old := superblockMagic == magicV08Clean &&
		magic[0] != blockMagic && magic[1] != blockMagic &&
		g.orDefault() == Geometry{}.orDefault()
	switch {
	case magic[0] == persistentMagic:
		return FormatPersistent, nil
	case old:
		return FormatSectors, nil
	}
	return FormatBlocks, nil
}

// ReplayFormat replays a log of any form. slots is the superblock's al_nr_extents,
// which the ring of blocks does not need.
func ReplayFormat(f Format, r io.ReaderAt, areaOffset int64, g Geometry, slots uint32) (Result, error) {
	switch f {
	case FormatSectors:
		return ReplayOld(r, areaOffset, slots)
	case FormatPersistent:
		return ReplayPersistent(r, areaOffset, g, slots)
	}
	return Replay(r, areaOffset, g)
}

// ReplayPersistent reads the array form: a magic number, then the extent of each
// slot, in big-endian 32-bit numbers (spec: on-disk 5.7). slots is the superblock's
// al_nr_extents; more than the area holds, or than slots can be, is ignored. It
// returns ErrGeometry, ErrNoLog if the magic is wrong, or a read error.
func ReplayPersistent(r io.ReaderAt, areaOffset int64, g Geometry, slots uint32) (Result, error) {
	res := Result{Format: FormatPersistent}
	if err := g.Check(); err != nil {
		return res, err
	}
	n := min(int64(slots), g.Bytes()/4-1, slotLimit)
	raw := make([]byte, 4+4*n)
	if got, err := r.ReadAt(raw, areaOffset); got < len(raw) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return res, fmt.Errorf("activitylog: read %d bytes at byte %d: %w", len(raw), areaOffset, err)
	}
	if m := binary.BigEndian.Uint32(raw); m != persistentMagic {
		return res, fmt.Errorf("%w: magic 0x%08x", ErrNoLog, m)
	}
	t := newSlotTable()
	for i := range int(n) {
		t.put(i, Extent(binary.BigEndian.Uint32(raw[4+4*i:])))
	}
	res.Hot = t.hot()
	return res, nil
}
