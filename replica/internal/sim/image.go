// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"io"
	"slices"
)

const chunkBytes = 16 << 10

// image is the content of a disk, sparse: a nil chunk is all zero. Copies share
// chunks until one of them writes.
type image struct {
	size   int64
	chunks [][]byte
	own    []bool // the chunk belongs to this image alone
}

var zeroChunk [chunkBytes]byte

func newImage(size int64) image {
	n := (size + chunkBytes - 1) / chunkBytes
	return image{size: size, chunks: make([][]byte, n), own: make([]bool, n)}
}

func (m *image) clone() image {
	clear(m.own)
	return image{size: m.size, chunks: slices.Clone(m.chunks), own: make([]bool, len(m.own))}
}

// mine returns a chunk that may be written to, nil if it is all zero.
func (m *image) mine(c int64) []byte {
	if m.chunks[c] != nil && !m.own[c] {
		m.chunks[c], m.own[c] = bytes.Clone(m.chunks[c]), true
	}
	return m.chunks[c]
}

// grow appends n zero bytes.
func (m *image) grow(n int64) {
	m.size += n
	for int64(len(m.chunks))*chunkBytes < m.size {
		m.chunks, m.own = append(m.chunks, nil), append(m.own, false)
	}
}

// ReadAt implements io.ReaderAt.
func (m *image) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(min(int64(len(p)), m.size-off), 0))
	m.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *image) read(p []byte, off int64) {
	for len(p) > 0 {
		c, at := off/chunkBytes, off%chunkBytes
		n := min(int64(len(p)), chunkBytes-at)
		if b := m.chunks[c]; b != nil {
			copy(p[:n], b[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (m *image) write(p []byte, off int64) {
	for len(p) > 0 {
		c, at := off/chunkBytes, off%chunkBytes
		n := min(int64(len(p)), chunkBytes-at)
		if m.chunks[c] == nil && !bytes.Equal(p[:n], zeroChunk[:n]) {
			m.chunks[c], m.own[c] = make([]byte, chunkBytes), true
		}
		if b := m.mine(c); b != nil {
			copy(b[at:], p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (m *image) zero(off, n int64) {
	for n > 0 {
		c, at := off/chunkBytes, off%chunkBytes
		k := min(n, chunkBytes-at)
		if b := m.mine(c); b != nil {
			clear(b[at : at+k])
		}
		off, n = off+k, n-k
	}
}

// at returns bytes that lie in one chunk, for reading only.
func (m *image) at(off, n int64) []byte {
	if b := m.chunks[off/chunkBytes]; b != nil {
		return b[off%chunkBytes:][:n]
	}
	return zeroChunk[:n]
}

func (m *image) isZero(off, n int64) bool {
	b := m.chunks[off/chunkBytes]
	return b == nil || bytes.Equal(b[off%chunkBytes:][:n], zeroChunk[:n])
}

// missing reports whether a range has a chunk that never was written.
func (m *image) missing(off, n int64) bool {
	for c := off / chunkBytes; c*chunkBytes < off+n; c++ {
		if m.chunks[c] == nil {
			return true
		}
	}
	return false
}

// differ calls fn for each block of size bytes, of the first n, that is not the same
// in both; fn returns false to stop.
func (m *image) differ(o *image, n, size int64, fn func(off int64) bool) {
	for c := int64(0); c*chunkBytes < n; c++ {
		a, b := m.chunks[c], o.chunks[c]
		if a == nil && b == nil {
			continue
		}
		if a != nil && b != nil && &a[0] == &b[0] {
			continue
		}
		end := min(chunkBytes, n-c*chunkBytes)
		if bytes.Equal(m.at(c*chunkBytes, end), o.at(c*chunkBytes, end)) {
			continue
		}
		for at := int64(0); at < end; at += size {
			k := min(size, end-at)
			if off := c*chunkBytes + at; !bytes.Equal(m.at(off, k), o.at(off, k)) && !fn(off) {
				return
			}
		}
	}
}
