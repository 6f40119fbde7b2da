// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/binary"
	"fmt"
)

// StateRequest asks for a change of state: every field whose mask bits are all
// ones is to become the field of Value. It is the packet P_STATE_CHG_REQ (one
// volume) and P_CONN_ST_CHG_REQ (the whole connection, from version 100 on), and
// the pair of words with which changes are made locally. As a packet it
// is the sender's view; the receiver uses Swapped. spec: wire 3.4, 4.14.
//
// The zero value asks for nothing. Build one with the With methods:
//
//	StateRequest{}.WithRole(Primary).WithDisk(UpToDate)
type StateRequest struct {
	// Mask holds RoleMask, ConnMask, DiskMask or true in the fields to be
	// changed, and zero in the others.
	Mask State
	// Value holds the wished values; fields outside the mask mean nothing.
	Value State
}

// WithRole asks for the sender's role r.
func (q StateRequest) WithRole(r Role) StateRequest {
	q.Mask.Role, q.Value.Role = RoleMask, r
	return q
}

// WithPeer asks for the role r of the receiver.
func (q StateRequest) WithPeer(r Role) StateRequest {
	q.Mask.Peer, q.Value.Peer = RoleMask, r
	return q
}

// WithConn asks for the connection state c.
func (q StateRequest) WithConn(c ConnState) StateRequest {
	q.Mask.Conn, q.Value.Conn = ConnMask, c
	return q
}

// WithDisk asks for the state d of the sender's disk.
func (q StateRequest) WithDisk(d DiskState) StateRequest {
	q.Mask.Disk, q.Value.Disk = DiskMask, d
	return q
}

// WithPeerDisk asks for the state d of the receiver's disk.
func (q StateRequest) WithPeerDisk(d DiskState) StateRequest {
	q.Mask.PeerDisk, q.Value.PeerDisk = DiskMask, d
	return q
}

// WithAftrISP asks for the flag AftrISP to become on.
func (q StateRequest) WithAftrISP(on bool) StateRequest {
	q.Mask.AftrISP, q.Value.AftrISP = true, on
	return q
}

// WithPeerISP asks for the flag PeerISP to become on.
func (q StateRequest) WithPeerISP(on bool) StateRequest {
	q.Mask.PeerISP, q.Value.PeerISP = true, on
	return q
}

// WithUserISP asks for the flag UserISP to become on.
func (q StateRequest) WithUserISP(on bool) StateRequest {
	q.Mask.UserISP, q.Value.UserISP = true, on
	return q
}

// WithSusp asks for the flag Susp to become on.
func (q StateRequest) WithSusp(on bool) StateRequest {
	q.Mask.Susp, q.Value.Susp = true, on
	return q
}

// WithSuspNoData asks for the flag SuspNoData to become on.
func (q StateRequest) WithSuspNoData(on bool) StateRequest {
	q.Mask.SuspNoData, q.Value.SuspNoData = true, on
	return q
}

// WithSuspFencing asks for the flag SuspFencing to become on.
func (q StateRequest) WithSuspFencing(on bool) StateRequest {
	q.Mask.SuspFencing, q.Value.SuspFencing = true, on
	return q
}

// Apply returns s with the masked fields replaced. A field whose mask is neither
// zero nor all ones is left alone.
func (q StateRequest) Apply(s State) State {
	if q.Mask.Role == RoleMask {
		s.Role = q.Value.Role
	}
	if q.Mask.Peer == RoleMask {
		s.Peer = q.Value.Peer
	}
	if q.Mask.Conn == ConnMask {
		s.Conn = q.Value.Conn
	}
	if q.Mask.Disk == DiskMask {
		s.Disk = q.Value.Disk
	}
	if q.Mask.PeerDisk == DiskMask {
		s.PeerDisk = q.Value.PeerDisk
	}
	s.Susp = pick(q.Mask.Susp, q.Value.Susp, s.Susp)
	s.AftrISP = pick(q.Mask.AftrISP, q.Value.AftrISP, s.AftrISP)
	s.PeerISP = pick(q.Mask.PeerISP, q.Value.PeerISP, s.PeerISP)
	s.UserISP = pick(q.Mask.UserISP, q.Value.UserISP, s.UserISP)
	s.SuspNoData = pick(q.Mask.SuspNoData, q.Value.SuspNoData, s.SuspNoData)
	s.SuspFencing = pick(q.Mask.SuspFencing, q.Value.SuspFencing, s.SuspFencing)
	return s
}

func pick(mask, value, old bool) bool {
	if mask {
		return value
	}
	return old
}

// Swapped returns the request in the receiver's view; both words are turned
// round by State.Swapped.
func (q StateRequest) Swapped() StateRequest {
	return StateRequest{Mask: q.Mask.Swapped(), Value: q.Value.Swapped()}
}

// Valid reports whether every mask field is zero or all ones, and every field of
// the value under the mask holds a state that has a name.
func (q StateRequest) Valid() bool {
	m := q.Mask
	whole := (m.Role == 0 || m.Role == RoleMask) && (m.Peer == 0 || m.Peer == RoleMask) &&
		(m.Conn == 0 || m.Conn == ConnMask) && (m.Disk == 0 || m.Disk == DiskMask) &&
		(m.PeerDisk == 0 || m.PeerDisk == DiskMask)
	return whole && q.Apply(State{}).Valid()
}

// String returns the requested fields in DRBD's words, for example
// "{role=Primary disk=UpToDate}".
func (q StateRequest) String() string {
	b := []byte{'{'}
	add := func(masked bool, name string, value fmt.Stringer) {
		if masked {
			if len(b) > 1 {
				b = append(b, ' ')
			}
			b = fmt.Appendf(b, "%s=%v", name, value)
		}
	}
	add(q.Mask.Role != 0, "role", q.Value.Role)
	add(q.Mask.Peer != 0, "peer", q.Value.Peer)
	add(q.Mask.Conn != 0, "conn", q.Value.Conn)
	add(q.Mask.Disk != 0, "disk", q.Value.Disk)
	add(q.Mask.PeerDisk != 0, "pdsk", q.Value.PeerDisk)
	add(q.Mask.Susp, "susp", onOff(q.Value.Susp))
	add(q.Mask.AftrISP, "aftr_isp", onOff(q.Value.AftrISP))
	add(q.Mask.PeerISP, "peer_isp", onOff(q.Value.PeerISP))
	add(q.Mask.UserISP, "user_isp", onOff(q.Value.UserISP))
	add(q.Mask.SuspNoData, "susp_nod", onOff(q.Value.SuspNoData))
	add(q.Mask.SuspFencing, "susp_fen", onOff(q.Value.SuspFencing))
	return string(append(b, '}'))
}

// onOff prints a flag as 0 or 1.
type onOff bool

func (v onOff) String() string {
	if v {
		return "1"
	}
	return "0"
}

// AppendTo appends the body of P_STATE_CHG_REQ or P_CONN_ST_CHG_REQ.
func (q StateRequest) AppendTo(dst []byte, _ *Session) []byte {
	dst = binary.BigEndian.AppendUint32(dst, q.Mask.Word())
	return binary.BigEndian.AppendUint32(dst, q.Value.Word())
}

// Decode reads the body of P_STATE_CHG_REQ or P_CONN_ST_CHG_REQ, in the sender's
// view. Errors: ErrLength; ErrField if not Valid.
func (q *StateRequest) Decode(body []byte, _ *Session) error {
	if len(body) != 8 {
		return lengthError(CmdStateChgReq, len(body), 8)
	}
	mask, value := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
	r := StateRequest{Mask: StateFromWord(mask), Value: StateFromWord(value)}
	if !r.Valid() {
		return fmt.Errorf("%w: state request mask 0x%06x value 0x%06x", ErrField, mask, value)
	}
	*q = r
	return nil
}

// StateReply answers a StateRequest: P_STATE_CHG_REPLY and P_CONN_ST_CHG_REPLY,
// on the meta stream. spec: wire 5.4.
type StateReply struct {
	Code Code
}

// AppendTo appends the body.
func (r StateReply) AppendTo(dst []byte, _ *Session) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(r.Code))
}

// Decode reads the body. Any number is a code. Errors: ErrLength.
func (r *StateReply) Decode(body []byte, _ *Session) error {
	if len(body) != 4 {
		return lengthError(CmdStateChgReply, len(body), 4)
	}
	r.Code = Code(binary.BigEndian.Uint32(body))
	return nil
}
