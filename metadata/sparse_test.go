// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"io"
)

// sparse is a device in memory that holds only the blocks ever written.
type sparse struct {
	size   int64
	blocks map[int64]*[BlockSize]byte

	// log has "write OFF LEN" for each write in order, and "sync".
	log []op

	// failAt makes the n-th write or sync (from 1) fail, 0 = none.
	failAt int
}

type op struct {
	off  int64
	size int
	sync bool
}

var errInjected = errors.New("injected")

func newSparse(size int64) *sparse {
	return &sparse{size: size, blocks: map[int64]*[BlockSize]byte{}}
}

func (d *sparse) clone() *sparse {
	c := newSparse(d.size)
	for at, b := range d.blocks {
		copied := *b
		c.blocks[at] = &copied
	}
	return c
}

func (d *sparse) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= d.size {
			return n, io.EOF
		}
		in := at % BlockSize
		m := min(int64(len(p)-n), BlockSize-in, d.size-at)
		if b := d.blocks[at-in]; b != nil {
			copy(p[n:n+int(m)], b[in:])
		} else {
			clear(p[n : n+int(m)])
		}
		n += int(m)
	}
	return n, nil
}

func (d *sparse) WriteAt(p []byte, off int64) (int, error) {
	d.log = append(d.log, op{off: off, size: len(p)})
	if d.failAt == len(d.log) {
		return 0, errInjected
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= d.size {
			return n, io.ErrShortWrite
		}
		in := at % BlockSize
		m := min(int64(len(p)-n), BlockSize-in, d.size-at)
		b := d.blocks[at-in]
		if b == nil {
			b = new([BlockSize]byte)
			d.blocks[at-in] = b
		}
		copy(b[in:in+m], p[n:])
		n += int(m)
	}
	return n, nil
}

func (d *sparse) Sync() error {
	d.log = append(d.log, op{sync: true})
	if d.failAt == len(d.log) {
		return errInjected
	}
	return nil
}

// bytes returns size bytes at off.
func (d *sparse) bytes(off, size int64) []byte {
	p := make([]byte, size)
	n, _ := d.ReadAt(p, off)
	return p[:n]
}

// equal reports whether two devices have the same content.
// Their sizes do not matter.
func (d *sparse) equal(o *sparse) bool {
	same := true
	for _, at := range []map[int64]*[BlockSize]byte{d.blocks, o.blocks} {
		for off := range at {
			a, b := [BlockSize]byte{}, [BlockSize]byte{}
			if p := d.blocks[off]; p != nil {
				a = *p
			}
			if p := o.blocks[off]; p != nil {
				b = *p
			}
			same = same && a == b
		}
	}
	return same
}
