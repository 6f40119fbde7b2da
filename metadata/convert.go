// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"
)

// ErrConversion says that metadata cannot be converted without losing what
// matters.
var ErrConversion = errors.New("metadata: cannot convert")

// uuidV07Tail marks current UUIDs made from v07 counters.
const uuidV07Tail = 0xBABE

// Convert returns sb in another version (spec: on-disk 9.1, 9.2): v07 to v08, v08
// to v09, v09 to v08. Offsets stay: they are the same in all versions with one
// bitmap slot, for the same place. It returns ErrConversion for any other pair,
// and for v09 metadata that v08 cannot express: several bitmap slots, whose bits
// lie elsewhere, or more than 4096 bytes per bit.
//
// The result of v07 is unclean, ApplyAL must follow. Of v08 the bitmap UUID is
// lost, because no peer has a bitmap slot of its own yet.
func (sb *Superblock) Convert(to Version) (Superblock, error) {
	switch {
	case sb.Version == V07 && to == V08:
		return sb.v07ToV08(), nil
	case sb.Version == V08 && to == V09:
		return sb.v08ToV09(), nil
	case sb.Version == V09 && to == V08:
		if sb.MaxPeers != 1 {
			return Superblock{}, fmt.Errorf("%w: v08 has one bitmap slot, this v09 metadata has %d", ErrConversion, sb.MaxPeers)
		}
		if sb.BytesPerBit != DefaultBytesPerBit {
			return Superblock{}, fmt.Errorf("%w: v08 has %d bytes per bitmap bit, this v09 metadata has %d",
				ErrConversion, DefaultBytesPerBit, sb.BytesPerBit)
		}
		return sb.v09ToV08(), nil
	}
	return Superblock{}, fmt.Errorf("%w: %s to %s", ErrConversion, sb.Version, to)
}

func (sb *Superblock) v07ToV08() Superblock {
	c := &sb.Counters
	current := UUID(c.Human&0xFFFF)<<48 | UUID(c.Timeout&0xFFFF)<<32 |
		UUID((c.Connected+c.Arbitrary)&0xFFFF)<<16 | uuidV07Tail
	out := *sb
	out.Version = V08
	out.Counters = Counters{}
	out.Current = current
	out.History[0], out.History[1] = current-0x10000, current-0x20000
	return out
}

// peerOfV08 is the peer record that stands for v08's one peer.
const peerOfV08 = 0

func (sb *Superblock) v08ToV09() Superblock {
	out := *sb
	out.Version, out.Unclean, out.Bitmap = V09, false, 0
	for i := range out.Peers {
		out.Peers[i] = PeerRecord{BitmapIndex: Unassigned}
	}
	for _, m := range flagMoves {
		if sb.Flags&m.v08 != 0 {
			out.Peers[peerOfV08].Flags |= m.v09
		}
	}
	out.Flags &^= v08OnlyFlags
	if sb.Unclean { // in v09 the flag alone says so
		out.Flags &^= ALClean
	}
	return out
}

func (sb *Superblock) v09ToV08() Superblock {
	out := *sb
	peer := &sb.Peers[peerOfV08]
	out.Version, out.Bitmap = V08, peer.BitmapUUID
	out.Members, out.NodeID, out.Peers = 0, Unassigned, [PeerRecords]PeerRecord{}
	clear(out.History[historyV08:])
	out.Flags &^= PrimaryLostQuorum | HaveQuorum | v08OnlyFlags
	for _, m := range flagMoves {
		if peer.Flags&m.v09 != 0 {
			out.Flags |= m.v08
		}
	}
	return out
}

// flagMoves are the device flags of v08 that became peer flags in v09.
var flagMoves = [...]struct {
	v08 Flags
	v09 PeerFlags
}{{ConnectedInd, PeerConnected}, {FullSync, PeerFullSync}, {PeerOutdated, PeerIsOutdated}}

// ConvertDevice converts the metadata of dev, as create-md does when it finds
// another version (spec: on-disk 9). from is where v07 metadata lies, to where the
// result shall lie; they may differ only in that v07's fixed internal place becomes
// the flexible one. Activity log and bitmap are moved along, which the tool fails
// to do. It returns ErrConversion, or the errors of [Read], [NewLayout] and dev.
//
// Durability: as for [Resize].
func ConvertDevice(dev Device, v Version, from, to Location, deviceBytes int64) (Superblock, Layout, error) {
	old, oldLayout, err := Read(dev, from, deviceBytes)
	if err != nil {
		return Superblock{}, Layout{}, err
	}
	if from != to && (from != InternalFixed() || to != Internal()) {
		return Superblock{}, Layout{}, fmt.Errorf("%w: metadata cannot move from %s to %s", ErrConversion, from, to)
	}
	old.ClipEffectiveSize(oldLayout)
	sb, err := old.Convert(v)
	if err != nil {
		return Superblock{}, Layout{}, err
	}
	if from == to {
		l, err := sb.Layout(to, deviceBytes)
		if err != nil {
			return Superblock{}, Layout{}, err
		}
		return sb, l, WriteSuperblock(dev, l, &sb)
	}
	l, err := NewLayout(v, to, deviceBytes, sb.Geometry())
	if err != nil {
		return Superblock{}, Layout{}, err
	}
	// v07's bitmap area may be much larger than v08's: what counts is the part
	// that describes the new device.
	return relocate(dev, oldLayout, l, sb, false)
}
