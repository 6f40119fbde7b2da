// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// intervals orders what touches the same blocks of a volume: two entries that
// overlap, at least one of them a write, run one after the other. The own ones do
// so in the order in which they arrived; an application write stays from its
// admission to its completion, so that overlapping writes are never in flight
// together (spec: wire 8.5). What the peer sends takes effect in the order of its
// data stream, which is what makes a resync block and a mirrored write to the same
// place come out right whichever comes first.
//
// Between the two sides: what the peer sends never waits for an own request that
// has not begun, and an own request waits for everything of the peer's that is
// here. So nothing of the peer's waits for something that in turn waits for the
// peer, and no order of two Primaries' requests ends in a deadlock.
//
//	arrival order ->  [W 0..8 running] [R 64..72 running] [W 4..12 waits] [W 0..8 waits]
type intervals struct {
	v          *volume
	head, tail *interval
	nWaiting   int
	waking     bool
	again      bool
	low, high  uint64 // sectors that have become free while waking
}

// interval is one entry, embedded in what it stands for.
type interval struct {
	from, to   uint64 // sectors, half-open
	write      bool
	waiting    bool
	linked     bool
	hold       bool // a block of an online verify: it is in the way of own writes only
	prev, next *interval
	run        func(*Core, *interval) // called when its turn comes; a package function
	req        *request
	peer       *peerReq
}

// add appends an entry and reports whether it may start at once; if not, its
// run is called later.
func (l *intervals) add(i *interval) bool {
	i.prev, i.next, i.linked = l.tail, nil, true
	if l.tail != nil {
		l.tail.next = i
	} else {
		l.head = i
	}
	l.tail = i
	i.waiting = l.blocked(i)
	if i.waiting {
		l.nWaiting++
	}
	return !i.waiting
}

// follow inserts the second part of a running entry that was shortened: it keeps the
// place of the whole, and may start at once.
func (l *intervals) follow(i, rest *interval) {
	rest.prev, rest.next, rest.linked = i, i.next, true
	if i.next != nil {
		i.next.prev = rest
	} else {
		l.tail = rest
	}
	i.next = rest
}

// blocked reports whether another entry is in the way of i.
func (l *intervals) blocked(i *interval) bool {
	before := true
	for o := l.head; o != nil; o = o.next {
		if o == i {
			before = false
			continue
		}
		if o.conflicts(i) && i.yields(o, before) {
			return true
		}
	}
	if i.req != nil && i.write && (l.v.stopped() || l.v.lettingGo()) {
		return true // something has to be durable first, or to be known, or I/O is suspended
	}
	// Blocks that this node, as Primary and sync target, has asked for are about
	// to be overwritten: an own write waits until they are here.
	if i.write && i.req != nil {
		for _, pd := range l.v.pds {
			if pd.resync.requested(i.from, i.to) {
				return true
			}
		}
	}
	return false
}

// conflicts reports whether two entries must not run at the same time.
func (i *interval) conflicts(o *interval) bool {
	return o.from < i.to && i.from < o.to && (o.write || i.write)
}

// yields reports whether i has to wait for o, which overlaps it and arrived before
// it or not.
func (i *interval) yields(o *interval, before bool) bool {
	if o.hold && (i.peer != nil || i.req.postponed) {
		return false // the block is read when these are done: see verifyPump
	}
	peerRead := i.peer != nil && !i.write
	if o.waiting || o.req != nil && o.write && !o.req.issued {
		switch {
		case o.req != nil && o.req.postponed && peerRead:
			return true // part of it may be on the disk, and it is to come later
		case o.peer != nil && !o.write:
			return i.peer == nil && !i.req.postponed // nothing waits for a read that waits, or there were circles
		case i.peer != nil:
			return before && o.peer != nil
		}
		return before || o.peer != nil
	}
	if peerRead && o.req != nil && i.peer.cmd != protocol.CmdDataRequest {
		// A block of a resync is what is on the disk. An own write that is there and
		// waits for the peer was sent, too: the peer gets it first. But what an
		// application there has read must not be gone if this node crashes now, nor
		// be hidden behind the write if that waits for its turn there.
		return o.req.local == partPending || o.req.lost || o.req.mayRetry && o.req.net == partPending
	}
	return true
}

// wait puts a running entry back to waiting.
func (l *intervals) wait(i *interval) {
	i.waiting = true
	l.nWaiting++
}

// remove takes an entry out and wakes those that waited for it.
func (l *intervals) remove(i *interval) {
	if !i.linked {
		return
	}
	if i.prev != nil {
		i.prev.next = i.next
	} else {
		l.head = i.next
	}
	if i.next != nil {
		i.next.prev = i.prev
	} else {
		l.tail = i.prev
	}
	i.prev, i.next, i.linked = nil, nil, false
	if i.waiting {
		i.waiting = false
		l.nWaiting--
	}
	l.wakeRange(i.from, i.to)
}

// wake starts the entries that nothing is in the way of any more.
func (l *intervals) wake() { l.wakeRange(0, ^uint64(0)) }

// wakeRange is wake for entries that touch a range. Many may wait elsewhere, for the
// blocks of a verify above all.
func (l *intervals) wakeRange(from, to uint64) {
	if l.nWaiting == 0 {
		return
	}
	if l.waking {
		l.again, l.low, l.high = true, min(l.low, from), max(l.high, to)
		return
	}
	l.waking, l.low, l.high = true, from, to
	for l.again = true; l.again; {
		l.again = false
		for i := l.head; i != nil; i = i.next {
			if i.waiting && i.from < l.high && l.low < i.to && !l.blocked(i) {
				i.waiting = false
				l.nWaiting--
				i.run(l.v.c, i)
				l.again = true // run may have changed the list
				break
			}
		}
	}
	l.waking = false
}

// rival finds the own writes under way that the peer's write i meets: sent, and not
// answered. It reports whether there is one, and whether one contains all of i.
func (l *intervals) rival(from, to uint64) (meets, inside bool) {
	for o := l.head; o != nil; o = o.next {
		if o.from < to && from < o.to && o.req != nil && o.write && !o.waiting && o.req.net == partPending {
			meets = true
			inside = inside || o.from <= from && to <= o.to
		}
	}
	return meets, inside
}

// underWay reports whether there is an entry, other than own requests that wait. Those may
// wait for what does not happen while the disk leaves.
func (l *intervals) underWay() bool {
	for o := l.head; o != nil; o = o.next {
		if !o.waiting || o.req == nil {
			return true
		}
	}
	return false
}

// overlapsWrite reports whether a write in the list, running or waiting, touches
// the range.
func (l *intervals) overlapsWrite(from, to uint64) bool {
	for o := l.head; o != nil; o = o.next {
		if o.write && o.from < to && from < o.to {
			return true
		}
	}
	return false
}
