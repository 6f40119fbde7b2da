// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import (
	"encoding/binary"
	"fmt"
)

// A Decoder merges the packet bodies of one transfer, in any mixture of plain and
// compressed, into a bitmap: a bit that either side has is set afterwards (spec:
// wire 6).
//
// Any bytes give nil or an error. After an error the cursor stands where it stood,
// but a compressed packet may have set the bits of its leading runs: too many
// blocks marked, never too few. Neither method allocates, except for an error.
type Decoder struct {
	b   *Bitmap
	set uint64
	cursor
}

// NewDecoder returns a decoder that stands at bit 0.
func NewDecoder(b *Bitmap) *Decoder { return &Decoder{b: b} }

// Done reports whether the transfer is complete: a compressed packet reached the
// end of the bitmap, or the empty plain packet was merged.
func (d *Decoder) Done() bool { return d.closed }

// Bit returns the cursor: all bits below it have been received.
func (d *Decoder) Bit() uint64 { return d.bit }

// Changed returns the number of bits that were newly set since the beginning.
func (d *Decoder) Changed() uint64 { return d.set }

// Plain merges the body of a P_BITMAP packet; maxBytes is MaxBody of the
// connection's header. It returns ErrChunkLength unless the chunk has exactly the
// length that the position demands, and ErrPastEnd if the transfer is complete.
func (d *Decoder) Plain(body []byte, maxBytes int) error {
	if d.closed {
		return fmt.Errorf("%w: a packet after the last one", ErrPastEnd)
	}
	at := d.word(d.b)
	if want := d.b.PlainLen(at, maxBytes); len(body) != want {
		return fmt.Errorf("%w: %d bytes at word %d of %d, want %d", ErrChunkLength, len(body), at, len(d.b.words), want)
	}
	n, err := d.b.MergePlain(at, body)
	if err != nil {
		return err
	}
	d.set += n
	d.plain(d.b, len(body))
	return nil
}

// Compressed merges the body of a P_COMPRESSED_BITMAP packet; maxBytes is MaxBody
// of the connection's header. It returns ErrCode for a body that is too short or
// too long, names an unknown encoding or ends within a code word, and ErrPastEnd for
// runs, of either value, that go past the end of the bitmap. Padding bits are not
// looked at.
func (d *Decoder) Compressed(body []byte, maxBytes int) error {
	switch {
	case d.closed:
		return fmt.Errorf("%w: a packet after the last one", ErrPastEnd)
	case len(body) < 2 || len(body) > maxBytes:
		return fmt.Errorf("%w: %d bytes, want 2 to %d", ErrCode, len(body), maxBytes)
	case body[0]&encodingMask != encodingVLI:
		return fmt.Errorf("%w: encoding %d is unknown", ErrCode, body[0]&encodingMask)
	}
	set := body[0]&startOnes != 0
	pad := uint64(body[0] >> padShift & padMask)
	code := body[1:]
	end := uint64(len(code))*8 - pad
	bit := d.bit
	for pos := uint64(0); pos < end; set = !set {
		run, width := readCode(window(code, pos), end-pos)
		if width == 0 {
			return fmt.Errorf("%w: cut off within a code word", ErrCode)
		}
		if run > d.b.bits-bit {
			return fmt.Errorf("%w: a run of %d at bit %d of %d", ErrPastEnd, run, bit, d.b.bits)
		}
		if set {
			d.set += d.b.SetRange(bit, bit+run)
		}
		bit += run
		pos += width
	}
	d.compressed(d.b, bit)
	return nil
}

// window returns the 64 code bits from bit pos on; bits past the end are zero.
func window(code []byte, pos uint64) uint64 {
	rest, shift := code[pos/8:], pos%8
	if len(rest) > 8 {
		return binary.LittleEndian.Uint64(rest)>>shift | uint64(rest[8])<<(64-shift)
	}
	var v uint64
	for i := len(rest) - 1; i >= 0; i-- {
		v = v<<8 | uint64(rest[i])
	}
	return v >> shift
}
