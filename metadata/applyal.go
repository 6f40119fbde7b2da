// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// Device is what functions that change metadata work on. If it has a method
// Sync() error or Flush() error, that makes what was written durable; without
// either, every write is taken as durable. *os.File is a Device.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// ApplyResult tells what [ApplyAL] found and did.
type ApplyResult struct {
	Replay activitylog.Result // what the log says; Hot are the extents

	// Ignored is the error of the replay if it did not matter, because the node
	// was not Primary.
	Ignored error

	// MarkedBits is how many bits became 1, over all slots, and MarkedBytes the
	// storage they stand for.
	MarkedBits  uint64
	MarkedBytes uint64

	// Beyond are the hot extents that lie beyond the bitmap of the agreed size,
	// in whole or in part. What of them lies inside is marked.
	Beyond []activitylog.Extent

	// PrimaryInd says whether the node was Primary: only then hot extents count.
	PrimaryInd bool

	LogInitialised    bool // the log was written anew
	SuperblockWritten bool // the superblock is clean now, and was not before, or had bits applied
}

// ApplyAL makes metadata clean again after a crash or an ordinary stop, so that
// a kernel attaches the device: if the node was Primary, every extent that may
// have had writes in flight is marked out of sync in all bitmap slots; then the
// activity log is initialised and the superblock is marked clean (spec: on-disk
// 6.3). Whether the node was Primary stays recorded for the next attach.
//
// It returns the errors of [Read], those of dev, and, if the node was Primary
// and the log is of no use, one that matches activitylog.ErrNoLog or
// activitylog.ErrDamaged; nothing was changed then, and the honest way out is
// [Superblock.Invalidate], or a verified dump and restore.
//
// Durability: bitmap, activity log and superblock are each flushed before the
// next one is written. Interrupted anywhere, ApplyAL can be repeated.
func ApplyAL(dev Device, loc Location, deviceBytes int64) (ApplyResult, error) {
	sb, l, err := Read(dev, loc, deviceBytes)
	if err != nil {
		return ApplyResult{}, err
	}
	sb.ClipEffectiveSize(l)
	return applyAL(dev, &sb, l)
}

func applyAL(dev Device, sb *Superblock, l Layout) (ApplyResult, error) {
	res := ApplyResult{PrimaryInd: sb.Flags&PrimaryInd != 0}
	format, err := activitylog.DetectFormat(dev, l.ActivityLogOffset, l.alGeometry(), sb.magic())
	if err != nil {
		return res, err
	}
	res.Replay, err = activitylog.ReplayFormat(format, dev, l.ActivityLogOffset, l.alGeometry(), sb.ALExtents)
	if err != nil {
		useless := errors.Is(err, activitylog.ErrNoLog) || errors.Is(err, activitylog.ErrDamaged)
		if !useless || res.PrimaryInd {
			return res, err
		}
		res.Ignored = err
	}
	if res.PrimaryInd && len(res.Replay.Hot) > 0 {
		if err := res.mark(dev, sb, l); err != nil {
			return res, err
		}
	}
	// A lone torn block at the start of an else unused ring is rewritten, too,
	// though it is no error: the tool leaves it for the next reader to find.
	dirty := !res.Replay.Clean() || res.Ignored != nil || res.Replay.Invalid > 0
	if dirty && sb.Version != V07 {
		if err := InitActivityLog(dev, l); err != nil {
			return res, err
		}
		res.LogInitialised = true
	}
	if sb.Version == V07 || (sb.Version == V08 && !sb.NeedsApplyAL() && res.MarkedBits == 0) {
		return res, nil
	}
	sb.Flags |= ALClean
	sb.Unclean = false
	res.SuperblockWritten = true
	return res, WriteSuperblock(dev, l, sb)
}

// magic is the number that tells the superblock's format on disk.
func (sb *Superblock) magic() uint32 {
	switch {
	case sb.Version == V07:
		return magicV07
	case sb.Version == V09:
		return magicV09
	case sb.Unclean:
		return magicV08Unclean
	}
	return magicV08
}

// mark sets the bits of all hot extents and flushes the bitmap.
func (res *ApplyResult) mark(dev Device, sb *Superblock, l Layout) error {
	m := bitMarker{dev: dev, offset: l.BitmapOffset, slots: int64(l.Geometry.MaxPeers), size: l.BitmapBytes(sb.EffectiveSize)}
	perExtent := activitylog.ExtentSectors * SectorSize / int64(sb.BytesPerBit)
	for _, e := range res.Replay.Hot {
		whole, err := m.setAllSlots(int64(e)*perExtent, perExtent)
		if err != nil {
			return err
		}
		if !whole {
			res.Beyond = append(res.Beyond, e)
		}
	}
	if err := m.store(); err != nil {
		return err
	}
	res.MarkedBits = m.changed
	res.MarkedBytes = m.changed * uint64(sb.BytesPerBit)
	return flush(dev)
}

// bitMarker sets ranges of bits in all slots of a bitmap on disk, block by block.
// The interleaving is the one of spec: on-disk 4.2: bit b of slot s is bit b % 32
// of the 32-bit little-endian word (b / 32) * slots + s.
type bitMarker struct {
	dev    Device
	offset int64 // of the bitmap, bytes
	size   int64 // of its meaningful part, bytes
	slots  int64

	block   [BlockSize]byte
	at      int64 // offset of block within the bitmap
	length  int   // bytes in block, 0 = none
	dirty   bool
	changed uint64 // bits that became 1
}

// setAllSlots sets n bits from bit first on in every slot; whole is false if some
// lie beyond the bitmap. first and n are multiples of n, n a power of two.
func (m *bitMarker) setAllSlots(first, n int64) (whole bool, err error) {
	mask := uint32(1<<min(n, 32)-1) << (first % 32)
	for w := first / 32 * m.slots; w < (first+n+31)/32*m.slots; w++ {
		if at := 4 * w; at < m.size {
			if err := m.or(at, mask); err != nil {
				return false, err
			}
		} else {
			return false, nil
		}
	}
	return true, nil
}

// or sets the mask's bits in the word at byte at.
func (m *bitMarker) or(at int64, mask uint32) error {
	if m.length == 0 || at < m.at || at >= m.at+int64(m.length) {
		if err := m.load(at); err != nil {
			return err
		}
	}
	b := m.block[at-m.at:][:4]
	old := binary.LittleEndian.Uint32(b)
	if old|mask != old {
		binary.LittleEndian.PutUint32(b, old|mask)
		m.changed += uint64(bits.OnesCount32(mask &^ old))
		m.dirty = true
	}
	return nil
}

// load stores the present block and reads the one that holds byte at.
func (m *bitMarker) load(at int64) error {
	if err := m.store(); err != nil {
		return err
	}
	m.at = at &^ (BlockSize - 1)
	m.length = int(min(BlockSize, m.size-m.at))
	return readFull(m.dev, m.block[:m.length], m.offset+m.at)
}

// store writes the present block if it changed.
func (m *bitMarker) store() error {
	if !m.dirty {
		return nil
	}
	m.dirty = false
	return writeFull(m.dev, m.block[:m.length], m.offset+m.at)
}
