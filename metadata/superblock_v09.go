// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/binary"
	"fmt"
)

// Byte offsets of v09 beyond those shared with v08 (spec: on-disk 3.3).
const (
	offMembersV09    = 16
	offDeviceUUIDV09 = 48
	offMaxPeersV09   = 88
	offNodeIDV09     = 92
	offStripesV09    = 96
	offStripe4kV09   = 100
	offPeersV09      = 112
	offHistoryV09    = offPeersV09 + PeerRecords*peerRecordSize
)

// Byte offsets within a peer record.
const (
	offPeerUUID    = 0
	offPeerDagtag  = 8
	offPeerFlags   = 16
	offPeerIndex   = 20
	peerRecordSize = 32
)

func (sb *Superblock) encodeV09(dst *[BlockSize]byte) {
	sb.encodeShared(dst, magicV09)
	be := binary.BigEndian
	be.PutUint64(dst[offMembersV09:], sb.Members)
	be.PutUint64(dst[offDeviceUUIDV09:], sb.DeviceUUID)
	be.PutUint32(dst[offMaxPeersV09:], sb.MaxPeers)
	be.PutUint32(dst[offNodeIDV09:], uint32(sb.NodeID))
	be.PutUint32(dst[offStripesV09:], sb.ALStripes)
	be.PutUint32(dst[offStripe4kV09:], sb.ALStripeSize4k)
	for i := range sb.Peers {
		rec, p := dst[offPeersV09+i*peerRecordSize:], &sb.Peers[i]
		be.PutUint64(rec[offPeerUUID:], uint64(p.BitmapUUID))
		be.PutUint64(rec[offPeerDagtag:], p.BitmapDagtag)
		be.PutUint32(rec[offPeerFlags:], uint32(p.Flags))
		be.PutUint32(rec[offPeerIndex:], uint32(p.BitmapIndex))
	}
	for i, u := range sb.History {
		be.PutUint64(dst[offHistoryV09+8*i:], uint64(u))
	}
}

func (sb *Superblock) decodeV09(b *[BlockSize]byte) error {
	be := binary.BigEndian
	*sb = Superblock{Version: V09}
	sb.decodeShared(b)
	sb.Members = be.Uint64(b[offMembersV09:])
	sb.DeviceUUID = be.Uint64(b[offDeviceUUIDV09:])
	sb.MaxPeers = be.Uint32(b[offMaxPeersV09:])
	sb.NodeID = int32(be.Uint32(b[offNodeIDV09:]))
	sb.ALStripes = be.Uint32(b[offStripesV09:])
	sb.ALStripeSize4k = be.Uint32(b[offStripe4kV09:])
	for i := range sb.Peers {
		rec := b[offPeersV09+i*peerRecordSize:]
		sb.Peers[i] = PeerRecord{
			BitmapUUID:   UUID(be.Uint64(rec[offPeerUUID:])),
			BitmapDagtag: be.Uint64(rec[offPeerDagtag:]),
			Flags:        PeerFlags(be.Uint32(rec[offPeerFlags:])),
			BitmapIndex:  int32(be.Uint32(rec[offPeerIndex:])),
		}
	}
	for i := range sb.History {
		sb.History[i] = UUID(be.Uint64(b[offHistoryV09+8*i:]))
	}
	return sb.checkPeers()
}

// checkPeers applies the tool's rules for v09's node and slot numbers (spec:
// on-disk 3.4), which need no device to judge. Where the tool reads a number of
// slots above 31 as 31, it is refused: every bit would be looked for in the
// wrong word.
func (sb *Superblock) checkPeers() error {
	if err := sb.Geometry().check(V09); err != nil {
		return err
	}
	if sb.NodeID < Unassigned || sb.NodeID >= PeerRecords {
		return fmt.Errorf("%w: %d", ErrCorruptNodeID, sb.NodeID)
	}
	for i := range sb.Peers[:sb.MaxPeers] {
		if n := sb.Peers[i].BitmapIndex; n < Unassigned || n >= PeerRecords {
			return fmt.Errorf("%w: peer %d has %d", ErrCorruptBitmapIndex, i, n)
		}
	}
	return nil
}
