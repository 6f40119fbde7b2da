// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "encoding/binary"

// BlockAck answers for one range of blocks on the meta stream: P_RECV_ACK,
// P_WRITE_ACK, P_RS_WRITE_ACK, P_SUPERSEDED, P_NEG_ACK, P_NEG_DREPLY,
// P_NEG_RS_DREPLY, P_OV_RESULT, P_RS_IS_IN_SYNC, P_RS_CANCEL, P_RETRY_WRITE.
// spec: wire 5.2.
type BlockAck struct {
	// Sector and ID are those of the packet that is answered; the ID of a
	// P_OV_RESULT is IDInSync or IDOutOfSync.
	Sector uint64
	ID     BlockID
	// Size is the length of the range in bytes; 0 answers a bare flush.
	Size uint32
	// Seq is the acker's own counter, not that of the answered packet
	// (spec: wire 3.2).
	Seq uint32
}

// AppendTo appends the body, 24 bytes.
func (p BlockAck) AppendTo(dst []byte, _ *Session) []byte {
	var b [24]byte
	binary.BigEndian.PutUint64(b[0:], p.Sector)
	binary.BigEndian.PutUint64(b[8:], uint64(p.ID))
	binary.BigEndian.PutUint32(b[16:], p.Size)
	binary.BigEndian.PutUint32(b[20:], p.Seq)
	return append(dst, b[:]...)
}

// Decode reads the body. Errors: ErrLength; ErrField for an impossible address or
// size. Whether it answers a request is for the caller to check, by ID and Sector.
func (p *BlockAck) Decode(body []byte, _ *Session) error {
	if len(body) != 24 {
		return lengthError(CmdWriteAck, len(body), 24)
	}
	r := BlockAck{
		Sector: binary.BigEndian.Uint64(body),
		ID:     BlockID(binary.BigEndian.Uint64(body[8:])),
		Size:   binary.BigEndian.Uint32(body[16:]),
		Seq:    binary.BigEndian.Uint32(body[20:]),
	}
	if err := checkRange(CmdWriteAck, r.Sector, r.Size, 0, maxRangeBytes); err != nil {
		return err
	}
	*p = r
	return nil
}

// Barrier ends the current epoch of the connection: P_BARRIER. Never send one for an
// epoch without writes. spec: wire 4.10, 8.6.
type Barrier struct {
	// Number is opaque to the receiver, which returns it in its BarrierAck.
	// Its byte order is kept, so a number of the kernel's, which is in host
	// order, looks byte-swapped here.
	Number uint32
}

// AppendTo appends the body, 8 bytes.
func (p Barrier) AppendTo(dst []byte, _ *Session) []byte {
	dst = binary.BigEndian.AppendUint32(dst, p.Number)
	return append(dst, 0, 0, 0, 0)
}

// Decode reads the body; the padding in its second half is ignored.
// Errors: ErrLength.
func (p *Barrier) Decode(body []byte, _ *Session) error {
	if len(body) != 8 {
		return lengthError(CmdBarrier, len(body), 8)
	}
	p.Number = binary.BigEndian.Uint32(body)
	return nil
}

// BarrierAck says that every write of an epoch and of those before it is stable:
// P_BARRIER_ACK. spec: wire 5.3.
type BarrierAck struct {
	// Number is that of the Barrier, unchanged.
	Number uint32
	// SetSize is the number of writes in the epoch.
	SetSize uint32
}

// AppendTo appends the body, 8 bytes.
func (p BarrierAck) AppendTo(dst []byte, _ *Session) []byte {
	dst = binary.BigEndian.AppendUint32(dst, p.Number)
	return binary.BigEndian.AppendUint32(dst, p.SetSize)
}

// Decode reads the body. Errors: ErrLength.
func (p *BarrierAck) Decode(body []byte, _ *Session) error {
	if len(body) != 8 {
		return lengthError(CmdBarrierAck, len(body), 8)
	}
	p.Number = binary.BigEndian.Uint32(body)
	p.SetSize = binary.BigEndian.Uint32(body[4:])
	return nil
}

// DelayProbe is P_DELAY_PROBE: never sent, ignored when received. spec: wire 4.17.
type DelayProbe struct {
	Sequence     uint32
	OffsetMicros uint32 // microseconds
}

// AppendTo appends the body, 8 bytes.
func (p DelayProbe) AppendTo(dst []byte, _ *Session) []byte {
	dst = binary.BigEndian.AppendUint32(dst, p.Sequence)
	return binary.BigEndian.AppendUint32(dst, p.OffsetMicros)
}

// Decode reads the body. Errors: ErrLength.
func (p *DelayProbe) Decode(body []byte, _ *Session) error {
	if len(body) != 8 {
		return lengthError(CmdDelayProbe, len(body), 8)
	}
	p.Sequence = binary.BigEndian.Uint32(body)
	p.OffsetMicros = binary.BigEndian.Uint32(body[4:])
	return nil
}
