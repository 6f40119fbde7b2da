// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/binary"
	"io"
)

// RestoreOptions are the choices of [Dump.Restore].
type RestoreOptions struct {
	// ALStripes and ALStripeSize4k replace the geometry of the text where they
	// are not 0: the way to change the activity log's geometry offline.
	ALStripes, ALStripeSize4k uint32
}

// RestoreResult tells what [Dump.Restore] had to change.
type RestoreResult struct {
	Layout Layout // where it was written to

	// Clipped says that the agreed size was reduced from ClippedFrom to what is
	// usable of this device.
	Clipped     bool
	ClippedFrom uint64

	// Truncated says that the text had more bitmap words than the agreed size
	// needs; they were dropped.
	Truncated bool
}

// Restore writes the metadata of a dump to a device of deviceBytes bytes, laid out
// for that device as [Create] would (spec: on-disk 7.4). It returns the errors of
// [NewLayout] and dev's own.
//
// Unlike the tool, which leaves the old activity log and, beyond the words of the
// text, the old bitmap as they are, Restore initialises the log, and every bit
// that the text does not set becomes 0 (docs/metadata.md).
//
// Durability: as for Create. An interrupted Restore leaves no superblock.
func (d *Dump) Restore(dev io.WriterAt, loc Location, deviceBytes int64, opt RestoreOptions) (Superblock, RestoreResult, error) {
	var res RestoreResult
	sb := d.Superblock
	if opt.ALStripes != 0 {
		sb.ALStripes = opt.ALStripes
	}
	if opt.ALStripeSize4k != 0 {
		sb.ALStripeSize4k = opt.ALStripeSize4k
	}
	l, err := NewLayout(sb.Version, loc, deviceBytes, sb.Geometry())
	if err != nil {
		return Superblock{}, res, err
	}
	sb.MDSizeSectors, sb.ALOffset, sb.BMOffset = l.MDSizeSectors, l.ALOffset, l.BMOffset
	sb.ALExtents = DefaultALExtents
	res.Layout = l
	res.ClippedFrom, res.Clipped = sb.ClipEffectiveSize(l)
	err = install(dev, l, &sb, func() error {
		var err error
		res.Truncated, err = d.writeBitmap(dev, l, sb.EffectiveSize)
		return err
	})
	return sb, res, err
}

// writeBitmap writes the words of the text, and zeroes behind them.
func (d *Dump) writeBitmap(dev io.WriterAt, l Layout, effectiveSize uint64) (truncated bool, err error) {
	cursors := make([]runCursor, l.Geometry.MaxPeers)
	for i := range min(len(cursors), len(d.Bitmaps)) {
		cursors[i].runs = d.Bitmaps[i]
	}
	size := l.BitmapBytes(effectiveSize)
	buf := make([]byte, min(size, zeroChunk))
	next := 0 // slot of the next word
	for done := int64(0); done < size; {
		if allDone(cursors) {
			return false, zeroRange(dev, l.BitmapOffset+done, l.BitmapSize-done)
		}
		chunk := buf[:min(size-done, int64(len(buf)))]
		for at := 0; at+4 <= len(chunk); at += 4 {
			binary.LittleEndian.PutUint32(chunk[at:], cursors[next].word())
			if next++; next == len(cursors) {
				next = 0
			}
		}
		if err := writeFull(dev, chunk, l.BitmapOffset+done); err != nil {
			return false, err
		}
		done += int64(len(chunk))
	}
	return !allDone(cursors), zeroRange(dev, l.BitmapOffset+size, l.BitmapSize-size)
}

// runCursor hands out the 32-bit words of a slot one by one, zeroes at the end.
type runCursor struct {
	runs []BitmapRun
	used uint64 // words of 64 bits taken from runs[0]
	high bool   // the upper half is next
}

func (c *runCursor) word() uint32 {
	if len(c.runs) == 0 {
		return 0
	}
	w := c.runs[0].Word
	if !c.high {
		c.high = true
		return uint32(w)
	}
	c.high = false
	if c.used++; c.used >= c.runs[0].Count {
		c.runs, c.used = c.runs[1:], 0
	}
	return uint32(w >> 32)
}

// allDone reports whether every cursor is at its end. A zero upper half is no
// loss: the slots of v09 may end with half a value.
func allDone(cursors []runCursor) bool {
	for i := range cursors {
		c := &cursors[i]
		lastHalf := c.high && len(c.runs) == 1 && c.used+1 == c.runs[0].Count && c.runs[0].Word>>32 == 0
		if len(c.runs) > 0 && !lastHalf {
			return false
		}
	}
	return true
}
