// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"io"
	"math/rand/v2"
)

const sectorBytes = 512

// Disk is a disk with a volatile write cache.
type Disk struct {
	durable []byte // survives a crash
	current []byte // what reads see
	dirty   map[int64]struct{}

	FailReads, FailWrites bool // every such operation of the data area fails
	FailMeta              bool // so do metadata writes
}

// ErrDisk is an injected failure.
var ErrDisk = errors.New("sim: injected disk error")

// NewDisk returns a zero-filled disk.
func NewDisk(size int64) *Disk {
	return &Disk{durable: make([]byte, size), current: make([]byte, size), dirty: map[int64]struct{}{}}
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return int64(len(d.current)) }

// Bytes returns what reads see. It is not a copy.
func (d *Disk) Bytes() []byte { return d.current }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, d.current[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes into the cache.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	copy(d.current[off:], p)
	for s := off / sectorBytes; s*sectorBytes < off+int64(len(p)); s++ {
		d.dirty[s] = struct{}{}
	}
	return len(p), nil
}

// Zero makes a range read as zeroes.
func (d *Disk) Zero(off, n int64) {
	clear(d.current[off : off+n])
	for s := off / sectorBytes; s*sectorBytes < off+n; s++ {
		d.dirty[s] = struct{}{}
	}
}

// Flush makes everything durable.
func (d *Disk) Flush() error {
	for s := range d.dirty {
		copy(d.durable[s*sectorBytes:(s+1)*sectorBytes], d.current[s*sectorBytes:(s+1)*sectorBytes])
	}
	clear(d.dirty)
	return nil
}

// persist makes a range durable: a write with FUA.
func (d *Disk) persist(off, n int64) {
	for s := off / sectorBytes; s*sectorBytes < off+n; s++ {
		copy(d.durable[s*sectorBytes:(s+1)*sectorBytes], d.current[s*sectorBytes:(s+1)*sectorBytes])
		delete(d.dirty, s)
	}
}

// Crash loses the power: of every sector that is not durable either the old or the
// new content stays.
func (d *Disk) Crash(rng *rand.Rand) {
	keep := rng.IntN(3) // nothing, everything, or some
	for s := int64(0); s*sectorBytes < int64(len(d.current)) && len(d.dirty) > 0; s++ {
		if _, ok := d.dirty[s]; !ok {
			continue
		}
		delete(d.dirty, s)
		cur, dur := d.current[s*sectorBytes:(s+1)*sectorBytes], d.durable[s*sectorBytes:(s+1)*sectorBytes]
		if keep == 1 || keep == 2 && rng.IntN(2) == 0 {
			copy(dur, cur)
		} else {
			copy(cur, dur)
		}
	}
}
