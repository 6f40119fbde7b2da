// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/binary"
	"fmt"
)

// Sizes of the format (spec: on-disk 1). Part of the disk format: do not change.
const (
	SectorSize       = 512  // bytes, whatever the device's logical block size
	BlockSize        = 4096 // bytes of a superblock, and the unit of metadata I/O
	MaxPeers         = 31   // bitmap slots of v09
	PeerRecords      = 32   // peer records of v09, one for each node id
	HistoryUUIDs     = 32   // history slots of v09; v08 has 2
	DefaultALExtents = 257  // al_nr_extents of fresh metadata

	sectorsPerBlock = BlockSize / SectorSize
)

// UUIDJustCreated is the current UUID of fresh metadata (spec: on-disk 1).
const UUIDJustCreated UUID = 4

// Unassigned is the node id of fresh v09 metadata, and the bitmap slot of a
// peer that has none.
const Unassigned = -1

// Superblock is the decoded form of the one 4096-byte block that describes a
// device's metadata, for all formats (spec: on-disk 3). It is a plain value:
// copies are independent, == compares, the zero value encodes to zeroes.
type Superblock struct {
	Version Version

	// EffectiveSize is the last agreed size of the replicated device in
	// sectors; 0 says that nothing has been agreed yet. v07 stores it in
	// KiB, an odd sector is lost there.
	EffectiveSize uint64

	Current UUID     // v08, v09: the data generation
	Bitmap  UUID     // v08: the generation the bitmap is relative to; v09 has one in each peer record
	History [32]UUID // newest first; v08 has the first two

	// Counters are the generation counters of v07, which has no UUIDs.
	Counters Counters

	DeviceUUID uint64 // v08, v09: identifies the backing device
	Members    uint64 // v09: mask of the node ids in the quorum
	Flags      Flags

	// Unclean is v08's magic ..6C, which every 8.4 kernel writes. A superblock
	// may be unclean without it too: see NeedsApplyAL.
	Unclean bool

	MDSizeSectors uint32 // size of all metadata, or of its slot or device, in sectors
	ALOffset      int32  // activity log, sectors relative to the superblock
	BMOffset      int32  // bitmap, sectors relative to the superblock
	ALExtents     uint32 // al_nr_extents: slots of the activity log in use

	// BytesPerBit is the storage one bitmap bit stands for: 4096 for v07
	// and v08, a power of two 4096..1048576 for v09.
	BytesPerBit uint32

	PeerMaxBioSize uint32 // v08, v09: largest request the peer takes, bytes

	// ALStripes times ALStripeSize4k blocks of 4 KiB are the activity log.
	// Decode turns the pair 0, 0 of old v08 images into 1, 8.
	ALStripes, ALStripeSize4k uint32

	MaxPeers uint32         // bitmap slots: 1..31 for v09, 1 for v07 and v08
	NodeID   int32          // v09: own node id, or Unassigned
	Peers    [32]PeerRecord // v09: by node id
}

// Counters are the generation counters of v07 (spec: on-disk 3.1).
type Counters struct {
	Human, Timeout, Connected, Arbitrary uint32
}

// PeerRecord is what a v09 superblock knows of one peer (spec: on-disk 3.3).
type PeerRecord struct {
	BitmapUUID   UUID
	BitmapDagtag uint64 // sector counter when BitmapUUID was set
	Flags        PeerFlags
	BitmapIndex  int32 // bitmap slot, or Unassigned
}

// Encode writes the superblock in the format of sb.Version over all of dst,
// reserved fields as zero. It is total and does not allocate; a Superblock
// without a known Version encodes to zeroes, which no tool takes for metadata.
func (sb *Superblock) Encode(dst *[BlockSize]byte) {
	clear(dst[:])
	switch sb.Version {
	case V07:
		sb.encodeV07(dst)
	case V08:
		sb.encodeV08(dst)
	case V09:
		sb.encodeV09(dst)
	}
}

// Decode reads the superblock in the first 4096 bytes of block. The format is
// told by the magic: v07, v08 and v09 cannot be confused (spec: on-disk 3.4).
//
// Decode is total. It returns ErrNoMetadata if there is no magic, or an error
// that matches ErrCorrupt and one of its reasons. It does not look at the
// offsets, whose truth depends on the device: see [Superblock.Validate].
func Decode(block []byte) (Superblock, error) {
	var sb Superblock
	if len(block) < BlockSize {
		return Superblock{}, fmt.Errorf("%w: got %d", ErrShortBlock, len(block))
	}
	b := (*[BlockSize]byte)(block)
	var err error
	switch magic := binary.BigEndian.Uint32(b[offMagic:]); {
	case magic == magicV09:
		err = sb.decodeV09(b)
	case magic == magicV08 || magic == magicV08Unclean:
		err = sb.decodeV08(b)
	case binary.BigEndian.Uint32(b[offMagicV07:]) == magicV07:
		err = sb.decodeV07(b)
	default:
		err = ErrNoMetadata
	}
	if err != nil {
		return Superblock{}, err
	}
	return sb, nil
}

// NeedsApplyAL reports whether the activity log must be applied before a kernel
// attaches the device (spec: on-disk 3.2, 3.3, 7.1). v07 always does.
func (sb *Superblock) NeedsApplyAL() bool {
	return sb.Version == V07 || sb.Unclean || sb.Flags&ALClean == 0
}

// Geometry returns the part of the superblock that decides about the layout.
func (sb *Superblock) Geometry() Geometry {
	return Geometry{
		ALStripes: sb.ALStripes, ALStripeSize4k: sb.ALStripeSize4k,
		BytesPerBit: sb.BytesPerBit, MaxPeers: sb.MaxPeers,
	}
}
