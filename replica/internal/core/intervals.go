// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

// intervals orders what touches the same blocks of a volume: two entries that
// overlap, at least one of them a write, run one after the other, in the order in
// which they arrived. An application write stays from its admission to its
// completion, so that overlapping writes are never in flight together (spec: wire
// 8.5); what the peer sends takes effect in the order of its data stream, which
// is what makes a resync block and a mirrored write to the same place come out
// right whichever comes first.
//
//	arrival order ->  [W 0..8 running] [R 64..72 running] [W 4..12 waits] [W 0..8 waits]
type intervals struct {
	v          *volume
	head, tail *interval
	nWaiting   int
	waking     bool
	again      bool
}

// interval is one entry, embedded in what it stands for.
type interval struct {
	from, to   uint64 // sectors, half-open
	write      bool
	waiting    bool
	linked     bool
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

// blocked reports whether an earlier entry is in the way of i.
func (l *intervals) blocked(i *interval) bool {
	for o := i.prev; o != nil; o = o.prev {
		if o.conflicts(i) && !i.overtakes(o) {
			return true
		}
	}
	for o := i.next; o != nil; o = o.next {
		if !o.waiting && o.conflicts(i) {
			return true // it has overtaken i
		}
	}
	if i.req != nil && i.write && l.v.stopped() {
		return true // something has to be durable first, or I/O is suspended
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

// overtakes reports whether i need not wait for the earlier o: a block that was asked
// for takes its place before an own write that has not begun, because that write
// waits for the block.
func (i *interval) overtakes(o *interval) bool {
	return o.waiting && o.req != nil && i.peer != nil && i.peer.resyncs()
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
	l.wake()
}

// wake starts the entries that nothing is in the way of any more.
func (l *intervals) wake() {
	if l.nWaiting == 0 {
		return
	}
	if l.waking {
		l.again = true
		return
	}
	l.waking = true
	for l.again = true; l.again; {
		l.again = false
		for i := l.head; i != nil; i = i.next {
			if i.waiting && !l.blocked(i) {
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
