// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "fmt"

// Validate applies the rules by which drbdmeta takes a block for the metadata of
// a device (spec: on-disk 3.4). deviceBytes is the size of the device that holds
// the metadata. It returns nil; ErrMisplaced if the superblock is sound but the
// device now has another size, which makes drbdmeta see no metadata at all; or
// an error that matches ErrCorrupt, ErrInvalidLocation or ErrDeviceTooSmall.
func (sb *Superblock) Validate(loc Location, deviceBytes int64) error {
	if !sb.Version.valid() {
		return fmt.Errorf("%w: %s", ErrUnknownVersion, sb.Version)
	}
	if err := loc.check(sb.Version); err != nil {
		return err
	}
	if err := sb.checkValues(); err != nil {
		return err
	}
	want := Layout{Version: sb.Version, Location: loc, DeviceBytes: deviceBytes &^ (SectorSize - 1), Geometry: sb.Geometry()}
	if err := want.place(); err != nil {
		return err
	}
	al := sb.Geometry().alSectors()
	if loc.kind != kindInternal {
		if sb.ALOffset != sectorsPerBlock || int64(sb.BMOffset) != sectorsPerBlock+al {
			return fmt.Errorf("%w: %d and %d for %s metadata with %d sectors of activity log",
				ErrCorruptOffsets, sb.ALOffset, sb.BMOffset, loc, al)
		}
		return nil
	}
	if int64(sb.ALOffset) != -al {
		return fmt.Errorf("%w: activity log at %d for %s metadata with %d sectors of activity log",
			ErrCorruptOffsets, sb.ALOffset, loc, al)
	}
	if err := want.compute(); err != nil {
		return err
	}
	if sb.BMOffset != want.BMOffset || (sb.MDSizeSectors != want.MDSizeSectors && sb.Version != V07) {
		return fmt.Errorf("%w: %d sectors of metadata, bitmap at %d; this device needs %d and %d",
			ErrMisplaced, sb.MDSizeSectors, sb.BMOffset, want.MDSizeSectors, want.BMOffset)
	}
	return nil
}

// checkValues applies the rules that need no device.
func (sb *Superblock) checkValues() error {
	if sb.Version == V09 {
		return sb.checkPeers()
	}
	return sb.Geometry().check(sb.Version)
}

// ClipEffectiveSize reduces an EffectiveSize that exceeds l.UsableSectors, as
// every command of drbdmeta does before it looks at the rest (spec: on-disk
// 3.4). It returns the old value and whether it had to clip.
func (sb *Superblock) ClipEffectiveSize(l Layout) (old uint64, clipped bool) {
	old = sb.EffectiveSize
	if old <= l.UsableSectors {
		return old, false
	}
	sb.EffectiveSize = l.UsableSectors
	return old, true
}
