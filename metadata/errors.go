// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "errors"

// Errors about arguments.
var (
	// ErrUnknownVersion says that a version is none of v07, v08, v09.
	ErrUnknownVersion = errors.New("metadata: unknown metadata format")

	// ErrInvalidLocation says that there is no such location, or not for this
	// version or operation.
	ErrInvalidLocation = errors.New("metadata: invalid metadata location")

	// ErrInvalidGeometry says that a size or number is out of its range.
	ErrInvalidGeometry = errors.New("metadata: invalid metadata geometry")

	// ErrDeviceTooSmall says that the device has no room for its metadata, or,
	// with it, for the data.
	ErrDeviceTooSmall = errors.New("metadata: device too small for its metadata")

	// ErrDeviceTooLarge says that the format cannot describe a device so large.
	ErrDeviceTooLarge = errors.New("metadata: device too large for its metadata")
)

// Errors about what a device holds.
var (
	// ErrNoMetadata says that the block has no superblock magic at the place
	// of the wanted format: nothing was created there, it was wiped, or the
	// device has another size than when it was created (try a resize).
	ErrNoMetadata = errors.New("metadata: no metadata found")

	// ErrCorrupt matches every error about a block that has a magic but
	// cannot be a superblock, as well as ErrMisplaced.
	ErrCorrupt = errors.New("metadata: corrupt superblock")

	// The reasons of ErrCorrupt.

	// ErrShortBlock says that there are fewer bytes than a superblock has.
	ErrShortBlock error = corruptError("block shorter than 4096 bytes")
	// ErrCorruptSize says that v07's sizes do not fit any device.
	ErrCorruptSize error = corruptError("agreed size out of range")
	// ErrCorruptMaxPeers: v09 has 1 to 31 bitmap slots.
	ErrCorruptMaxPeers error = corruptError("number of bitmap slots not in 1..31")
	// ErrCorruptNodeID: node ids are 0 to 31, or -1.
	ErrCorruptNodeID error = corruptError("node id not in -1..31")
	// ErrCorruptBitmapIndex: peers have bitmap slot 0 to 31, or -1.
	ErrCorruptBitmapIndex error = corruptError("bitmap slot of a peer not in -1..31")
	// ErrCorruptBytesPerBit: a bit stands for 4096 bytes, in v09 for 4 KiB to 1 MiB.
	ErrCorruptBytesPerBit error = corruptError("invalid bytes per bitmap bit")
	// ErrCorruptGeometry: the activity log has 8 to 4194304 blocks.
	ErrCorruptGeometry error = corruptError("invalid activity log geometry")
	// ErrCorruptOffsets says that the areas lie over each other, outside the device
	// or elsewhere than the location wants them.
	ErrCorruptOffsets error = corruptError("offsets of activity log and bitmap contradict the location")

	// ErrMisplaced says that the superblock is sound but was made for a device
	// of another size (spec: on-disk 3.4, 9.3).
	ErrMisplaced error = corruptError("offsets belong to a device of another size")

	// ErrUnclean says that the activity log must be applied first.
	ErrUnclean = errors.New("metadata: unclean: apply the activity log first (apply-al)")
)

// corruptError is one reason why a block is no superblock.
type corruptError string

const corruptPrefix = "metadata: corrupt superblock: "

// Error returns the reason.
func (e corruptError) Error() string { return corruptPrefix + string(e) }

// Is makes errors.Is(err, ErrCorrupt) true for every corruptError.
func (e corruptError) Is(target error) bool { return target == ErrCorrupt }
