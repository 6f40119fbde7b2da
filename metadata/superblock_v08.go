// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "encoding/binary"

// Byte offsets that v08 and v09 share (spec: on-disk 3.2, 3.3).
const (
	offSize        = 0
	offCurrent     = 8
	offFlags       = 56
	offMagic       = 60
	offMDSize      = 64
	offAL          = 68
	offALNr        = 72
	offBM          = 76
	offBytesPerBit = 80
	offMaxBio      = 84
)

// Byte offsets of v08 alone. Everything lies in the first 512 bytes, so a write
// torn at a sector border does no harm.
const (
	offBitmapV08     = 16
	offHistoryV08    = 24
	offDeviceUUIDV08 = 40
	offStripesV08    = 88
	offStripe4kV08   = 92
)

// historyV08 is how many history UUIDs v08 has.
const historyV08 = 2

func (sb *Superblock) encodeShared(dst *[BlockSize]byte, magic uint32) {
	be := binary.BigEndian
	be.PutUint64(dst[offSize:], sb.EffectiveSize)
	be.PutUint64(dst[offCurrent:], uint64(sb.Current))
	be.PutUint32(dst[offFlags:], uint32(sb.Flags))
	be.PutUint32(dst[offMagic:], magic)
	be.PutUint32(dst[offMDSize:], sb.MDSizeSectors)
	be.PutUint32(dst[offAL:], uint32(sb.ALOffset))
	be.PutUint32(dst[offALNr:], sb.ALExtents)
	be.PutUint32(dst[offBM:], uint32(sb.BMOffset))
	be.PutUint32(dst[offBytesPerBit:], sb.BytesPerBit)
	be.PutUint32(dst[offMaxBio:], sb.PeerMaxBioSize)
}

func (sb *Superblock) decodeShared(b *[BlockSize]byte) {
	be := binary.BigEndian
	sb.EffectiveSize = be.Uint64(b[offSize:])
	sb.Current = UUID(be.Uint64(b[offCurrent:]))
	sb.Flags = Flags(be.Uint32(b[offFlags:]))
	sb.MDSizeSectors = be.Uint32(b[offMDSize:])
	sb.ALOffset = int32(be.Uint32(b[offAL:]))
	sb.ALExtents = be.Uint32(b[offALNr:])
	sb.BMOffset = int32(be.Uint32(b[offBM:]))
	sb.BytesPerBit = be.Uint32(b[offBytesPerBit:])
	sb.PeerMaxBioSize = be.Uint32(b[offMaxBio:])
}

func (sb *Superblock) encodeV08(dst *[BlockSize]byte) {
	magic := uint32(magicV08)
	if sb.Unclean {
		magic = magicV08Unclean
	}
	sb.encodeShared(dst, magic)
	be := binary.BigEndian
	be.PutUint64(dst[offBitmapV08:], uint64(sb.Bitmap))
	for i := range historyV08 {
		be.PutUint64(dst[offHistoryV08+8*i:], uint64(sb.History[i]))
	}
	be.PutUint64(dst[offDeviceUUIDV08:], sb.DeviceUUID)
	be.PutUint32(dst[offStripesV08:], sb.ALStripes)
	be.PutUint32(dst[offStripe4kV08:], sb.ALStripeSize4k)
}

func (sb *Superblock) decodeV08(b *[BlockSize]byte) error {
	be := binary.BigEndian
	*sb = Superblock{Version: V08, MaxPeers: 1, NodeID: Unassigned}
	sb.decodeShared(b)
	sb.Unclean = be.Uint32(b[offMagic:]) == magicV08Unclean
	sb.Bitmap = UUID(be.Uint64(b[offBitmapV08:]))
	for i := range historyV08 {
		sb.History[i] = UUID(be.Uint64(b[offHistoryV08+8*i:]))
	}
	sb.DeviceUUID = be.Uint64(b[offDeviceUUIDV08:])
	sb.ALStripes = be.Uint32(b[offStripesV08:])
	sb.ALStripeSize4k = be.Uint32(b[offStripe4kV08:])
	if sb.ALStripes == 0 && sb.ALStripeSize4k == 0 { // written before 8.4
		sb.ALStripes, sb.ALStripeSize4k = defaultALStripes, defaultALStripeSize4k
	}
	return sb.Geometry().check(V08)
}
