// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "errors"

// Errors about arguments.
var (
	ErrUnknownVersion  = errors.New("metadata: unknown metadata format")
	ErrInvalidLocation = errors.New("metadata: invalid metadata location")
	ErrInvalidGeometry = errors.New("metadata: invalid metadata geometry")
	ErrDeviceTooSmall  = errors.New("metadata: device too small for its metadata")
	ErrDeviceTooLarge  = errors.New("metadata: device too large for its metadata")
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

	ErrShortBlock         error = corruptError("block shorter than 4096 bytes")
	ErrCorruptSize        error = corruptError("agreed size out of range")
	ErrCorruptMaxPeers    error = corruptError("number of bitmap slots not in 1..31")
	ErrCorruptNodeID      error = corruptError("node id not in -1..31")
	ErrCorruptBitmapIndex error = corruptError("bitmap slot of a peer not in -1..31")
	ErrCorruptBytesPerBit error = corruptError("invalid bytes per bitmap bit")
	ErrCorruptGeometry    error = corruptError("invalid activity log geometry")
	ErrCorruptOffsets     error = corruptError("offsets of activity log and bitmap contradict the location")

	// ErrMisplaced says that the superblock is sound but was made for a device
	// of another size (spec: on-disk 3.4, 9.3).
	ErrMisplaced error = corruptError("offsets belong to a device of another size")

	// ErrUnclean says that the activity log must be applied first.
	ErrUnclean = errors.New("metadata: unclean: apply the activity log first (apply-al)")
)

// corruptError is one reason why a block is no superblock.
type corruptError string

const corruptPrefix = "metadata: corrupt superblock: "

func (e corruptError) Error() string { return corruptPrefix + string(e) }

// Is makes errors.Is(err, ErrCorrupt) true for every corruptError.
func (e corruptError) Is(target error) bool { return target == ErrCorrupt }
