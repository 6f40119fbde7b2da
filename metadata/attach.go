// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "fmt"

// The error numbers of DRBD's attach (spec: on-disk 10.1).
const (
	AttachDiskTooSmall     = 111 // the backing device, for what is wanted of it
	AttachMetaTooSmall     = 112 // the meta device
	AttachInvalidIndex     = 116 // location and devices contradict each other
	AttachInvalidMeta      = 119 // no valid metadata
	AttachUnclean          = 165 // the activity log must be applied first
	AttachImplicitShrink   = 170 // the device would become smaller without being told to
	minFlexMetaSectors     = 2048
	kernelSectorsPerBMSect = 32768
)

// AttachError is why a kernel would refuse to attach a device.
type AttachError struct {
	Number int    // DRBD's error number, one of the Attach constants
	Reason string // what is wrong and what to do
}

// Error returns the number and the reason.
func (e *AttachError) Error() string {
	return fmt.Sprintf("metadata: attach refused (error %d): %s", e.Number, e.Reason)
}

// Is lets errors.Is match ErrUnclean, ErrCorrupt, ErrDeviceTooSmall and
// ErrInvalidLocation by the number.
func (e *AttachError) Is(target error) bool {
	switch e.Number {
	case AttachUnclean:
		return target == ErrUnclean
	case AttachInvalidMeta:
		return target == ErrCorrupt
	case AttachDiskTooSmall, AttachMetaTooSmall:
		return target == ErrDeviceTooSmall
	case AttachInvalidIndex:
		return target == ErrInvalidLocation
	}
	return false
}

// AttachTarget describes the devices of [Superblock.CheckAttach].
type AttachTarget struct {
	Location   Location // where the metadata lies
	MetaBytes  int64    // size of the device that holds the metadata
	DataBytes  int64    // size of the backing device; not looked at for internal metadata
	Configured uint64   // explicitly configured size in sectors, 0 = none
	Running    uint64   // current size in sectors of a device that runs without a disk, 0 = none
	NodeID     int32    // v09: configured own node id
}

func attachErr(number int, format string, args ...any) error {
	return &AttachError{Number: number, Reason: fmt.Sprintf(format, args...)}
}

// CheckAttach applies what the kernels check when they attach a device, in their
// order (spec: on-disk 10.1 for v07 and v08, 11 for v09). The error is always an
// *AttachError with DRBD's number. Left to the caller are the checks that need
// more than the superblock: whether data and metadata are the same device (116),
// reading (118), the UUID a diskless Primary exposes (150), and free bitmap
// slots for all configured peers (162).
//
// Unlike [Superblock.Validate] it takes internal metadata whose offsets differ
// from those of new metadata: a kernel moves such metadata.
func (sb *Superblock) CheckAttach(t AttachTarget) error {
	if err := t.Location.check(sb.Version); err != nil {
		return attachErr(AttachInvalidIndex, "%v", err)
	}
	if sb.Version != V08 && sb.Version != V09 {
		return attachErr(AttachInvalidMeta, "%s metadata: convert it with create-md", sb.Version)
	}
	if sb.NeedsApplyAL() {
		return attachErr(AttachUnclean, "metadata is unclean: apply the activity log first (apply-al)")
	}
	for _, check := range []func(*AttachTarget) error{
		sb.attachGeometry, sb.attachPeers, sb.attachPlace, sb.attachAreas, sb.attachSizes,
	} {
		if err := check(&t); err != nil {
			return err
		}
	}
	return nil
}

// attachGeometry is checks 5 to 8.
func (sb *Superblock) attachGeometry(t *AttachTarget) error {
	g := sb.Geometry()
	if err := g.check(sb.Version); err != nil {
		return attachErr(AttachInvalidMeta, "%v", err)
	}
	al, bm := int64(sb.ALOffset), int64(sb.BMOffset)
	if al < 0 && bm > al || al >= 0 && (al != sectorsPerBlock || bm < sectorsPerBlock+g.alSectors()) {
		return attachErr(AttachInvalidMeta, "offsets of activity log %d and bitmap %d do not fit", al, bm)
	}
	if t.Location.kind != kindIndexed {
		return nil
	}
	if sb.MDSizeSectors != slotSectors || al != sectorsPerBlock || bm != sectorsPerBlock+minALBlocks*sectorsPerBlock ||
		g.ALStripes != defaultALStripes || g.ALStripeSize4k != defaultALStripeSize4k || g.BytesPerBit != DefaultBytesPerBit {
		return attachErr(AttachInvalidMeta, "indexed metadata must have the fixed layout of 128 MiB slots")
	}
	return nil
}

// attachPeers is what DRBD 9 checks of node ids and slots.
func (sb *Superblock) attachPeers(t *AttachTarget) error {
	if sb.Version != V09 {
		return nil
	}
	if sb.NodeID != Unassigned && sb.NodeID != t.NodeID {
		return attachErr(AttachInvalidMeta, "metadata belongs to node id %d, this is node id %d", sb.NodeID, t.NodeID)
	}
	for i := range sb.Peers {
		switch index := sb.Peers[i].BitmapIndex; {
		case index == Unassigned:
		case int32(i) == t.NodeID:
			return attachErr(AttachInvalidMeta, "the own node has bitmap slot %d", index)
		case index < 0 || uint32(index) >= sb.MaxPeers:
			return attachErr(AttachInvalidMeta, "peer %d has bitmap slot %d of %d", i, index, sb.MaxPeers)
		}
	}
	return nil
}

// attachPlace is check 9. All numbers are sectors.
func (sb *Superblock) attachPlace(t *AttachTarget) error {
	l := Layout{Version: sb.Version, Location: t.Location, DeviceBytes: t.MetaBytes &^ (SectorSize - 1)}
	if err := l.place(); err != nil {
		return attachErr(AttachInvalidMeta, "%v", err)
	}
	device, first := l.DeviceBytes/SectorSize, l.SuperblockOffset/SectorSize
	if t.Location.IsInternal() {
		first += int64(sb.BMOffset)
	}
	if size := int64(sb.MDSizeSectors); device < size || device-size < first {
		return attachErr(AttachInvalidMeta, "%d sectors of metadata do not fit a device of %d", size, device)
	}
	return nil
}

// attachAreas is checks 10 to 12.
func (sb *Superblock) attachAreas(*AttachTarget) error {
	al := int64(sb.BMOffset) - int64(sb.ALOffset)
	if sb.ALOffset < 0 {
		al = -int64(sb.ALOffset)
	}
	if al%sectorsPerBlock != 0 || al < minALBlocks*sectorsPerBlock || al != sb.Geometry().alSectors() {
		return attachErr(AttachInvalidMeta, "%d sectors of activity log where the geometry says %d", al, sb.Geometry().alSectors())
	}
	if sb.BMOffset%sectorsPerBlock != 0 {
		return attachErr(AttachInvalidMeta, "bitmap offset %d is not a multiple of 8 sectors", sb.BMOffset)
	}
	need := (min(sb.EffectiveSize, MaxSectors) + 7) / kernelSectorsPerBMSect
	if sb.Version == V09 {
		need = BitmapBytes(min(sb.EffectiveSize, MaxSectors), sb.BytesPerBit, sb.MaxPeers) / SectorSize
	}
	if got := sb.bitmapSectors(); got < 0 || uint64(got) < need || sb.EffectiveSize > MaxSectors {
		return attachErr(AttachInvalidMeta, "%d sectors of bitmap are too few for %d sectors of data", got, sb.EffectiveSize)
	}
	return nil
}

// attachSizes is checks 13, 14 and 16.
func (sb *Superblock) attachSizes(t *AttachTarget) error {
	usable := sb.kernelUsable(t)
	if t.Configured > usable {
		return attachErr(AttachDiskTooSmall, "%d sectors are configured, %d are usable", t.Configured, usable)
	}
	if usable < t.Running {
		return attachErr(AttachDiskTooSmall, "the running device has %d sectors, %d are usable", t.Running, usable)
	}
	needMeta := int64(minFlexMetaSectors)
	if t.Location.kind == kindIndexed {
		needMeta = slotSectors * (int64(t.Location.index) + 1)
	}
	if got := t.MetaBytes / SectorSize; got < needMeta {
		return attachErr(AttachMetaTooSmall, "the meta device has %d sectors, %d are needed", got, needMeta)
	}
	if sb.Flags&Consistent != 0 && t.Configured == 0 && usable < sb.EffectiveSize {
		return attachErr(AttachImplicitShrink, "the data has %d sectors, only %d are usable now: configure the size to shrink it",
			sb.EffectiveSize, usable)
	}
	return nil
}

// bitmapSectors is the room the offsets leave for the bitmap.
func (sb *Superblock) bitmapSectors() int64 {
	if sb.ALOffset < 0 {
		return int64(sb.ALOffset) - int64(sb.BMOffset)
	}
	return int64(sb.MDSizeSectors) - int64(sb.BMOffset)
}

// kernelUsable is what the kernels take as the largest possible size (spec:
// on-disk 2.3). The superblock has passed attachAreas.
func (sb *Superblock) kernelUsable(t *AttachTarget) uint64 {
	bm := uint64(sb.bitmapSectors())
	limit := bm * kernelSectorsPerBMSect
	if sb.Version == V09 {
		limit = (bm &^ (sectorsPerBlock - 1)) * SectorSize / uint64(sb.MaxPeers) * 8 * uint64(sb.BytesPerBit/SectorSize)
	}
	if !t.Location.IsInternal() {
		return min(limit, uint64(max(t.DataBytes, 0))/SectorSize)
	}
	l := Layout{Version: sb.Version, Location: t.Location, DeviceBytes: t.MetaBytes &^ (SectorSize - 1)}
	if l.place() != nil {
		return 0
	}
	inFront := uint64(max(l.SuperblockOffset/SectorSize+int64(sb.BMOffset), 0))
	if sb.Version == V08 {
		return inFront
	}
	return min(limit, inFront)
}
