// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"
)

// Errors of commands that change metadata.
var (
	// ErrInconsistent says that a disk whose data is not consistent cannot
	// become outdated: it is worse already.
	ErrInconsistent = errors.New("metadata: device is inconsistent")

	// ErrUnsupported says that the metadata's version does not have what the
	// command is about.
	ErrUnsupported = errors.New("metadata: not supported by this metadata version")

	// ErrNodeID says that a node id is not one of 0..31, or not a peer's.
	ErrNodeID = errors.New("metadata: invalid node id")
)

// Outdate records that the peer has newer data. It returns ErrInconsistent if the
// data is not consistent, or ErrUnsupported for v07, which cannot say so (spec:
// on-disk 6.2). The activity log is not looked at.
func (sb *Superblock) Outdate() error {
	if sb.Version == V07 {
		return fmt.Errorf("%w: v07 cannot be outdated", ErrUnsupported)
	}
	if sb.Flags&Consistent == 0 {
		return ErrInconsistent
	}
	sb.Flags &^= WasUpToDate
	return nil
}

// Invalidate records that the data is worthless and needs a full sync, from any
// peer (spec: on-disk 6.2). The activity log is not looked at.
func (sb *Superblock) Invalidate() {
	sb.Flags &^= Consistent | WasUpToDate
	if sb.Version != V09 {
		sb.Flags |= FullSync
		return
	}
	for i := range sb.Peers {
		sb.Peers[i].Flags |= PeerFullSync
	}
}

// DiskState is what the flags say about the data, as dstate prints it (spec:
// on-disk 6.2): DiskInconsistent, DiskOutdated, DiskUpToDate (only if the peer is
// known to be outdated; never for v07 and v09) or DiskConsistent. Of v07 the tool says
// Inconsistent always.
func (sb *Superblock) DiskState() DiskState {
	switch {
	case sb.Flags&Consistent == 0:
		return DiskInconsistent
	case sb.Version == V07: // cannot say more
		return DiskConsistent
	case sb.Flags&WasUpToDate == 0:
		return DiskOutdated
	case sb.Version != V09 && sb.Flags&PeerOutdated != 0:
		return DiskUpToDate
	}
	return DiskConsistent
}

// day0Record returns the record that carries the UUID of the device's first data
// generation: the one with the highest node id, because kernels before 9.1.15
// could damage the low ones (spec: on-disk 3.3). except is a node id to leave out.
func (sb *Superblock) day0Record(except int) (PeerRecord, bool) {
	for i := PeerRecords - 1; i >= 0; i-- {
		p := sb.Peers[i]
		if i != except && i != int(sb.NodeID) && p.BitmapIndex == Unassigned && p.Flags == 0 {
			return p, true
		}
	}
	return PeerRecord{}, false
}

// freeSlot returns a bitmap slot that no peer record refers to. Such a slot tracks
// all changes since the first data generation.
func (sb *Superblock) freeSlot() (slot int64, ok bool) {
	var used [PeerRecords]bool
	for i := range sb.Peers {
		if n := sb.Peers[i].BitmapIndex; n >= 0 && n < PeerRecords {
			used[n] = true
		}
	}
	for slot := range int64(sb.MaxPeers) {
		if !used[slot] {
			return slot, true
		}
	}
	return 0, false
}

// ForgetPeer frees the bitmap slot and the record of a peer that will not come
// back, and writes both to dev (v09 only; spec: on-disk 6.2, 11). The slot gets the
// content of an unallocated slot, or all ones if there is none, as the kernel does
// it; the tool leaves the old bits, which a new peer would inherit. The record
// becomes one of those that carry the UUID of the first data generation. It
// returns ErrUnsupported, ErrNodeID, or the errors of dev.
//
// Durability: the slot is flushed before the superblock is written. Its new bits
// include the old ones, so an interruption in between does no harm.
func ForgetPeer(dev Device, sb *Superblock, l Layout, node int) error {
	if sb.Version != V09 {
		return fmt.Errorf("%w: only v09 knows several peers", ErrUnsupported)
	}
	if node < 0 || node >= PeerRecords {
		return fmt.Errorf("%w: %d is not in 0..%d", ErrNodeID, node, PeerRecords-1)
	}
	if slot := sb.Peers[node].BitmapIndex; slot >= 0 && uint32(slot) < sb.MaxPeers {
		source, copied := sb.freeSlot()
		if !copied {
			source = -1
		}
		if err := fillSlot(dev, l, source, int64(slot)); err != nil {
			return err
		}
		if err := flush(dev); err != nil {
			return err
		}
	}
	forgotten := PeerRecord{BitmapIndex: Unassigned}
	if day0, ok := sb.day0Record(node); ok {
		forgotten.BitmapUUID, forgotten.BitmapDagtag = day0.BitmapUUID, day0.BitmapDagtag
	}
	sb.Peers[node] = forgotten
	return WriteSuperblock(dev, l, sb)
}

// fillSlot copies the bits of one slot over another one, or sets them all if there
// is no source (-1).
func fillSlot(dev Device, l Layout, source, target int64) error {
	peers := int64(l.Geometry.MaxPeers)
	buf := make([]byte, min(l.BitmapSize, zeroChunk/BlockSize/peers*BlockSize*peers))
	for done := int64(0); done < l.BitmapSize; {
		chunk := buf[:min(l.BitmapSize-done, int64(len(buf)))]
		if err := readFull(dev, chunk, l.BitmapOffset+done); err != nil {
			return err
		}
		// A chunk begins with a word of slot 0: its size is a multiple of all slots.
		for group := int64(0); group+4*(target+1) <= int64(len(chunk)); group += 4 * peers {
			to := chunk[group+4*target:][:4]
			switch {
			case source < 0:
				copy(to, "\xff\xff\xff\xff")
			case group+4*(source+1) <= int64(len(chunk)):
				copy(to, chunk[group+4*source:][:4])
			default:
				copy(to, "\xff\xff\xff\xff") // padding behind the last whole group
			}
		}
		if err := writeFull(dev, chunk, l.BitmapOffset+done); err != nil {
			return err
		}
		done += int64(len(chunk))
	}
	return nil
}
