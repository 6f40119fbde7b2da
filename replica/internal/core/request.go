// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// request is an application request in progress. It outlives its IO: a mirrored
// write stays in the transfer log until the peer has acknowledged its epoch, to be
// marked out of sync if that never happens (spec: behaviour 5.2, 5.6).
type request struct {
	io     *IO // nil once completed to the application
	v      *volume
	kind   IOKind
	sector uint64
	size   uint32 // bytes
	fua    bool
	unmap  bool
	buf    []byte

	id    protocol.BlockID
	slot  uint32
	gen   uint32
	since time.Duration // when it was sent

	local     partState
	net       partState
	err       error // of the local part
	wantRecv  bool  // completion waits for P_RECV_ACK
	wantAck   bool  // completion waits for P_WRITE_ACK
	mayClear  bool  // sent with MAY_SET_IN_SYNC
	cleared   bool  // the peer answered P_RS_WRITE_ACK: in sync once the own part is written too
	flying    bool  // counted in the peer device's inFlight
	remote    bool  // a read that was sent to the peer
	frozen    bool  // complete, but held back by a gate or suspended I/O
	stable    bool  // completion waits for P_BARRIER_ACK: on the peer's disk, durable
	issued    bool  // a write that was given to the peer or the disk
	peerGood  bool  // the peer's disk was UpToDate when it was sent
	mayRetry  bool  // sent to a node that decides conflicts
	lost      bool  // a conflict: it goes out once more when its local part has ended
	postponed bool  // it has lost a conflict, now or before
	era       uint64
	pins      int // segments that still refer to buf

	epoch *txEpoch // of a mirrored write, until its barrier is acknowledged
	pd    *peerDevice
	al    alHold
	iv    interval

	next *request // free list, or the epoch's list
}

// writes reports whether it writes to one of the sectors [from, to).
func (r *request) writes(from, to uint64) bool {
	return r.kind != IORead && r.sector < to && from < r.sector+uint64(r.size)/512
}

// partState is how far one part of a request, the local or the peer's, has come.
type partState uint8

const (
	partNone partState = iota // there is no such part
	partPending
	partOK
	partFailed
)

// requestTable finds a request by the block_id that a peer sends back. An id names
// a slot and a generation, so that a stale or invented one finds nothing. It is
// never all ones, which means ID_SYNCER (spec: wire 3.1).
type requestTable struct {
	slots []*request
	gens  []uint32
	free  []uint32
}

func (t *requestTable) add(r *request) {
	if n := len(t.free); n > 0 {
		r.slot, t.free = t.free[n-1], t.free[:n-1]
	} else {
		r.slot = uint32(len(t.slots))
		t.slots, t.gens = append(t.slots, nil), append(t.gens, 0)
	}
	t.gens[r.slot]++
	r.gen = t.gens[r.slot]
	t.slots[r.slot] = r
	r.id = protocol.BlockID(r.slot)<<32 | protocol.BlockID(r.gen)
}

func (t *requestTable) find(id protocol.BlockID) *request {
	slot, gen := uint64(id)>>32, uint32(id)
	if slot >= uint64(len(t.slots)) {
		return nil
	}
	if r := t.slots[slot]; r != nil && r.gen == gen {
		return r
	}
	return nil
}

func (t *requestTable) remove(r *request) {
	t.slots[r.slot] = nil
	t.free = append(t.free, r.slot)
}

// live iterates over the requests in progress.
func (t *requestTable) live() func(func(int, *request) bool) {
	return func(yield func(int, *request) bool) {
		for i, r := range t.slots {
			if r != nil && !yield(i, r) {
				return
			}
		}
	}
}

func (c *Core) newRequest() *request {
	r := c.freeReq
	if r == nil {
		r = &request{}
	} else {
		c.freeReq = r.next
		*r = request{}
	}
	c.requests.add(r)
	return r
}

func (c *Core) freeRequest(r *request) {
	c.requests.remove(r)
	r.io, r.buf, r.v, r.pd, r.epoch = nil, nil, nil, nil, nil
	r.al, r.iv = alHold{}, interval{}
	r.next, c.freeReq = c.freeReq, r
}

// ioQueue is a queue of application requests.
type ioQueue struct{ head, tail *IO }

func (q *ioQueue) push(io *IO) {
	io.next = nil
	if q.tail == nil {
		q.head = io
	} else {
		q.tail.next = io
	}
	q.tail = io
}

func (q *ioQueue) remove(io *IO) bool {
	var prev *IO
	for i := q.head; i != nil; prev, i = i, i.next {
		if i != io {
			continue
		}
		if prev == nil {
			q.head = i.next
		} else {
			prev.next = i.next
		}
		if q.tail == i {
			q.tail = prev
		}
		i.next = nil
		return true
	}
	return false
}
