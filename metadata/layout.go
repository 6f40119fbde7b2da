// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"math"
)

// Sizes of devices (spec: on-disk 2.1, 2.3).
const (
	// MinDeviceBytes is the smallest device that holds metadata.
	MinDeviceBytes = 69632

	// MaxSectors is the largest storage a bitmap describes: 1 PiB.
	MaxSectors = 1 << 41

	slotBytes   = 128 << 20 // an indexed slot, or v07's fixed metadata
	slotSectors = slotBytes / SectorSize
)

// Layout says where the metadata lies on its device (spec: on-disk 2). Offsets
// and sizes are in bytes and absolute unless the name says otherwise; all
// offsets are multiples of 4096.
type Layout struct {
	Version     Version
	Location    Location
	DeviceBytes int64 // the device that holds the metadata, rounded down to whole sectors
	Geometry    Geometry

	SuperblockOffset  int64 // 4096 bytes
	ActivityLogOffset int64 // a ring of 4096-byte blocks
	ActivityLogSize   int64
	BitmapOffset      int64 // all slots together
	BitmapSize        int64 // reserved space; see BitmapBytes for the meaningful part

	MDSizeSectors      uint32 // as stored in the superblock
	ALOffset, BMOffset int32  // sectors relative to the superblock, as stored

	// UsableSectors is the largest replicated device this metadata allows:
	// for internal metadata what is left in front of it, for external
	// metadata what the bitmap can describe. The data device of external
	// metadata may be smaller: see UsableWith.
	UsableSectors uint64
}

// NewLayout computes where new metadata goes (spec: on-disk 2). deviceBytes is the
// size of the device that holds it: the backing device itself for internal
// metadata. It returns ErrInvalidLocation, ErrInvalidGeometry, ErrDeviceTooSmall
// or ErrDeviceTooLarge.
func NewLayout(v Version, loc Location, deviceBytes int64, g Geometry) (Layout, error) {
	if !v.valid() {
		return Layout{}, fmt.Errorf("%w: %s", ErrUnknownVersion, v)
	}
	if err := loc.check(v); err != nil {
		return Layout{}, err
	}
	g = g.withDefaults()
	if err := g.checkCreate(v, loc); err != nil {
		return Layout{}, err
	}
	l := Layout{Version: v, Location: loc, DeviceBytes: deviceBytes &^ (SectorSize - 1), Geometry: g}
	if err := l.place(); err != nil {
		return Layout{}, err
	}
	if err := l.compute(); err != nil {
		return Layout{}, err
	}
	return l, l.derive()
}

// compute fills in the stored size and offsets that new metadata would have
// (spec: on-disk 2.2). It needs a placed Layout with a checked geometry.
func (l *Layout) compute() error {
	sectors := l.DeviceBytes / SectorSize
	if l.Location.IsInternal() && sectors > MaxSectors {
		return fmt.Errorf("%w: %d sectors, at most %d are supported", ErrDeviceTooLarge, sectors, int64(MaxSectors))
	}
	al := l.Geometry.alSectors()
	var mdSize, alOff, bmOff int64
	switch l.Location.kind {
	case kindInternal:
		bm := BitmapBytes(uint64(sectors), l.Geometry.BytesPerBit, l.Geometry.MaxPeers)
		mdSize = int64(bm)/SectorSize + sectorsPerBlock + al
		alOff, bmOff = -al, sectorsPerBlock-mdSize
	case kindFlexExternal:
		mdSize, alOff, bmOff = sectors, sectorsPerBlock, sectorsPerBlock+al
		if mdSize > math.MaxUint32 {
			// The tool stores the size modulo 2 TiB and then believes it.
			return fmt.Errorf("%w: a flex-external meta device must be smaller than 2 TiB", ErrDeviceTooLarge)
		}
	default:
		mdSize, alOff, bmOff = slotSectors, sectorsPerBlock, sectorsPerBlock+al
	}
	if l.Version == V07 {
		mdSize &^= 1 // stored in KiB
	}
	l.MDSizeSectors, l.ALOffset, l.BMOffset = uint32(mdSize), int32(alOff), int32(bmOff)
	return nil
}

// Layout returns where the areas of a decoded superblock lie, from the offsets it
// stores. It returns an error that matches ErrCorrupt if an area would lie
// outside the device or over another one, so that what it returns is safe to
// read and write; whether drbdmeta or a kernel takes the superblock is the
// question of [Superblock.Validate] and [Superblock.CheckAttach].
func (sb *Superblock) Layout(loc Location, deviceBytes int64) (Layout, error) {
	if err := loc.check(sb.Version); err != nil {
		return Layout{}, err
	}
	g := sb.Geometry()
	if err := g.check(sb.Version); err != nil {
		return Layout{}, err
	}
	l := Layout{
		Version: sb.Version, Location: loc, DeviceBytes: deviceBytes &^ (SectorSize - 1), Geometry: g,
		MDSizeSectors: sb.MDSizeSectors, ALOffset: sb.ALOffset, BMOffset: sb.BMOffset,
	}
	if err := l.place(); err != nil {
		return Layout{}, err
	}
	if err := l.derive(); err != nil {
		return Layout{}, fmt.Errorf("%w: %s", ErrCorruptOffsets, err.Error())
	}
	return l, nil
}

// place computes SuperblockOffset, the only thing needed to look for metadata.
func (l *Layout) place() error {
	if l.DeviceBytes < MinDeviceBytes {
		return fmt.Errorf("%w: %d bytes, at least %d are needed", ErrDeviceTooSmall, l.DeviceBytes, MinDeviceBytes)
	}
	switch l.Location.kind {
	case kindInternal:
		l.SuperblockOffset = (l.DeviceBytes - BlockSize) &^ (BlockSize - 1)
	case kindInternalFixed:
		l.SuperblockOffset = l.DeviceBytes&^(BlockSize-1) - slotBytes
	case kindIndexed:
		l.SuperblockOffset = int64(l.Location.index) * slotBytes
	}
	if l.SuperblockOffset < 0 || l.SuperblockOffset+BlockSize > l.DeviceBytes {
		return fmt.Errorf("%w: %d bytes have no room for %s metadata", ErrDeviceTooSmall, l.DeviceBytes, l.Location)
	}
	return nil
}

// derive computes the absolute areas from the relative offsets, and checks that
// they lie one behind the other inside the device.
func (l *Layout) derive() error {
	l.ActivityLogOffset = l.SuperblockOffset + int64(l.ALOffset)*SectorSize
	l.ActivityLogSize = l.Geometry.alSectors() * SectorSize
	l.BitmapOffset = l.SuperblockOffset + int64(l.BMOffset)*SectorSize
	if l.ALOffset%sectorsPerBlock != 0 || l.BMOffset%sectorsPerBlock != 0 {
		return fmt.Errorf("%w: offsets %d and %d are not multiples of 8 sectors", ErrInvalidGeometry, l.ALOffset, l.BMOffset)
	}
	alEnd := l.ActivityLogOffset + l.ActivityLogSize
	var bmEnd int64
	if l.ALOffset < 0 { // bitmap, log, superblock
		bmEnd = l.ActivityLogOffset
		if l.BitmapOffset < 0 || l.BitmapOffset >= bmEnd || alEnd > l.SuperblockOffset {
			return l.noRoom()
		}
	} else { // superblock, log, bitmap
		bmEnd = min(l.SuperblockOffset+int64(l.MDSizeSectors)*SectorSize, l.DeviceBytes)
		if l.ActivityLogOffset < l.SuperblockOffset+BlockSize || l.BitmapOffset < alEnd || l.BitmapOffset >= bmEnd {
			return l.noRoom()
		}
	}
	l.BitmapSize = bmEnd - l.BitmapOffset
	limit := bitmapLimit(l.BitmapSize/SectorSize, l.Geometry)
	if l.Location.IsInternal() {
		limit = min(limit, uint64(min(l.SuperblockOffset, l.BitmapOffset))/SectorSize)
	}
	l.UsableSectors = min(limit, MaxSectors)
	if l.UsableSectors == 0 {
		return l.noRoom()
	}
	return nil
}

func (l *Layout) noRoom() error {
	return fmt.Errorf("%w: %d bytes have no room for %s metadata with %d activity log blocks and %d bitmap slots",
		ErrDeviceTooSmall, l.DeviceBytes, l.Location, l.Geometry.alBlocks(), l.Geometry.MaxPeers)
}

// UsableWith returns the largest replicated device in sectors for external
// metadata with a data device of dataBytes; for internal metadata dataBytes
// does not matter.
func (l *Layout) UsableWith(dataBytes int64) uint64 {
	if l.Location.IsInternal() {
		return l.UsableSectors
	}
	return min(l.UsableSectors, uint64(max(dataBytes, 0))/SectorSize)
}

// BitmapBytes returns how many bytes at BitmapOffset describe a device of
// effectiveSize sectors: the meaningful part of the bitmap, a multiple of 4096,
// or less at the end of a flex-external device (spec: on-disk 4.3).
func (l *Layout) BitmapBytes(effectiveSize uint64) int64 {
	effectiveSize = min(effectiveSize, MaxSectors)
	n := BitmapBytes(effectiveSize, l.Geometry.BytesPerBit, l.Geometry.MaxPeers)
	return min(int64(n), l.BitmapSize)
}
