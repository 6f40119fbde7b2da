// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"io"
)

// Read reads and validates the superblock of a device of deviceBytes bytes
// (spec: on-disk 2.1, 3.4). It returns ErrNoMetadata if there is none, an error
// of [Superblock.Validate] or [Superblock.Layout], or dev's own. It reads 4096
// bytes and changes nothing; EffectiveSize is as stored, see ClipEffectiveSize.
func Read(dev io.ReaderAt, loc Location, deviceBytes int64) (Superblock, Layout, error) {
	at := Layout{Location: loc, DeviceBytes: deviceBytes &^ (SectorSize - 1)}
	if loc.kind > kindIndexed {
		return Superblock{}, Layout{}, fmt.Errorf("%w: slot numbers are 0..%d", ErrInvalidLocation, maxIndex)
	}
	if err := at.place(); err != nil {
		return Superblock{}, Layout{}, err
	}
	var block [BlockSize]byte
	if err := readFull(dev, block[:], at.SuperblockOffset); err != nil {
		return Superblock{}, Layout{}, err
	}
	sb, err := Decode(block[:])
	if err != nil {
		return Superblock{}, Layout{}, err
	}
	if err := sb.Validate(loc, deviceBytes); err != nil {
		return Superblock{}, Layout{}, err
	}
	l, err := sb.Layout(loc, deviceBytes)
	return sb, l, err
}

// ReadVersion is Read for metadata that must be of version v; any other is
// ErrNoMetadata, as it is for drbdmeta.
func ReadVersion(dev io.ReaderAt, v Version, loc Location, deviceBytes int64) (Superblock, Layout, error) {
	if err := loc.check(v); err != nil {
		return Superblock{}, Layout{}, err
	}
	sb, l, err := Read(dev, loc, deviceBytes)
	if err == nil && sb.Version != v {
		return Superblock{}, Layout{}, fmt.Errorf("%w of format %s, but of format %s", ErrNoMetadata, v, sb.Version)
	}
	return sb, l, err
}
