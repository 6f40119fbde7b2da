// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/binary"
	"fmt"
)

// SectorBytes is the size of a sector, the unit of all addresses on the wire.
const SectorBytes = 512

// maxSectors bounds addresses so that every byte offset fits an int64 (8 EiB). DRBD
// devices end at 1 PiB.
const maxSectors = 1 << 54

// BlockID identifies a request between the node that made it and the node that
// answers. It is chosen by the requester, returned unchanged, and means nothing to
// anybody else. Do not use IDSyncer for a request of an application: the answer
// would be taken for that of a resync write. spec: wire 3.1.
type BlockID uint64

const (
	// IDSyncer marks all resync and verify traffic.
	IDSyncer BlockID = 1<<64 - 1
	// IDInSync is the BlockID of a P_OV_RESULT for equal blocks.
	IDInSync BlockID = 4711
	// IDOutOfSync is the BlockID of a P_OV_RESULT for different blocks.
	IDOutOfSync BlockID = 4712
)

// DataFlags say how a write is to be done and answered. spec: wire 4.8.
type DataFlags uint32

// The flags, with DRBD's names and values.
const (
	DPHardBarrier    DataFlags = 1    // obsolete
	DPRWSync         DataFlags = 2    // a caller waits
	DPMaySetInSync   DataFlags = 4    // a resync runs: once written, the blocks are in sync
	DPUnplug         DataFlags = 8    // obsolete
	DPFUA            DataFlags = 16   // write through
	DPFlush          DataFlags = 32   // flush before
	DPDiscard        DataFlags = 64   // P_TRIM; with DPZeroes: unmapping allowed
	DPSendReceiveAck DataFlags = 128  // answer P_RECV_ACK on receipt (protocol B)
	DPSendWriteAck   DataFlags = 256  // answer P_WRITE_ACK when on disk (protocol C)
	DPWSame          DataFlags = 512  // P_WSAME
	DPZeroes         DataFlags = 1024 // P_ZEROES

	// rangeFlags are the flags of the three packets that carry a size.
	rangeFlags = DPDiscard | DPWSame | DPZeroes
)

// Has reports whether every flag of want is set.
func (f DataFlags) Has(want DataFlags) bool { return f&want == want }

// Usable returns f without the flags that do not exist in version v: below 95 only
// DPRWSync and DPMaySetInSync are used, and the two ack flags only from 100 on.
// spec: wire 4.8.
func (f DataFlags) Usable(v Version) DataFlags {
	switch {
	case v < versionH95:
		return f & (DPRWSync | DPMaySetInSync)
	case v < versionH100:
		return f &^ (DPSendReceiveAck | DPSendWriteAck)
	}
	return f
}

// String returns DRBD's names of the set flags, for example
// "RW_SYNC|SEND_WRITE_ACK", and "0" for none.
func (f DataFlags) String() string {
	return flagString(uint64(f), []flagName{
		{uint64(DPHardBarrier), "HARDBARRIER"},
		{uint64(DPRWSync), "RW_SYNC"},
		{uint64(DPMaySetInSync), "MAY_SET_IN_SYNC"},
		{uint64(DPUnplug), "UNPLUG"},
		{uint64(DPFUA), "FUA"},
		{uint64(DPFlush), "FLUSH"},
		{uint64(DPDiscard), "DISCARD"},
		{uint64(DPSendReceiveAck), "SEND_RECEIVE_ACK"},
		{uint64(DPSendWriteAck), "SEND_WRITE_ACK"},
		{uint64(DPWSame), "WSAME"},
		{uint64(DPZeroes), "ZEROES"},
	})
}

// Data is the body of the six packets that change blocks or answer reads: P_DATA,
// P_DATA_REPLY, P_RS_DATA_REPLY, P_TRIM, P_ZEROES, P_WSAME. The digest and the data
// themselves are not part of it. spec: wire 4.8.
type Data struct {
	Sector uint64
	ID     BlockID
	// Seq is the sender's sequence number (spec: wire 3.2); 0 in replies.
	Seq uint32
	// Flags are 0 in replies.
	Flags DataFlags
	// Size is the length in bytes of the affected range. It is on the wire only
	// in P_TRIM, P_ZEROES and P_WSAME, and 0 when another packet was decoded:
	// there the length is that of the data.
	Size uint32
}

const (
	dataBytes  = 24
	rangeBytes = 28
)

// rangeFlag returns the flag that goes with the packets that carry Size, and 0 for
// all others.
func rangeFlag(c Command) DataFlags {
	switch c {
	case CmdTrim:
		return DPDiscard
	case CmdZeroes:
		return DPZeroes
	case CmdWSame:
		return DPWSame
	}
	return 0
}

// AppendTo appends the body: 28 bytes with Size if one of the flags DPDiscard,
// DPZeroes and DPWSame is set, as it must be in the packets that carry Size, else 24.
func (d Data) AppendTo(dst []byte, _ *Session) []byte {
	var b [rangeBytes]byte
	binary.BigEndian.PutUint64(b[0:], d.Sector)
	binary.BigEndian.PutUint64(b[8:], uint64(d.ID))
	binary.BigEndian.PutUint32(b[16:], d.Seq)
	binary.BigEndian.PutUint32(b[20:], uint32(d.Flags))
	if d.Flags&rangeFlags == 0 {
		return append(dst, b[:dataBytes]...)
	}
	binary.BigEndian.PutUint32(b[24:], d.Size)
	return append(dst, b[:]...)
}

// Decode reads a body whose command is told by its flags. Use DecodeAs where the
// header is at hand: a peer that sets the wrong flags is told apart only there.
func (d *Data) Decode(body []byte, s *Session) error {
	c := CmdData
	if len(body) >= dataBytes {
		switch f := DataFlags(binary.BigEndian.Uint32(body[20:])); {
		case f.Has(DPWSame):
			c = CmdWSame
		case f.Has(DPZeroes):
			c = CmdZeroes
		case f.Has(DPDiscard):
			c = CmdTrim
		}
	}
	return d.DecodeAs(c, body, s)
}

// DecodeAs reads the body of a packet of command c. Digest and data may follow in
// body, except in P_TRIM and P_ZEROES, and are not looked at. In the packets that carry Size the flag that belongs
// to the command is set in d whether or not the peer set it.
//
// Errors: ErrLength; ErrField for an impossible address or size, for a Size above
// MaxDiscardBytes, and for a packet without Size that has one of its flags.
func (d *Data) DecodeAs(c Command, body []byte, s *Session) error {
	flag := rangeFlag(c)
	want := dataBytes
	if flag != 0 {
		want = rangeBytes
	}
	if len(body) < want || len(body) > want && (c == CmdTrim || c == CmdZeroes) {
		return lengthError(c, len(body), want)
	}
	r := Data{
		Sector: binary.BigEndian.Uint64(body),
		ID:     BlockID(binary.BigEndian.Uint64(body[8:])),
		Seq:    binary.BigEndian.Uint32(body[16:]),
		Flags:  DataFlags(binary.BigEndian.Uint32(body[20:])),
	}
	if flag == 0 {
		if r.Flags&rangeFlags != 0 {
			return fmt.Errorf("%w: flags %v in %v", ErrField, r.Flags, c)
		}
		if err := checkRange(c, r.Sector, 0, 0, MaxBlockBytes); err != nil {
			return err
		}
		*d = r
		return nil
	}
	r.Flags |= flag
	r.Size = binary.BigEndian.Uint32(body[24:])
	if err := checkRange(c, r.Sector, r.Size, SectorBytes, MaxDiscardBytes(s.Features)); err != nil {
		return err
	}
	*d = r
	return nil
}

// checkRange refuses an address or a size that no packet may have, so that the
// arithmetic of those who use them cannot overflow.
func checkRange(c Command, sector uint64, size, least, most uint32) error {
	if size%SectorBytes != 0 || size < least || size > most {
		return fmt.Errorf("%w: size %d in %v", ErrField, size, c)
	}
	if sector > maxSectors-uint64(most/SectorBytes) {
		return fmt.Errorf("%w: sector %d in %v", ErrField, sector, c)
	}
	return nil
}

// BlockDescription names a range of blocks: P_OUT_OF_SYNC (set the bits) and
// P_RS_DEALLOCATED (the range is all zero). The kernel sends garbage in the last four
// bytes of P_OUT_OF_SYNC; they are ignored and sent as zero. spec: wire 4.16.
type BlockDescription struct {
	Sector uint64
	Size   uint32 // bytes
}

// AppendTo appends the body, 16 bytes.
func (p BlockDescription) AppendTo(dst []byte, _ *Session) []byte {
	var b [16]byte
	binary.BigEndian.PutUint64(b[0:], p.Sector)
	binary.BigEndian.PutUint32(b[8:], p.Size)
	return append(dst, b[:]...)
}

// Decode reads the body. Errors: ErrLength; ErrField for an impossible address or
// size.
func (p *BlockDescription) Decode(body []byte, _ *Session) error {
	if len(body) != 16 {
		return lengthError(CmdOutOfSync, len(body), 16)
	}
	r := BlockDescription{Sector: binary.BigEndian.Uint64(body), Size: binary.BigEndian.Uint32(body[8:])}
	if err := checkRange(CmdOutOfSync, r.Sector, r.Size, SectorBytes, maxRangeBytes); err != nil {
		return err
	}
	*p = r
	return nil
}

// maxRangeBytes is the largest multiple of a sector that 32 bits hold.
const maxRangeBytes = 1<<32 - SectorBytes
