// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// oracle knows what every sector of a volume may hold. Every write has a number,
// which is in each sector that it writes, so that a sector's content names its
// write.
//
// What a sector may hold are its live versions: the last acknowledged write, and
// writes that were under way at the same time or were never answered. When a write
// is acknowledged, it retires the versions whose writes had ended before it began.
//
//	begun    ended
//	  |--A-----|                     retired by B: it ended before B began
//	              |--B-----|         live, acknowledged
//	                   |--C------|   live: beside B, nobody knows which of the two came last
//
// A power cut takes from a disk what no flush has covered. If that node's copy is
// what counts from then on, retired versions come back to life, except those that
// were retired before a flush of that node began (Flush), and those below a write
// with force unit access.
//
// All methods are safe for concurrent use.
type oracle struct {
	mu      sync.Mutex
	clock   uint64
	next    uint64
	sectors [][]version
	lives   [2]uint64 // how often a node has died
	flushed [2]uint64 // when the last flush of a node that succeeded began
	acked   int
}

// written is a write. Times are the oracle's clock.
type written struct {
	id           uint64 // 0 for zeroes
	by           user
	from, to     int64  // sectors
	begun, ended uint64 // ended: 0 while it is under way
}

// version is a write as one sector sees it.
type version struct {
	w       *written
	retired uint64  // 0: the sector may hold it
	never   [2]bool // it cannot come back on this node
}

func newOracle(size int64) *oracle {
	o := &oracle{clock: 1, sectors: make([][]version, size/metadata.SectorSize)}
	zeroes := &written{to: int64(len(o.sectors)), ended: 1}
	for s := range o.sectors {
		o.sectors[s] = []version{{w: zeroes}}
	}
	return o
}

// user is somebody who uses a node as long as it lives.
type user struct {
	node int
	life uint64
}

// user returns a user of a node in its present life.
func (o *oracle) user(node int) user {
	o.mu.Lock()
	defer o.mu.Unlock()
	return user{node, o.lives[node]}
}

// alive reports whether the user's node has not died. An answer to a dead one does
// not count: from a real machine it would not have come.
func (o *oracle) alive(u user) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lives[u.node] == u.life
}

// begin notes a write of sectors. data is to be filled with stamps, or
// nil for zeroes.
func (o *oracle) begin(by user, from, to int64, data []byte) *written {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	w := &written{by: by, from: from, to: to, begun: o.clock}
	if data != nil {
		o.next++
		w.id = o.next
		for s := from; s < to; s++ {
			stamp(data[(s-from)*metadata.SectorSize:][:metadata.SectorSize], w.id, s)
		}
	}
	for s := from; s < to; s++ {
		o.sectors[s] = append(o.sectors[s], version{w: w})
	}
	return w
}

func stamp(b []byte, id uint64, sector int64) {
	for i := 0; i < len(b); i += 16 {
		binary.BigEndian.PutUint64(b[i:], id)
		binary.BigEndian.PutUint64(b[i+8:], uint64(sector))
	}
}

// end notes the end of a write.
func (o *oracle) end(w *written, ok, fua bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	w.ended = o.clock
	if !ok || w.by.life != o.lives[w.by.node] {
		return
	}
	o.acked++
	for s := w.from; s < w.to; s++ {
		for i := range o.sectors[s] {
			v := &o.sectors[s][i]
			if v.w.ended == 0 || v.w.ended >= w.begun {
				continue
			}
			if v.retired == 0 {
				v.retired = o.clock
			}
			v.never[w.by.node] = v.never[w.by.node] || fua
		}
	}
}

// flush performs a flush.
func (o *oracle) flush(by user, do func() error) error {
	o.mu.Lock()
	o.clock++
	began := o.clock
	o.mu.Unlock()
	err := do()
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil && by.life == o.lives[by.node] {
		o.flushed[by.node] = max(o.flushed[by.node], began)
	}
	return err
}

// die notes the death of a node.
func (o *oracle) die(node int) {
	o.mu.Lock()
	o.lives[node]++
	o.mu.Unlock()
}

// powerCut notes that a node whose copy counts has lost what it had not flushed.
func (o *oracle) powerCut(node int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, versions := range o.sectors {
		for i := range versions {
			if v := &versions[i]; v.retired > o.flushed[node] && !v.never[node] {
				v.retired = 0
			}
		}
	}
}

// now returns the time, for check.
func (o *oracle) now() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.clock
}

// check compares sectors from first on with what they may have held at some time
// since then.
func (o *oracle) check(first int64, data []byte, since uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := 0; i < len(data); i += metadata.SectorSize {
		if err := o.checkSector(first+int64(i/metadata.SectorSize), data[i:i+metadata.SectorSize], since); err != nil {
			return err
		}
	}
	return nil
}

func (o *oracle) checkSector(sector int64, b []byte, since uint64) error {
	id, at := binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))
	for i := 16; i < len(b); i += 16 {
		if binary.BigEndian.Uint64(b[i:]) != id || int64(binary.BigEndian.Uint64(b[i+8:])) != at {
			return fmt.Errorf("sector %d is torn", sector)
		}
	}
	if id != 0 && at != sector || id == 0 && at != 0 {
		return fmt.Errorf("sector %d holds data of sector %d", sector, at)
	}
	for _, v := range o.sectors[sector] {
		if v.w.id == id && (v.retired == 0 || v.retired > since) {
			return nil
		}
	}
	return fmt.Errorf("sector %d holds write %d; flushes at %d; since %d it may hold:%s", sector, id, o.flushed, since, o.describe(sector))
}

// describe lists the versions of a sector.
func (o *oracle) describe(sector int64) string {
	var b []byte
	for _, v := range o.sectors[sector] {
		b = fmt.Appendf(b, " write %d by node %d (%d to %d", v.w.id, v.w.by.node, v.w.begun, v.w.ended)
		if v.retired != 0 {
			b = fmt.Appendf(b, ", retired %d", v.retired)
		}
		if v.never[0] || v.never[1] {
			b = fmt.Appendf(b, ", never again %v", v.never)
		}
		b = append(b, ')')
	}
	return string(b)
}
