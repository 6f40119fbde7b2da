// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
)

// PatternBytes is the length of Pattern.
const PatternBytes = 4 << 20

const sectorBytes = 512

// Pattern returns the random data that the scenarios write. It must not be changed.
var Pattern = sync.OnceValue(func() []byte {
	p := make([]byte, PatternBytes)
	rng := rand.New(rand.NewPCG(8, 4))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
})

// patternSectors finds a sector of the pattern by its first bytes.
var patternSectors = sync.OnceValue(func() map[uint64]int {
	m := map[uint64]int{}
	p := Pattern()
	for i := 0; i < len(p); i += sectorBytes {
		m[binary.LittleEndian.Uint64(p[i:])] = i / sectorBytes
	}
	return m
})

// Content is data in words: z8 are eight sectors of zeroes, p100+3 three sectors of the
// pattern from its hundredth on, and r… is base64 for what is neither.
type Content string

// Describe returns the content of b, whose length is a multiple of 512.
func Describe(b []byte) Content {
	const zero, raw = -1, -2
	var words []string
	var kind, from, n int // of the run: zero, raw, or the next sector of the pattern
	var rest []byte
	flush := func() {
		switch {
		case n == 0:
		case kind == zero:
			words = append(words, fmt.Sprintf("z%d", n))
		case kind == raw:
			words = append(words, "r"+base64.StdEncoding.EncodeToString(rest))
		default:
			words = append(words, fmt.Sprintf("p%d+%d", from, n))
		}
		n, rest = 0, nil
	}
	var none [sectorBytes]byte
	for ; len(b) >= sectorBytes; b = b[sectorBytes:] {
		s := b[:sectorBytes]
		is := raw
		if bytes.Equal(s, none[:]) {
			is = zero
		} else if i, ok := patternSectors()[binary.LittleEndian.Uint64(s)]; ok && bytes.Equal(s, Pattern()[i*sectorBytes:(i+1)*sectorBytes]) {
			is = i
		}
		if n > 0 && (is < 0 && is == kind || is >= 0 && kind >= 0 && is == from+n) {
			n++
		} else {
			flush()
			kind, from, n = is, is, 1
		}
		if is == raw {
			rest = append(rest, s...)
		}
	}
	flush()
	return Content(strings.Join(words, " "))
}

// each calls put with every run of data, and with nil for n bytes of zeroes.
func (c Content) each(put func(off int64, data []byte, n int64) error) error {
	off := int64(0)
	for word := range strings.FieldsSeq(string(c)) {
		var data []byte
		var from, n int64
		var err error
		switch word[0] {
		case 'z':
			_, err = fmt.Sscanf(word, "z%d", &n)
			n *= sectorBytes
		case 'p':
			if _, err = fmt.Sscanf(word, "p%d+%d", &from, &n); err == nil {
				if from < 0 || n < 0 || from+n > PatternBytes/sectorBytes {
					return fmt.Errorf("%w: content %q", ErrRecording, word)
				}
				data = Pattern()[from*sectorBytes : (from+n)*sectorBytes]
				n = int64(len(data))
			}
		case 'r':
			data, err = base64.StdEncoding.DecodeString(word[1:])
			n = int64(len(data))
		default:
			err = fmt.Errorf("content %q", word)
		}
		if err != nil || n < 0 {
			return fmt.Errorf("%w: %w", ErrRecording, err)
		}
		if err := put(off, data, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Bytes returns the data, at most limit bytes of it.
func (c Content) Bytes(limit int64) ([]byte, error) {
	var b []byte
	err := c.each(func(off int64, data []byte, n int64) error {
		if off+n > limit {
			return fmt.Errorf("%w: content of more than %d bytes", ErrRecording, limit)
		}
		if data == nil {
			data = make([]byte, n)
		}
		b = append(b, data...)
		return nil
	})
	return b, err
}
