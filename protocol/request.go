// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "encoding/binary"

// BlockRequest asks about one range of blocks: P_DATA_REQUEST, P_RS_DATA_REQUEST,
// P_RS_THIN_REQ, P_OV_REQUEST, and with a digest P_OV_REPLY and P_CSUM_RS_REQUEST.
// The kernel sends garbage in the four bytes at offset 20; they are ignored and sent
// as zero. spec: wire 4.7.
type BlockRequest struct {
	Sector uint64
	// ID is IDSyncer in all but P_DATA_REQUEST.
	ID BlockID
	// Size is the length in bytes, a multiple of 512 in 512..MaxBlockBytes.
	Size uint32
	// Digest of the blocks, in P_OV_REPLY and P_CSUM_RS_REQUEST; else nil.
	// A P_OV_REPLY of all zero bytes says that the blocks could not be read.
	// After Decode it aliases the body.
	Digest []byte
}

const blockRequestBytes = 24

// AppendTo appends the body and the digest.
func (p BlockRequest) AppendTo(dst []byte, _ *Session) []byte {
	var b [blockRequestBytes]byte
	binary.BigEndian.PutUint64(b[0:], p.Sector)
	binary.BigEndian.PutUint64(b[8:], uint64(p.ID))
	binary.BigEndian.PutUint32(b[16:], p.Size)
	dst = append(dst, b[:]...)
	return append(dst, p.Digest...)
}

// Decode reads the body and, if there is more, the digest. Errors: ErrLength;
// ErrField for an impossible address or size. Whether the range lies on the device
// is for the caller to check.
func (p *BlockRequest) Decode(body []byte, _ *Session) error {
	if len(body) < blockRequestBytes || len(body) > blockRequestBytes+MaxDigestBytes {
		return lengthError(CmdDataRequest, len(body), blockRequestBytes)
	}
	r := BlockRequest{
		Sector: binary.BigEndian.Uint64(body),
		ID:     BlockID(binary.BigEndian.Uint64(body[8:])),
		Size:   binary.BigEndian.Uint32(body[16:]),
	}
	if err := checkRange(CmdDataRequest, r.Sector, r.Size, SectorBytes, MaxBlockBytes); err != nil {
		return err
	}
	r.Digest = alias(body[blockRequestBytes:])
	*p = r
	return nil
}
