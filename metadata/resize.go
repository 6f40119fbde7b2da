// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"io"
)

// ResizeOptions are the choices of [Resize].
type ResizeOptions struct {
	// SetNew makes the bits of what the bitmap did not cover before 1 (out of
	// sync). Otherwise they are 0, which is right as long as nobody wrote there.
	SetNew bool
}

// Resize moves internal metadata after its device has grown from oldBytes to
// newBytes, or before it shrinks (spec: on-disk 9.3). The superblock is looked for
// where it belongs on a device of oldBytes. The agreed size is kept; the first byte
// of the bitmap stays the first, new space reads as 0 or, with SetNew, as 1.
//
// It returns the errors of [Read] and [NewLayout], those of dev, and
// ErrDeviceTooSmall if the agreed size, or the usable one if none was agreed yet,
// would no longer fit. Nothing was changed then. v07 gives ErrUnsupported.
//
// Durability: log and bitmap are flushed at the new place before the superblock is
// written there, and that before the old one is wiped. If the old and the new
// metadata overlap, the old superblock is first marked "full sync needed", so that
// an interruption at worst costs a full sync, or the metadata.
func Resize(dev Device, loc Location, oldBytes, newBytes int64, opt ResizeOptions) (Superblock, Layout, error) {
	if loc != Internal() {
		return Superblock{}, Layout{}, fmt.Errorf("%w: only internal metadata moves with the size of the device, this is %s", ErrInvalidLocation, loc)
	}
	sb, old, err := Read(dev, loc, oldBytes)
	if err != nil {
		return Superblock{}, Layout{}, err
	}
	if sb.Version == V07 {
		return Superblock{}, Layout{}, fmt.Errorf("%w: v07 cannot be resized, convert it first", ErrUnsupported)
	}
	l, err := NewLayout(sb.Version, loc, newBytes, sb.Geometry())
	if err != nil {
		return Superblock{}, Layout{}, err
	}
	if l.SuperblockOffset == old.SuperblockOffset && l.BMOffset == old.BMOffset {
		return sb, l, nil
	}
	return relocate(dev, old, l, sb, opt.SetNew)
}

// relocate moves activity log and bitmap from one layout to another, writes sb
// for the new one, and wipes the old superblock.
func relocate(dev Device, from, to Layout, sb Superblock, setNew bool) (Superblock, Layout, error) {
	none := Superblock{}
	data := sb.EffectiveSize
	if data == 0 { // never agreed: all there was may be data
		data = from.UsableSectors
	}
	if data > to.UsableSectors {
		return none, Layout{}, fmt.Errorf("%w: %d sectors may hold data, %d would be usable", ErrDeviceTooSmall, data, to.UsableSectors)
	}
	if from.ActivityLogSize > maxALBlocksCreate*BlockSize {
		return none, Layout{}, fmt.Errorf("%w: an activity log of %d bytes cannot be moved, apply it, then dump and restore",
			ErrUnsupported, from.ActivityLogSize)
	}
	sb.MDSizeSectors, sb.ALOffset, sb.BMOffset = to.MDSizeSectors, to.ALOffset, to.BMOffset

	log := make([]byte, from.ActivityLogSize)
	if err := readFull(dev, log, from.ActivityLogOffset); err != nil {
		return none, Layout{}, err
	}
	if from.start() < to.end() && to.start() < from.end() {
		if err := distrust(dev, from); err != nil {
			return none, Layout{}, err
		}
	}
	kept := min(from.BitmapSize, to.BitmapSize)
	if err := move(dev, to.BitmapOffset, from.BitmapOffset, kept); err != nil {
		return none, Layout{}, err
	}
	fill := zeroRange
	if setNew {
		fill = oneRange
	}
	if err := fill(dev, to.BitmapOffset+kept, to.BitmapSize-kept); err != nil {
		return none, Layout{}, err
	}
	if err := writeFull(dev, log, to.ActivityLogOffset); err != nil {
		return none, Layout{}, err
	}
	if err := flush(dev); err != nil {
		return none, Layout{}, err
	}
	if err := WriteSuperblock(dev, to, &sb); err != nil {
		return none, Layout{}, err
	}
	// The new metadata may cover the place of the old superblock.
	if at := from.SuperblockOffset; at+BlockSize <= to.start() || at >= to.end() {
		if err := Wipe(dev, from); err != nil {
			return none, Layout{}, err
		}
	}
	return sb, to, nil
}

// start and end enclose all metadata of a layout.
func (l *Layout) start() int64 { return min(l.SuperblockOffset, l.BitmapOffset) }
func (l *Layout) end() int64 {
	return max(l.SuperblockOffset+BlockSize, l.BitmapOffset+l.BitmapSize)
}

// distrust marks the superblock on disk such that its bitmap does not count.
func distrust(dev Device, l Layout) error {
	var block [BlockSize]byte
	if err := readFull(dev, block[:], l.SuperblockOffset); err != nil {
		return err
	}
	sb, err := Decode(block[:])
	if err != nil {
		return err
	}
	if sb.Version != V09 {
		sb.Flags |= FullSync
	}
	for i := range sb.Peers {
		if sb.Version == V09 {
			sb.Peers[i].Flags |= PeerFullSync
		}
	}
	return WriteSuperblock(dev, l, &sb)
}

// move copies size bytes within dev; the ranges may overlap.
func move(dev Device, to, from, size int64) error {
	if to == from {
		return nil
	}
	buf := make([]byte, min(size, zeroChunk))
	for done := int64(0); done < size; {
		n := min(size-done, int64(len(buf)))
		at := done
		if to > from { // from the end, as the later bytes are still needed
			at = size - done - n
		}
		if err := readFull(dev, buf[:n], from+at); err != nil {
			return err
		}
		if err := writeFull(dev, buf[:n], to+at); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// oneRange makes size bytes at off all ones.
func oneRange(dev io.WriterAt, off, size int64) error {
	ones := make([]byte, min(size, zeroChunk))
	for i := range ones {
		ones[i] = 0xFF
	}
	for done := int64(0); done < size; {
		n := min(size-done, int64(len(ones)))
		if err := writeFull(dev, ones[:n], off+done); err != nil {
			return err
		}
		done += n
	}
	return nil
}
