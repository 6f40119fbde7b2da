// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "fmt"

// bitmapPacketBytes is the buffer into which DRBD puts one packet of bitmap, header
// included. spec: wire 6.1.
const bitmapPacketBytes = 4096

// BitmapChunkBytes returns the size of every P_BITMAP but the last ones of a
// transfer: 4088 bytes, or 4080 from version 100 on. A receiver refuses any other
// size. spec: wire 6.1.
func BitmapChunkBytes(v Version) int {
	return (bitmapPacketBytes - HeaderSize(v)) / 8 * 8
}

// MaxBitmapCodeBytes returns how many bytes of code fit into one
// P_COMPRESSED_BITMAP: 4087, or 4079 from version 100 on. spec: wire 6.2.
func MaxBitmapCodeBytes(v Version) int {
	return bitmapPacketBytes - HeaderSize(v) - 1
}

// Bitmap is one plain chunk of a bitmap transfer: P_BITMAP. spec: wire 6.1.
type Bitmap struct {
	// Bytes are the chunk, a multiple of 8: bit n of the bitmap is bit n%8 of
	// byte n/8. No bytes end the transfer. After Decode they alias the body, or
	// are nil.
	Bytes []byte
}

// AppendTo appends the chunk.
func (p Bitmap) AppendTo(dst []byte, _ *Session) []byte { return append(dst, p.Bytes...) }

// Decode takes the chunk. Errors: ErrLength. That it has the exact length for the
// place in the transfer is for the caller to check.
func (p *Bitmap) Decode(body []byte, s *Session) error {
	if len(body)%8 != 0 || len(body) > BitmapChunkBytes(s.Version) {
		return fmt.Errorf("%w: %d bytes of plain bitmap", ErrLength, len(body))
	}
	p.Bytes = alias(body)
	return nil
}

// BitmapEncodingRLE is the one encoding of P_COMPRESSED_BITMAP: run lengths of a
// variable width.
const BitmapEncodingRLE = 2

// CompressedBitmap is one run-length coded part of a bitmap transfer:
// P_COMPRESSED_BITMAP, from version 90 on. The code itself is package bitmap's
// affair. spec: wire 6.2.
type CompressedBitmap struct {
	// StartsSet: the first run is of ones.
	StartsSet bool
	// PadBits is the number of unused bits at the end of the last byte, 0..7.
	PadBits uint8
	// Code is the stream of code words, at least one byte. After Decode it
	// aliases the body.
	Code []byte
}

// AppendTo appends the body.
func (p CompressedBitmap) AppendTo(dst []byte, _ *Session) []byte {
	b := BitmapEncodingRLE | p.PadBits&7<<4
	if p.StartsSet {
		b |= 1 << 7
	}
	dst = append(dst, b)
	return append(dst, p.Code...)
}

// Decode reads the body. Errors: ErrLength; ErrField for an unknown encoding.
func (p *CompressedBitmap) Decode(body []byte, s *Session) error {
	if len(body) < 2 || len(body) > 1+MaxBitmapCodeBytes(s.Version) {
		return fmt.Errorf("%w: %d bytes of compressed bitmap", ErrLength, len(body))
	}
	if enc := body[0] & 15; enc != BitmapEncodingRLE {
		return fmt.Errorf("%w: bitmap encoding %d, only %d is known", ErrField, enc, BitmapEncodingRLE)
	}
	*p = CompressedBitmap{
		StartsSet: body[0]>>7 != 0,
		PadBits:   body[0] >> 4 & 7,
		Code:      alias(body[1:]),
	}
	return nil
}
