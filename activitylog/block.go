// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Byte offsets within a block (spec: on-disk 5.1). Do not change.
const (
	offMagic        = 0
	offNumber       = 4
	offChecksum     = 8
	offType         = 12
	offNUpdates     = 14
	offContextSize  = 16
	offContextStart = 18
	offUpdateSlot   = 36
	offUpdateExtent = 164
	offContext      = 420

	blockMagic = 0x69CB65A2
	freeSlot   = 0xFFFF
)

// ErrBlock is returned for 4096 bytes that are no block of an activity log: never
// written, or torn by a crash.
var ErrBlock = errors.New("activitylog: not a valid block")

// BlockType tells what a block is for.
type BlockType uint16

const (
	// TypeUpdate is a transaction.
	TypeUpdate BlockType = 0
	// TypeInitialised is a block as create-md and apply-al leave it.
	TypeInitialised BlockType = 0xFFFF
)

// A Block is one block of the activity log (spec: on-disk 5.1).
type Block struct {
	Number       uint32    // transaction counter, wraps
	Type         BlockType //
	NUpdates     uint16    // used elements of the update arrays, 0 to 64
	ContextSize  uint16    // number of slots of the log
	ContextStart uint16    // slot of Context[0]

	UpdateSlot   [MaxUpdates]uint16   // slot that changes; 0xFFFF if unused
	UpdateExtent [MaxUpdates]Extent   // extent it holds from now on; Free if unused
	Context      [ContextSlots]Extent // what the slots held before; Free also past the last slot
}

// Encode writes the block's 4096 bytes, checksum included, to dst.
func (t *Block) Encode(dst *[BlockSize]byte) {
	clear(dst[:offUpdateSlot])
	binary.BigEndian.PutUint32(dst[offMagic:], blockMagic)
	binary.BigEndian.PutUint32(dst[offNumber:], t.Number)
	binary.BigEndian.PutUint16(dst[offType:], uint16(t.Type))
	binary.BigEndian.PutUint16(dst[offNUpdates:], t.NUpdates)
	binary.BigEndian.PutUint16(dst[offContextSize:], t.ContextSize)
	binary.BigEndian.PutUint16(dst[offContextStart:], t.ContextStart)
	for i, s := range t.UpdateSlot {
		binary.BigEndian.PutUint16(dst[offUpdateSlot+2*i:], s)
	}
	for i, e := range t.UpdateExtent {
		binary.BigEndian.PutUint32(dst[offUpdateExtent+4*i:], uint32(e))
	}
	for i, e := range t.Context {
		binary.BigEndian.PutUint32(dst[offContext+4*i:], uint32(e))
	}
	binary.BigEndian.PutUint32(dst[offChecksum:], checksum(dst))
}

// Decode reads a block. It returns ErrBlock, and leaves t alone, if the magic or
// the checksum is wrong; all else is taken as it is.
func (t *Block) Decode(src *[BlockSize]byte) error {
	if m := binary.BigEndian.Uint32(src[offMagic:]); m != blockMagic {
		return fmt.Errorf("%w: magic 0x%08x", ErrBlock, m)
	}
	if got, want := binary.BigEndian.Uint32(src[offChecksum:]), checksum(src); got != want {
		return fmt.Errorf("%w: checksum 0x%08x, want 0x%08x", ErrBlock, got, want)
	}
	t.Number = binary.BigEndian.Uint32(src[offNumber:])
	t.Type = BlockType(binary.BigEndian.Uint16(src[offType:]))
	t.NUpdates = binary.BigEndian.Uint16(src[offNUpdates:])
	t.ContextSize = binary.BigEndian.Uint16(src[offContextSize:])
	t.ContextStart = binary.BigEndian.Uint16(src[offContextStart:])
	for i := range t.UpdateSlot {
		t.UpdateSlot[i] = binary.BigEndian.Uint16(src[offUpdateSlot+2*i:])
	}
	for i := range t.UpdateExtent {
		t.UpdateExtent[i] = Extent(binary.BigEndian.Uint32(src[offUpdateExtent+4*i:]))
	}
	for i := range t.Context {
		t.Context[i] = Extent(binary.BigEndian.Uint32(src[offContext+4*i:]))
	}
	return nil
}

// DecodeBlock returns the block that src holds, or ErrBlock.
func DecodeBlock(src *[BlockSize]byte) (Block, error) {
	var t Block
	err := t.Decode(src)
	return t, err
}

// InitBlock writes an initialised block to dst: what every block of the ring holds
// in a log that was never used, or was applied (spec: on-disk 5.1). Its arrays are
// zero, not the free marks. When initialising a ring that was in use, write ring
// position 0 last: a crash in between then leaves a log that Replay accepts.
func InitBlock(dst *[BlockSize]byte) {
	t := Block{Type: TypeInitialised}
	t.Encode(dst)
}

// zeroField stands for the checksum field. It is never written; as a local it would
// be allocated at each call.
var zeroField [offType - offChecksum]byte

// checksum is CRC-32C over the block with the checksum field taken as zero, without
// the customary inversion before and after (spec: on-disk 5.1). The library inverts
// on both sides of each Update, so an inverted zero goes in and the result is
// inverted back.
func checksum(b *[BlockSize]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	c := crc32.Update(0xFFFFFFFF, table, b[:offChecksum])
	c = crc32.Update(c, table, zeroField[:])
	c = crc32.Update(c, table, b[offType:])
	return ^c
}
