// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Applications write where the Primary is; with reckless administrators, where any is.
func (r *Run) applicationOn(a *rand.Rand) *Node {
	if !r.cfg.Reckless {
		if n := r.writer; n != nil && n.core != nil {
			return n
		}
		return nil
	}
	first := a.IntN(2)
	for i := range 2 {
		n := r.Nodes[(first+i)%2]
		if s, up := n.State(0); up && s.Role == protocol.Primary {
			return n
		}
	}
	return nil
}

// room is the size of a volume in sectors; 0 if nothing can be written.
func (n *Node) room(vol int) uint64 {
	if n == nil || n.core == nil || n.core.Size(vol) < 512 {
		return 0
	}
	return n.core.Size(vol)
}

// submit writes one range: data, zeroes or a discard.
func (r *Run) submit(n *Node, vol int, from, length uint64, kind core.IOKind, fua bool, then func(error)) {
	if n.core == nil {
		return
	}
	book, boot := r.books[vol], n.boot
	w, data := book.begin(from, from+length, kind != core.IOWrite, fua)
	r.Figures.Writes++
	if vol == 0 {
		r.reads.wrote(w, r.now)
	}
	io := &core.IO{Kind: kind, Volume: vol, Off: int64(from) * sectorBytes, Len: int64(length) * sectorBytes, Buf: data, FUA: fua}
	r.tracef("%d write %d: volume %d, sectors %d to %d, zero %v, fua %v", n.idx, w.id, vol, w.from, w.to, w.zero, fua)
	other := r.other(n)
	failures := other.powerFailures
	n.IO(io, func(err error) {
		r.tracef("%d write %d: %v", n.idx, w.id, err)
		if _, live := book.live[w]; !live || n.boot != boot {
			return
		}
		if err != nil {
			book.failed(w)
			if vol == 0 {
				r.reads.failed(w, book)
			}
		} else {
			book.done(w)
			r.alone(n, vol, w, other.powerFailures != failures)
			if vol == 0 {
				r.reads.answered(w, r.now)
			}
		}
		if then != nil {
			then(err)
		}
	})
}

// burst writes and reads here and there, often overlapping.
func (r *Run) burst(a *rand.Rand) {
	n := r.applicationOn(a)
	for range 1 + a.IntN(8) {
		vol := a.IntN(r.cfg.Volumes)
		size := n.room(vol)
		if size == 0 {
			return
		}
		length := uint64(1 + a.IntN(16))
		if a.IntN(10) == 0 {
			length = uint64(1 + a.IntN(256))
		}
		from := a.Uint64N(min(size, 2048) - length)
		if a.IntN(3) == 0 {
			from = a.Uint64N(watchedSectors) // a hot spot
		}
		kind := core.IOWrite
		if a.IntN(20) == 0 {
			kind = core.IOZero
		}
		if a.IntN(8) == 0 {
			r.read(n, vol, from, length)
		} else {
			r.submit(n, vol, from, length, kind, a.IntN(10) == 0 && kind == core.IOWrite, nil)
		}
	}
}

// scan writes one block after the other, each when the last was acknowledged.
func (r *Run) scan(a *rand.Rand) {
	n := r.applicationOn(a)
	size := n.room(0)
	if size == 0 {
		return
	}
	from, length := a.Uint64N(min(size, 2048)-256), uint64(1+a.IntN(16))
	left := 1 + a.IntN(10)
	var next func(error)
	next = func(err error) {
		if left--; left < 0 || err != nil || r.still {
			return
		}
		r.after(0, func() {
			if n.core != nil && (r.cfg.Reckless || r.writer == n) {
				from += length
				r.submit(n, 0, from-length, length, core.IOWrite, false, next)
			}
		})
	}
	next(nil)
}

// database writes a log entry, flushes, and then writes pages: over and over.
func (r *Run) database(a *rand.Rand) {
	n := r.applicationOn(a)
	if n.room(0) == 0 {
		return
	}
	left := 1 + a.IntN(4)
	var commit func()
	commit = func() {
		if left--; left < 0 || n.core == nil || r.still || !r.cfg.Reckless && r.writer != n {
			return
		}
		r.submit(n, 0, a.Uint64N(16), 1, core.IOWrite, a.IntN(2) == 0, func(err error) {
			if err != nil {
				return
			}
			r.flushOn(n, 0, func() {
				for range 1 + a.IntN(4) {
					r.submit(n, 0, 8+8*a.Uint64N(100), 8, core.IOWrite, false, nil)
				}
				r.after(0, commit)
			})
		})
	}
	commit()
}

// hop writes a little in many extents of the activity log.
func (r *Run) hop(a *rand.Rand) {
	n := r.applicationOn(a)
	size := n.room(0)
	extents := size / activitylog.ExtentSectors
	if extents < 2 {
		return
	}
	for range 1 + a.IntN(30) {
		from := a.Uint64N(extents)*activitylog.ExtentSectors + a.Uint64N(4)*8
		if a.IntN(10) == 0 && from >= activitylog.ExtentSectors {
			from -= 8 // over a border
		}
		r.submit(n, 0, from, uint64(1+a.IntN(24)), core.IOWrite, false, nil)
	}
}

func (r *Run) discard(a *rand.Rand) {
	n := r.applicationOn(a)
	size := n.room(0)
	if size == 0 {
		return
	}
	length := uint64(1 + a.IntN(512))
	kind := core.IODiscard
	if a.IntN(2) == 0 {
		kind = core.IOZero
	}
	r.submit(n, 0, a.Uint64N(min(size, 2048)-length), length, kind, false, nil)
}

func (r *Run) readSome(a *rand.Rand) {
	n := r.applicationOn(a)
	for range 1 + a.IntN(4) {
		vol := a.IntN(r.cfg.Volumes)
		size := n.room(vol)
		if size == 0 {
			return
		}
		length := uint64(1 + a.IntN(32))
		from := a.Uint64N(min(size, 2048) - length)
		if a.IntN(2) == 0 {
			from = a.Uint64N(watchedSectors)
		}
		r.read(n, vol, from, length)
	}
}

// read checks what the application sees: the last acknowledged write, or one that is
// under way.
func (r *Run) read(n *Node, vol int, from, length uint64) {
	if n.core == nil {
		return
	}
	// What was acknowledged or under way when the read began, or has been
	// submitted since, it may see.
	book, began, at := r.books[vol], r.ids, r.now
	before := make([]map[uint64]bool, length)
	for i := range before {
		s := from + uint64(i)
		before[i] = map[uint64]bool{book.acked[s].content(): true}
		for w := range book.maybe[s] {
			before[i][w.content()] = true
		}
	}
	r.Figures.Reads++
	io := &core.IO{Kind: core.IORead, Volume: vol, Off: int64(from) * sectorBytes, Len: int64(length) * sectorBytes, Buf: make([]byte, length*sectorBytes)}
	n.IO(io, func(err error) {
		if err != nil || r.cfg.Reckless || r.unproved {
			return
		}
		for s := from; s < from+length; s++ {
			b := io.Buf[(s-from)*sectorBytes:][:sectorBytes]
			id, err := idOf(b, s)
			if err == nil && vol == 0 && id&garbageID == 0 {
				r.reads.read(s, id, at, r.now)
			}
			if err == nil && (before[s-from][id] || id > began || id == 0 && book.zeroedSince(s, began)) {
				continue
			}
			if err := book.holds(s, b); err != nil {
				r.failf("node %d reads volume %d: %v", n.idx, vol, err)
			}
		}
	})
}

func (r *Run) flush(a *rand.Rand) {
	if n := r.applicationOn(a); n != nil {
		r.flushOn(n, a.IntN(r.cfg.Volumes), nil)
	}
}

func (r *Run) flushOn(n *Node, vol int, then func()) {
	if n.core == nil {
		return
	}
	r.Figures.Flushes++
	book, acks, boot := r.books[vol], r.books[vol].acks, n.boot
	n.IO(&core.IO{Kind: core.IOFlush, Volume: vol}, func(err error) {
		r.tracef("%d flush of volume %d, after %d acknowledgements: %v", n.idx, vol, acks, err)
		if err != nil || n.boot != boot || !r.cfg.Reckless && r.writer != n {
			return
		}
		book.flushed(acks)
		if then != nil {
			then()
		}
	})
}
