// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// A connected disk is never Outdated (S5, spec: behaviour 2.4): the handshake has
// compared it. Beside a peer without a disk, or one that is still being attached, there
// was none, and the disk is as old as it was. DRBD calls it UpToDate, for good; a
// promotion would then lose what the Primary had acknowledged without it. Here it shows
// as UpToDate, as a kernel would see it anyway, and
//
//	on disk it stays Outdated            and is so again when the connection ends
//	a promotion without force is refused here, and by this node to its peer
//
// until the peer's disk has been compared, or the operator has declared it good.

// raised keeps v.older when a checked state is stored.
func (pd *peerDevice) raised(old, s protocol.State) {
	v := pd.v
	switch {
	case s.Disk != protocol.UpToDate || s.Conn < protocol.Connected || s.PeerDisk >= protocol.Inconsistent ||
		s.Role == protocol.Primary || s.Peer == protocol.Primary:
		v.older = false
	case old.Disk == protocol.Outdated, old.Disk == protocol.Negotiating && v.negotiated == protocol.Outdated:
		v.older = true
		v.logf(LogWarn, "the disk is Outdated, and the peer has none: no promotion without force")
	}
}

// staysOld is prepare for an Outdated disk. A Primary's must not become good by meeting a
// peer without a disk: nothing but the peer's data would be good for its users.
func (pd *peerDevice) staysOld(s protocol.State) protocol.State {
	switch {
	case s.Conn < protocol.Connected && pd.v.older:
		s.Disk = min(s.Disk, protocol.Outdated)
	case s.Conn >= protocol.Connected && pd.v.disk == protocol.Outdated && s.Disk == protocol.Outdated &&
		s.Role == protocol.Primary && s.PeerDisk < protocol.Inconsistent:
		s.Disk = protocol.Inconsistent
	}
	return s
}

// refusedOlder judges the peer's wish to become Primary with this node's disk.
func (pd *peerDevice) refusedOlder(in protocol.StateRequest) protocol.Code {
	if pd.v.older && in.Mask.Peer == protocol.RoleMask && in.Value.Peer == protocol.Primary {
		return protocol.CodeNoUpToDateDisk
	}
	return protocol.CodeSuccess
}
