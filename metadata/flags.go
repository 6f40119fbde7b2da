// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"strconv"
	"strings"
)

// Flags is the flag word of a superblock, with DRBD's bit values (spec: on-disk
// 3.2, 3.3). v07 uses the lowest four bits, v08 bits 0 to 8; v09 keeps
// ConnectedInd, FullSync and PeerOutdated in its peer records instead.
type Flags uint32

// The device flags.
const (
	Consistent        Flags = 1 << 0  // the data is internally consistent
	PrimaryInd        Flags = 1 << 1  // was Primary: the activity log must be applied after a crash
	ConnectedInd      Flags = 1 << 2  // was connected (v07, v08)
	FullSync          Flags = 1 << 3  // the bitmap on disk is not to be trusted: everything is out of sync (v07, v08)
	WasUpToDate       Flags = 1 << 4  // was not merely consistent, but up to date
	PeerOutdated      Flags = 1 << 5  // the peer is known to be outdated or inconsistent (v08)
	CrashedPrimary    Flags = 1 << 6  // crashed as Primary, and both disks have not been UpToDate together since
	ALClean           Flags = 1 << 7  // the activity log has been applied or initialised
	ALDisabled        Flags = 1 << 8  // updates of the activity log are switched off
	PrimaryLostQuorum Flags = 1 << 9  // v09
	HaveQuorum        Flags = 1 << 10 // v09
)

// v08OnlyFlags moved to the peer records in v09.
const v08OnlyFlags = ConnectedInd | FullSync | PeerOutdated

var flagNames = [...]string{
	"Consistent", "PrimaryInd", "ConnectedInd", "FullSync", "WasUpToDate", "PeerOutdated",
	"CrashedPrimary", "ALClean", "ALDisabled", "PrimaryLostQuorum", "HaveQuorum",
}

// String returns the names of the set bits joined with " | "; bits without a
// name appear as their value. No bit set gives "0".
func (f Flags) String() string {
	return joinBits(uint32(f), func(bit int) string {
		if bit < len(flagNames) {
			return flagNames[bit]
		}
		return ""
	})
}

// PeerFlags is the flag word of a v09 peer record (spec: on-disk 3.3).
type PeerFlags uint32

// The peer flags of v09.
const (
	PeerConnected  PeerFlags = 1 << 0  // was connected
	PeerIsOutdated PeerFlags = 1 << 1  // the peer's disk is outdated or worse
	PeerFencing    PeerFlags = 1 << 2  // a fencing policy was in force
	PeerFullSync   PeerFlags = 1 << 3  // this peer's bitmap slot is not to be trusted: everything is out of sync
	PeerDeviceSeen PeerFlags = 1 << 4  // has had a disk
	NodeExists     PeerFlags = 1 << 16 // the node is known
)

func peerFlagName(bit int) string {
	switch PeerFlags(1) << bit {
	case PeerConnected:
		return "connected"
	case PeerIsOutdated:
		return "<=outdated"
	case PeerFencing:
		return "fencing"
	case PeerFullSync:
		return "full-sync"
	case PeerDeviceSeen:
		return "seen"
	case NodeExists:
		return "exists"
	}
	return ""
}

// String returns the labels of the text dump joined with " | ", as in the
// comment behind a peer's flags there (spec: on-disk 7.1); bits without a label
// appear as "0xVALUE=?". No bit set gives "0".
func (f PeerFlags) String() string { return joinBits(uint32(f), peerFlagName) }

func joinBits(word uint32, name func(bit int) string) string {
	if word == 0 {
		return "0"
	}
	var b strings.Builder
	for bit := range 32 {
		if word&(1<<bit) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(" | ")
		}
		if s := name(bit); s != "" {
			b.WriteString(s)
		} else {
			b.WriteString("0x" + strconv.FormatUint(1<<bit, 16) + "=?")
		}
	}
	return b.String()
}
