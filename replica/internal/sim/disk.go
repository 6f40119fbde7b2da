// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
)

const sectorBytes = 512

// Disk is a disk with a volatile write cache, and with faults.
type Disk struct {
	durable image // survives a crash
	current image // what reads see
	size    int64
	// cache has, for each sector, what was written since it was durable last: a
	// crash may keep any of these, whatever it does to others.
	cache map[int64][]version
	seq   uint64 // completed writes so far
	// garble is the first sector that a crash never turns to garbage: metadata.
	garble int64

	FailReads, FailWrites bool // every such operation of the data area fails
	FailMeta              bool // so do metadata writes
	NoDiscard             bool // so do discards
	Full                  bool // writes to chunks that never were written fail
	Frozen                bool // nothing completes
	Slow                  int  // operations take this many times as long
	latent                map[int64]struct{}
	held                  []func() // completions that wait while it is frozen
}

// garbageID marks what a power failure makes of a sector that was not durable.
const garbageID = 1 << 63

// version is a sector's content in the cache.
type version struct {
	seq  uint64
	data []byte
}

// Injected failures.
var (
	ErrDisk   = errors.New("sim: injected disk error")
	ErrNoRoom = errors.New("sim: no space left on the disk")
)

// NewDisk returns a zero-filled disk.
func NewDisk(size int64) *Disk {
	return &Disk{size: size, durable: newImage(size), current: newImage(size), cache: map[int64][]version{},
		latent: map[int64]struct{}{}, garble: size / sectorBytes}
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Grow makes the disk larger, as a volume manager does. What is new holds fill.
func (d *Disk) Grow(n int64, fill byte) {
	old := d.size
	d.size += n
	if d.garble == old/sectorBytes { // it has no metadata
		d.garble = d.size / sectorBytes
	}
	d.durable.grow(n)
	d.current.grow(n)
	if fill != 0 {
		b := bytes.Repeat([]byte{fill}, int(n))
		d.durable.write(b, old)
		d.current.write(b, old)
	}
}

// Bytes returns a copy of what reads see.
func (d *Disk) Bytes() []byte {
	b := make([]byte, d.size)
	d.current.read(b, 0)
	return b
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.current.ReadAt(p, off) }

// WriteAt writes into the cache.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, io.ErrShortWrite
	}
	if isZero(p) {
		d.Zero(off, int64(len(p)))
		return len(p), nil
	}
	d.current.write(p, off)
	d.seq++
	data := bytes.Clone(p)
	for i := int64(0); i < int64(len(p)); i += sectorBytes {
		d.remember((off+i)/sectorBytes, data[i:min(i+sectorBytes, int64(len(p)))])
	}
	return len(p), nil
}

func (d *Disk) remember(sector int64, data []byte) {
	d.cache[sector] = append(d.cache[sector], version{d.seq, data})
	delete(d.latent, sector) // a write repairs
}

func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), chunkBytes)
		if !bytes.Equal(p[:n], zeroChunk[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

var zeroSector [sectorBytes]byte

// Zero makes a range read as zeroes.
func (d *Disk) Zero(off, n int64) {
	d.current.zero(off, n)
	d.seq++
	for s := off / sectorBytes; s*sectorBytes < off+n; s++ {
		if len(d.cache) == 0 && d.durable.chunks[s*sectorBytes/chunkBytes] == nil {
			s |= chunkBytes/sectorBytes - 1 // nothing there, nothing to remember
			continue
		}
		if len(d.cache[s]) > 0 || !d.durable.isZero(s*sectorBytes, sectorBytes) {
			d.remember(s, zeroSector[:])
		}
	}
}

// Flush makes everything durable.
func (d *Disk) Flush() error { d.flush(d.seq, nil); return nil }

// flush makes durable what was complete when the flush was issued, and by chance
// what has come since.
func (d *Disk) flush(upTo uint64, rng *rand.Rand) {
	all := rng == nil || upTo == d.seq || rng.IntN(2) == 0
	for s, list := range d.cache {
		keep := len(list)
		for !all && keep > 0 && list[keep-1].seq > upTo {
			keep--
		}
		if keep == 0 {
			continue
		}
		d.durable.write(list[keep-1].data, s*sectorBytes)
		if keep == len(list) {
			delete(d.cache, s)
		} else {
			d.cache[s] = list[keep:]
		}
	}
}

// persist makes a range durable: a write with FUA.
func (d *Disk) persist(off, n int64) {
	for s := off / sectorBytes; s*sectorBytes < off+n; s++ {
		if list := d.cache[s]; len(list) > 0 {
			d.durable.write(list[len(list)-1].data, s*sectorBytes)
			delete(d.cache, s)
		}
	}
}

// Crash loses the power: of every sector that is not durable some content stays that
// it had since it was, or in the data area, garbage.
func (d *Disk) Crash(rng *rand.Rand) {
	mode := rng.IntN(4) // nothing stays, everything, some, some and garbage
	for _, s := range slices.Sorted(maps.Keys(d.cache)) {
		list := d.cache[s]
		k := -1
		switch mode {
		case 1:
			k = len(list) - 1
		case 2, 3:
			k = rng.IntN(len(list)+1) - 1
		}
		if mode == 3 && s < d.garble && rng.IntN(8) == 0 {
			var b [sectorBytes]byte
			stamp(b[:], garbageID|rng.Uint64(), uint64(s))
			d.durable.write(b[:], s*sectorBytes)
			continue
		}
		if k >= 0 {
			d.durable.write(list[k].data, s*sectorBytes)
		}
	}
	clear(d.cache)
	d.held, d.Frozen = nil, false
	d.current = d.durable.clone()
}

// whatIf returns the disk as a crash now would leave it.
func (d *Disk) whatIf(rng *rand.Rand) *Disk {
	c := &Disk{size: d.size, durable: d.durable.clone(), cache: maps.Clone(d.cache), garble: d.garble, latent: map[int64]struct{}{}}
	c.Crash(rng)
	return c
}

// healthy ends all faults but bad sectors, which a write repairs.
func (d *Disk) healthy() {
	d.FailReads, d.FailWrites, d.FailMeta, d.Full, d.Slow = false, false, false, false, 0
	clear(d.latent)
}

// thaw lets a frozen disk go on.
func (d *Disk) thaw() {
	d.Frozen = false
	held := d.held
	d.held = nil
	for _, fn := range held {
		fn()
	}
}

// unreadable reports whether a range has a bad sector.
func (d *Disk) unreadable(off, n int64) bool {
	if len(d.latent) == 0 {
		return false
	}
	for s := off / sectorBytes; s*sectorBytes < off+n; s++ {
		if _, bad := d.latent[s]; bad {
			return true
		}
	}
	return false
}

// noRoom reports whether a write needs space that a full disk does not have.
func (d *Disk) noRoom(off, n int64) bool { return d.Full && d.current.missing(off, n) }
