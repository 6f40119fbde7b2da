// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A second reader of the metadata, written from the description alone and without
// the packages that the product uses (spec: on-disk 2, 3.2, 4, 5): what it finds on a
// disk must be what the product meant to leave there.

// The flags of spec: on-disk 3.2 that it looks at.
const (
	flagPrimary    = 0x002
	flagFullSync   = 0x008
	flagALDisabled = 0x100
)

// onDisk is what the metadata of a disk says.
type onDisk struct {
	size   uint64 // sectors; 0 if no size was ever agreed on
	ids    [4]uint64
	flags  uint32
	magic  uint32
	bitmap []byte
	hot    map[uint32]bool // extents of the activity log
}

func (d *onDisk) String() string {
	return fmt.Sprintf("has on disk: %d sectors, flags %#x, %d hot extents, ids %x", d.size, d.flags, len(d.hot), d.ids)
}

var errMeta = errors.New("invalid metadata")

func badMeta(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMeta, fmt.Sprintf(format, args...))
}

// readOnDisk reads v08 metadata: internal at the end of the disk, or external at its
// beginning.
func readOnDisk(d *Disk, external bool) (*onDisk, error) {
	at := int64(0)
	if !external {
		at = (d.size - 4096) &^ 4095
	}
	var sb [4096]byte
	d.current.read(sb[:], at)
	u32 := func(off int) uint32 { return binary.BigEndian.Uint32(sb[off:]) }
	o := &onDisk{size: binary.BigEndian.Uint64(sb[:]), flags: u32(56), magic: u32(60), hot: map[uint32]bool{}}
	for i := range o.ids {
		o.ids[i] = binary.BigEndian.Uint64(sb[8+8*i:])
	}
	area, al, bm := int64(u32(64)), int64(int32(u32(68))), int64(int32(u32(76)))
	stripes, blocks := int64(u32(88)), int64(u32(92))
	wantAL, wantBM := int64(8), 8+stripes*blocks*8
	if !external {
		wantAL, wantBM = -stripes*blocks*8, 8-area
	}
	switch {
	case o.magic != 0x8374026B && o.magic != 0x8374026C:
		return nil, badMeta("magic %#x", o.magic)
	case u32(80) != 4096 || stripes != 1 || blocks != 8:
		return nil, badMeta("%d bytes a bit, %d stripes of %d blocks", u32(80), stripes, blocks)
	case al != wantAL || bm != wantBM:
		return nil, badMeta("log at %d and bitmap at %d, want %d and %d", al, bm, wantAL, wantBM)
	case o.flags&^0x1ff != 0:
		return nil, badMeta("flags %#x", o.flags)
	case !external && int64(o.size) > at/512+bm:
		return nil, badMeta("%d sectors reach into the bitmap", o.size)
	case o.ids[0]&^1 == 0:
		return nil, badMeta("no current generation")
	}
	for _, b := range sb[96:] {
		if b != 0 {
			return nil, badMeta("the reserved part is not zero")
		}
	}
	o.bitmap = make([]byte, (o.size+63)/64*1+8)
	d.current.read(o.bitmap, at+512*bm)
	if o.flags&flagPrimary == 0 {
		return o, nil
	}
	return o, o.replay(d, at+512*al, stripes*blocks)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// replay reads the ring of the activity log (spec: on-disk 5.5).
func (o *onDisk) replay(d *Disk, at, blocks int64) error {
	type transaction struct {
		number uint32
		block  []byte
	}
	ring := make([]*transaction, blocks)
	oldest, newest, invalid, updates := int64(-1), int64(-1), []int64{}, 0
	for r := range blocks {
		b := make([]byte, 4096)
		d.current.read(b, at+4096*r)
		sum := binary.BigEndian.Uint32(b[8:])
		clear(b[8:12])
		if binary.BigEndian.Uint32(b) != 0x69CB65A2 || ^crc32.Update(0xFFFFFFFF, castagnoli, b) != sum {
			invalid = append(invalid, r)
			continue
		}
		if binary.BigEndian.Uint16(b[12:]) == 0xFFFF {
			continue
		}
		updates++
		t := &transaction{binary.BigEndian.Uint32(b[4:]), b}
		if int64(t.number)%blocks != r {
			return badMeta("transaction %d at place %d", t.number, r)
		}
		ring[r] = t
		if oldest < 0 || int32(t.number-ring[oldest].number) < 0 {
			oldest = r
		}
		if newest < 0 || int32(t.number-ring[newest].number) > 0 {
			newest = r
		}
	}
	if updates == 0 {
		if len(invalid) == 0 || len(invalid) == 1 && invalid[0] == 0 {
			return nil
		}
		return badMeta("%d blocks of the activity log are torn, and it has no transaction", len(invalid))
	}
	if len(invalid) > 1 {
		return badMeta("%d blocks of the activity log are torn", len(invalid))
	}
	held := map[uint32]uint32{}
	for r := oldest; ; r = (r + 1) % blocks {
		if t := ring[r]; t != nil {
			context, start := uint32(binary.BigEndian.Uint16(t.block[16:])), uint32(binary.BigEndian.Uint16(t.block[18:]))
			// al-extents may have changed since: each transaction has its own number.
			if context < 67 || context > 65534 {
				return badMeta("a transaction of %d slots, want 67 to 65534", context)
			}
			for i := range uint32(919) {
				if e := binary.BigEndian.Uint32(t.block[420+4*i:]); e != 0xFFFFFFFF || start+i < context {
					held[start+i] = e
				}
			}
			for i := range uint32(64) {
				slot := uint32(binary.BigEndian.Uint16(t.block[36+2*i:]))
				if i < uint32(binary.BigEndian.Uint16(t.block[14:])) || slot != 0xFFFF {
					held[slot] = binary.BigEndian.Uint32(t.block[164+4*i:])
				}
			}
		}
		if r == newest {
			break
		}
	}
	for _, e := range held {
		if e != 0xFFFFFFFF {
			o.hot[e] = true
		}
	}
	return nil
}
