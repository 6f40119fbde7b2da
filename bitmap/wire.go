// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of a bitmap transfer. Each means that the peer broke the protocol: drop
// the connection, and try again.
var (
	// ErrChunkLength is returned for a plain chunk of any but the one length it
	// must have (spec: wire 6.1).
	ErrChunkLength = errors.New("bitmap: plain chunk has the wrong length")

	// ErrCode is returned for a compressed body that is too short or too long, has
	// an unknown encoding, or ends within a code word (spec: wire 6.2).
	ErrCode = errors.New("bitmap: malformed compressed bitmap")

	// ErrPastEnd is returned when a peer sends bits past the end of the bitmap: a
	// run or chunk that goes beyond it, or a packet after the last one.
	ErrPastEnd = errors.New("bitmap: peer sent bits past the end of the bitmap")
)

// MaxBody returns the largest body of a P_BITMAP or P_COMPRESSED_BITMAP packet,
// given the size of the packet header in bytes: 4088 for 8, 4080 for 16. It is the
// maxBytes of Encoder and Decoder (spec: wire 6.1).
func MaxBody(headerBytes int) int { return (4096 - headerBytes) / 8 * 8 }

// Words returns the number of 64-bit words that a plain transfer carries.
func (b *Bitmap) Words() int { return len(b.words) }

// PlainLen returns the exact length in bytes of the plain chunk that begins at
// word fromWord: maxBytes rounded down to whole words, or less at the end of the
// bitmap, where it is 0.
func (b *Bitmap) PlainLen(fromWord, maxBytes int) int {
	if fromWord >= len(b.words) {
		return 0
	}
	return min(maxBytes/8, len(b.words)-fromWord) * 8
}

// AppendPlain appends the plain chunk that begins at word fromWord to dst: 64-bit
// little-endian words, bits past the end zero (spec: wire 6.1). Its length is
// PlainLen.
func (b *Bitmap) AppendPlain(dst []byte, fromWord, maxBytes int) []byte {
	n := b.PlainLen(fromWord, maxBytes) / 8
	for _, v := range b.words[min(fromWord, len(b.words)):][:n] {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	return dst
}

// MergePlain ors a plain chunk into the bitmap from word fromWord on and returns
// how many bits were new. Bits of the chunk past the end of the bitmap, within its
// last word, are ignored. It returns ErrChunkLength for a chunk that is not a
// number of whole words and ErrPastEnd for one that goes past the last word; the
// bitmap is then unchanged.
func (b *Bitmap) MergePlain(fromWord int, chunk []byte) (set uint64, err error) {
	if len(chunk)%8 != 0 {
		return 0, fmt.Errorf("%w: %d bytes are no whole words", ErrChunkLength, len(chunk))
	}
	n := len(chunk) / 8
	if fromWord < 0 || fromWord > len(b.words) || n > len(b.words)-fromWord {
		return 0, fmt.Errorf("%w: words %d to %d of %d", ErrPastEnd, fromWord, fromWord+n, len(b.words))
	}
	for w, end := fromWord, fromWord+n; w < end; {
		p := w / pageWords
		stop := min(end, (p+1)*pageWords)
		changed := 0
		for ; w < stop; w++ {
			changed += b.orWord(w, binary.LittleEndian.Uint64(chunk))
			chunk = chunk[8:]
		}
		b.grew(p, changed)
		set += uint64(changed)
	}
	return set, nil
}

// cursor is the position that both sides of a transfer keep (spec: wire 6).
type cursor struct {
	bit    uint64 // next bit to cover, up to the number of bits
	closed bool   // nothing follows
}

// word is where a plain chunk begins: after a compressed packet that stopped
// inside a word, the chunk repeats that word's first bits.
func (c *cursor) word(b *Bitmap) int {
	if c.bit >= b.bits {
		return len(b.words)
	}
	return int(c.bit / wordBits)
}

// plain advances past a chunk of n bytes that began at c.word. The chunk of
// length zero, which only stands at the end, closes the transfer.
func (c *cursor) plain(b *Bitmap, n int) {
	if n == 0 {
		c.closed = true
		return
	}
	c.bit = min(b.bits, uint64(c.word(b)+n/8)*wordBits)
}

// compressed advances to a run boundary. A compressed packet that reaches the end
// closes the transfer.
func (c *cursor) compressed(b *Bitmap, bit uint64) {
	c.bit = bit
	c.closed = bit == b.bits
}
