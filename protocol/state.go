// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Role says what a node does with a volume. spec: behaviour 1.2.
type Role uint8

// The roles, with their values in the state word.
const (
	// RoleUnknown is possible only for the peer, while it is not connected.
	RoleUnknown Role = 0
	// Primary: the device may be opened for reading and writing.
	Primary Role = 1
	// Secondary: the device cannot be opened.
	Secondary Role = 2

	// RoleMask is the field with all bits set, for the mask of a StateRequest.
	RoleMask Role = 3
)

// String returns "Unknown", "Primary" or "Secondary".
func (r Role) String() string {
	return enumString(uint8(r), "role", []string{"Unknown", "Primary", "Secondary"})
}

// ConnState is the connection and replication state of a volume. Order has a
// meaning: below WFReportParams there is no usable connection, from Connected on
// the volume is connected, and SyncSource to PausedSyncT are resync states (with
// VerifyS and VerifyT in between). spec: behaviour 1.3.
type ConnState uint8

// The connection states, with DRBD's names and values.
const (
	StandAlone     ConnState = 0
	Disconnecting  ConnState = 1
	Unconnected    ConnState = 2
	Timeout        ConnState = 3
	BrokenPipe     ConnState = 4
	NetworkFailure ConnState = 5
	ProtocolError  ConnState = 6
	TearDown       ConnState = 7
	WFConnection   ConnState = 8
	WFReportParams ConnState = 9
	Connected      ConnState = 10
	StartingSyncS  ConnState = 11
	StartingSyncT  ConnState = 12
	WFBitMapS      ConnState = 13
	WFBitMapT      ConnState = 14
	WFSyncUUID     ConnState = 15
	SyncSource     ConnState = 16
	SyncTarget     ConnState = 17
	VerifyS        ConnState = 18
	VerifyT        ConnState = 19
	PausedSyncS    ConnState = 20
	PausedSyncT    ConnState = 21
	Ahead          ConnState = 22
	Behind         ConnState = 23

	// ConnMask is the field with all bits set, for the mask of a StateRequest.
	ConnMask ConnState = 31
)

// String returns DRBD's name of the state, for example "WFBitMapS".
func (c ConnState) String() string {
	return enumString(uint8(c), "conn", []string{
		"StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure",
		"ProtocolError", "TearDown", "WFConnection", "WFReportParams", "Connected", "StartingSyncS",
		"StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID", "SyncSource", "SyncTarget",
		"VerifyS", "VerifyT", "PausedSyncS", "PausedSyncT", "Ahead", "Behind",
	})
}

// DiskState says how good the data on a disk is; higher is better, except that
// DUnknown stands between Outdated and Consistent. spec: behaviour 1.4.
type DiskState uint8

// The disk states, with DRBD's names and values.
const (
	Diskless     DiskState = 0
	Attaching    DiskState = 1
	Failed       DiskState = 2
	Negotiating  DiskState = 3
	Inconsistent DiskState = 4
	Outdated     DiskState = 5
	DUnknown     DiskState = 6
	Consistent   DiskState = 7
	UpToDate     DiskState = 8

	// DiskMask is the field with all bits set, for the mask of a StateRequest.
	DiskMask DiskState = 15
)

// String returns DRBD's name of the state, for example "UpToDate".
func (d DiskState) String() string {
	return enumString(uint8(d), "disk", []string{
		"Diskless", "Attaching", "Failed", "Negotiating", "Inconsistent",
		"Outdated", "DUnknown", "Consistent", "UpToDate",
	})
}

func enumString(v uint8, kind string, names []string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", kind, v)
}

// State is the state of one volume as one node sees it: the content of the state
// word, and the packet P_STATE. It is a value and may be compared with ==.
// spec: wire 3.3, behaviour 1.3 to 1.5.
type State struct {
	// Role and Disk are the node's own, Peer and PeerDisk what it believes
	// of its peer.
	Role, Peer Role
	Conn       ConnState
	Disk       DiskState
	PeerDisk   DiskState

	Susp        bool // I/O suspended by the administrator
	AftrISP     bool // resync paused: it depends on another device
	PeerISP     bool // resync paused by the peer
	UserISP     bool // resync paused by the administrator
	SuspNoData  bool // I/O suspended: no data accessible (susp_nod)
	SuspFencing bool // I/O suspended: the fencing handler runs (susp_fen)
}

// Positions in the state word. spec: wire 3.3. Do not change: wire format.
const (
	shiftPeer     = 2
	shiftConn     = 4
	shiftDisk     = 9
	shiftPeerDisk = 13

	bitSusp        uint32 = 1 << 17
	bitAftrISP     uint32 = 1 << 18
	bitPeerISP     uint32 = 1 << 19
	bitUserISP     uint32 = 1 << 20
	bitSuspNoData  uint32 = 1 << 21
	bitSuspFencing uint32 = 1 << 22
)

// Word returns the 32-bit state word. Fields wider than their place are cut.
func (s State) Word() uint32 {
	w := uint32(s.Role&RoleMask) |
		uint32(s.Peer&RoleMask)<<shiftPeer |
		uint32(s.Conn&ConnMask)<<shiftConn |
		uint32(s.Disk&DiskMask)<<shiftDisk |
		uint32(s.PeerDisk&DiskMask)<<shiftPeerDisk
	w |= bitIf(s.Susp, bitSusp) | bitIf(s.AftrISP, bitAftrISP) | bitIf(s.PeerISP, bitPeerISP)
	w |= bitIf(s.UserISP, bitUserISP) | bitIf(s.SuspNoData, bitSuspNoData) | bitIf(s.SuspFencing, bitSuspFencing)
	return w
}

func bitIf(set bool, bit uint32) uint32 {
	if set {
		return bit
	}
	return 0
}

// StateFromWord takes a state word apart. Bits 23 to 31 are ignored (a DRBD 9
// peer may set bit 23). The fields may hold values that are no state: use
// State.Valid, as State.Decode does.
func StateFromWord(w uint32) State {
	return State{
		Role:        Role(w) & RoleMask,
		Peer:        Role(w>>shiftPeer) & RoleMask,
		Conn:        ConnState(w>>shiftConn) & ConnMask,
		Disk:        DiskState(w>>shiftDisk) & DiskMask,
		PeerDisk:    DiskState(w>>shiftPeerDisk) & DiskMask,
		Susp:        w&bitSusp != 0,
		AftrISP:     w&bitAftrISP != 0,
		PeerISP:     w&bitPeerISP != 0,
		UserISP:     w&bitUserISP != 0,
		SuspNoData:  w&bitSuspNoData != 0,
		SuspFencing: w&bitSuspFencing != 0,
	}
}

// Valid reports whether every field holds a value that has a name. It says
// nothing about whether the combination is allowed.
func (s State) Valid() bool {
	return s.Role <= Secondary && s.Peer <= Secondary && s.Conn <= Behind &&
		s.Disk <= UpToDate && s.PeerDisk <= UpToDate
}

// Swapped returns the word as the other node has to read it when it is half of a
// request: role and peer, disk and pdsk change places, the connection state is
// mirrored, and the sender's pause flags become PeerISP. The sender's suspend
// flags are its own affair and are dropped. spec: wire 3.4.
func (s State) Swapped() State {
	return State{
		Role:     s.Peer,
		Peer:     s.Role,
		Conn:     s.Conn.mirrored(),
		Disk:     s.PeerDisk,
		PeerDisk: s.Disk,
		PeerISP:  s.AftrISP || s.UserISP,
	}
}

// mirrored maps the connection field of a request to the receiver's view. What a
// request cannot ask for becomes StandAlone (0).
func (c ConnState) mirrored() ConnState {
	switch c {
	case Connected, WFReportParams, ConnMask:
		return c
	case StartingSyncS:
		return StartingSyncT
	case StartingSyncT:
		return StartingSyncS
	case VerifyS:
		return VerifyT
	case VerifyT:
		return VerifyS
	case Disconnecting:
		return TearDown
	}
	return StandAlone
}

// String returns the fields in DRBD's words, for example
// "role=Primary peer=Secondary conn=Connected disk=UpToDate pdsk=UpToDate",
// followed by the flags that are set, for example " user_isp=1".
func (s State) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "role=%v peer=%v conn=%v disk=%v pdsk=%v", s.Role, s.Peer, s.Conn, s.Disk, s.PeerDisk)
	for _, f := range []struct {
		set  bool
		name string
	}{
		{s.Susp, "susp"}, {s.AftrISP, "aftr_isp"}, {s.PeerISP, "peer_isp"},
		{s.UserISP, "user_isp"}, {s.SuspNoData, "susp_nod"}, {s.SuspFencing, "susp_fen"},
	} {
		if f.set {
			b.WriteString(" " + f.name + "=1")
		}
	}
	return b.String()
}

// AppendTo appends the body of P_STATE.
func (s State) AppendTo(dst []byte, _ *Session) []byte {
	return binary.BigEndian.AppendUint32(dst, s.Word())
}

// Decode reads the body of P_STATE: the sender's view, not swapped.
// Errors: ErrLength, ErrField for a value that is no state.
func (s *State) Decode(body []byte, _ *Session) error {
	if len(body) != 4 {
		return lengthError(CmdState, len(body), 4)
	}
	w := binary.BigEndian.Uint32(body)
	st := StateFromWord(w)
	if !st.Valid() {
		return fmt.Errorf("%w: state word 0x%06x (%v)", ErrField, w, st)
	}
	*s = st
	return nil
}
