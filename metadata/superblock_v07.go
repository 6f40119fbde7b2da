// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "encoding/binary"

// Byte offsets of v07 (spec: on-disk 3.1). The magic is at 28, where v08 and v09
// have history UUIDs.
const (
	offMagicV07 = 28
	offSizeV07  = 0
	offFlagsV07 = 8
	offMDKBV07  = 32
	offALV07    = 36
	offALNrV07  = 40
	offBMV07    = 44
)

func (sb *Superblock) encodeV07(dst *[BlockSize]byte) {
	be := binary.BigEndian
	be.PutUint64(dst[offSizeV07:], sb.EffectiveSize/2)
	for i, n := range sb.wordsV07() {
		be.PutUint32(dst[offFlagsV07+4*i:], *n)
	}
	be.PutUint32(dst[offMagicV07:], magicV07)
	be.PutUint32(dst[offMDKBV07:], sb.MDSizeSectors/2)
	be.PutUint32(dst[offALV07:], uint32(sb.ALOffset))
	be.PutUint32(dst[offALNrV07:], sb.ALExtents)
	be.PutUint32(dst[offBMV07:], uint32(sb.BMOffset))
}

func (sb *Superblock) decodeV07(b *[BlockSize]byte) error {
	be := binary.BigEndian
	sizeKiB, mdKiB := be.Uint64(b[offSizeV07:]), be.Uint32(b[offMDKBV07:])
	if sizeKiB >= 1<<63 || mdKiB >= 1<<31 {
		return ErrCorruptSize // does not fit our sectors, nor any device
	}
	*sb = Superblock{
		Version:       V07,
		EffectiveSize: sizeKiB * 2,
		MDSizeSectors: mdKiB * 2,
		ALOffset:      int32(be.Uint32(b[offALV07:])),
		ALExtents:     be.Uint32(b[offALNrV07:]),
		BMOffset:      int32(be.Uint32(b[offBMV07:])),
		BytesPerBit:   DefaultBytesPerBit,
		ALStripes:     defaultALStripes, ALStripeSize4k: defaultALStripeSize4k,
		MaxPeers: 1, NodeID: Unassigned,
	}
	for i, n := range sb.wordsV07() {
		*n = be.Uint32(b[offFlagsV07+4*i:])
	}
	return nil
}

// wordsV07 are the flags and the counters, which lie side by side on disk.
func (sb *Superblock) wordsV07() [5]*uint32 {
	c := &sb.Counters
	return [...]*uint32{(*uint32)(&sb.Flags), &c.Human, &c.Timeout, &c.Connected, &c.Arbitrary}
}
