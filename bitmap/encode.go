// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import (
	"encoding/binary"
	"math/bits"
)

// An Encoder turns a bitmap into the packet bodies of one transfer, in order. Ask
// Next for a compressed body, and Plain when it declines or when compression was
// not agreed on, until Done:
//
//	for e := bitmap.NewEncoder(b); !e.Done(); {
//		body, ok := e.Next(buf[:0], maxBytes)
//		if !ok {
//			body = e.Plain(buf[:0], maxBytes)
//		}
//		send(body, ok)
//	}
//
// It reads the live bitmap at each call: a bit behind the cursor that changes
// between two calls is not sent again. Neither method allocates if dst has room.
type Encoder struct {
	b *Bitmap
	cursor
}

// NewEncoder returns an encoder that stands at bit 0.
func NewEncoder(b *Bitmap) *Encoder { return &Encoder{b: b} }

// Done reports whether the last packet of the transfer has been produced. After a
// compressed packet that is when the cursor has reached the end; after a plain
// one, when the closing chunk of length zero has been produced too.
func (e *Encoder) Done() bool { return e.closed }

// Bit returns the cursor: all bits below it have been produced.
func (e *Encoder) Bit() uint64 { return e.bit }

// Word returns the 64-bit word at which a plain chunk would begin.
func (e *Encoder) Word() int { return e.word(e.b) }

// Plain appends the next plain chunk to dst: MaxBody bytes, or what is left of the
// bitmap, or nothing at all, which ends the transfer: that too is a packet to be
// sent (spec: wire 6.1). maxBytes must be at least 8.
func (e *Encoder) Plain(dst []byte, maxBytes int) []byte {
	if maxBytes < 8 {
		panic("bitmap: maxBytes has no room for a word")
	}
	at := e.word(e.b)
	n := e.b.PlainLen(at, maxBytes)
	dst = e.b.AppendPlain(dst, at, maxBytes)
	e.plain(e.b, n)
	return dst
}

// Next appends the body of one compressed packet to dst, at most maxBytes long,
// and moves the cursor. It declines, returns dst as it was and false, and does not
// move when compression does not pay, that is when the code takes more bits than
// the plain bitmap it stands for, or when the cursor is at the end; then it is
// Plain's turn (spec: wire 6.2).
func (e *Encoder) Next(dst []byte, maxBytes int) (body []byte, ok bool) {
	if e.bit >= e.b.bits || maxBytes < 2 {
		return dst, false
	}
	start := len(dst)
	ones := e.b.Test(e.bit)
	w := codeWriter{dst: append(dst, 0), room: uint64(maxBytes-1) * 8}
	at := e.bit
	for set := ones; at < e.b.bits; set = !set {
		end := e.runEnd(at, set)
		if !w.put(end - at) {
			break
		}
		at = end
	}
	body, pad := w.finish()
	if code := uint64(len(body) - start - 1); code == 0 || code*8 > at-e.bit {
		return dst, false
	}
	body[start] = encodingVLI | byte(pad)<<padShift
	if ones {
		body[start] |= startOnes
	}
	e.compressed(e.b, at)
	return body, true
}

// runEnd returns the end of the run of bits of one value that begins at bit at.
func (e *Encoder) runEnd(at uint64, set bool) uint64 {
	if set {
		return min(e.b.nextClear(at), e.b.bits)
	}
	if end, ok := e.b.NextSet(at); ok {
		return end
	}
	return e.b.bits
}

// The first byte of a compressed body (spec: wire 6.2).
const (
	encodingVLI  = 2
	encodingMask = 0x0f
	padShift     = 4
	padMask      = 7
	startOnes    = 0x80
)

// level is one row of the code table: runs of first to last blocks are sent as
// prefix, prefixBits wide and least significant bit first, followed by dataBits of
// length - first (spec: wire 6.2). Do not change: it is part of the protocol.
type level struct {
	first, last          uint64
	prefix               uint64
	prefixBits, dataBits uint8
}

var levels = [...]level{
	{1, 2, 0x00, 1, 1},
	{3, 4, 0x01, 2, 1},
	{5, 8, 0x03, 3, 2},
	{9, 16, 0x07, 4, 3},
	{17, 48, 0x0f, 5, 5},
	{49, 304, 0x1f, 6, 8},
	{305, 8496, 0x3f, 8, 13},
	{8497, 2105648, 0x7f, 8, 21},
	{2105649, 17181974832, 0xbf, 8, 34},
	{17181974833, 72057611219902768, 0xff, 8, 56},
}

// codeWord returns the code word of a run and its width in bits.
func codeWord(run uint64) (code uint64, width uint8) {
	for i := range levels {
		if l := &levels[i]; run <= l.last {
			return (run-l.first)<<l.prefixBits | l.prefix, l.prefixBits + l.dataBits
		}
	}
	panic("bitmap: a run longer than any bitmap")
}

// A codeWriter packs code words into bytes, least significant bit first.
type codeWriter struct {
	dst  []byte
	room uint64 // bits that may still be put
	acc  uint64 // bits not yet in dst
	held uint8  // number of bits in acc, < 64
}

// put appends the code word of a run, or returns false if it does not fit.
func (w *codeWriter) put(run uint64) bool {
	code, width := codeWord(run)
	if uint64(width) > w.room {
		return false
	}
	w.room -= uint64(width)
	w.acc |= code << w.held
	if w.held+width >= 64 {
		w.dst = binary.LittleEndian.AppendUint64(w.dst, w.acc)
		w.acc = code >> (64 - w.held) // held = 0 shifts everything out: 0
		w.held += width - 64
		return true
	}
	w.held += width
	return true
}

// finish pads the last byte with zero bits and returns the bytes and the number of
// padding bits.
func (w *codeWriter) finish() (dst []byte, pad int) {
	for ; w.held > 8; w.held -= 8 {
		w.dst = append(w.dst, byte(w.acc))
		w.acc >>= 8
	}
	if w.held > 0 {
		w.dst = append(w.dst, byte(w.acc))
		pad = 8 - int(w.held)
	}
	return w.dst, pad
}

// readCode takes the code word at the low end of v, of which avail bits are real,
// and returns the length of its run and its width; width 0 means that the word is
// cut off.
func readCode(v uint64, avail uint64) (run uint64, width uint64) {
	i := min(bits.TrailingZeros64(^v), 8)
	switch {
	case i == 6 && v&0x80 != 0: // 0xbf, level 9
		i = 8
	case i == 8: // 0xff, level 10
		i = 9
	}
	l := &levels[i]
	width = uint64(l.prefixBits + l.dataBits)
	if width > avail {
		return 0, 0
	}
	data := v >> l.prefixBits & (1<<l.dataBits - 1)
	return l.first + data, width
}
