// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import "fmt"

// TryHold references an extent for a write if it can. Of a hot extent that is all;
// for a cold one it also chooses the slot to change, the free or least recently used
// one, and queues the change for the next transaction. It takes constant time.
//
// An extent whose eviction is queued is taken back, and another one goes. An extent
// whose eviction is in flight, or may have reached the disk in a write that failed,
// counts as cold: it has to be logged again.
//
// It panics for Free, which is no extent.
func (l *Log) TryHold(e Extent) Hold {
	committed, pending := l.find(e)
	if pending >= 0 {
		l.ref(pending)
		return HoldPending
	}
	if l.reusable(committed) {
		switch {
		case l.starving:
			return HoldStarving
		case l.slots[committed].state == stable:
			l.use(committed)
			return HoldHot
		case l.idle.n > 0:
			l.takeBack(committed)
			return HoldHot
		}
	}
	if l.idle.n == 0 {
		l.starving = true
		return HoldFull
	}
	l.change(e)
	return HoldPending
}

// TryHoldRange references all extents from first to last, or none: a write that
// held some of its extents while it waits for the others could wait for a second
// one that does the same. The outcome is HoldPending if any extent is.
func (l *Log) TryHoldRange(first, last Extent) Hold {
	if first == last {
		return l.TryHold(first)
	}
	n := width(first, last)
	if n > uint64(len(l.slots)) {
		return HoldTooWide
	}
	if h, ok := l.rangeFits(first, last); !ok {
		return h
	}
	// The hot ones first, so that none of them is chosen to make room.
	outcome := HoldHot
	for k, e := n, first; k > 0; k, e = k-1, e+1 {
		committed, pending := l.find(e)
		switch {
		case pending >= 0:
			l.ref(pending)
			outcome = HoldPending
		case committed >= 0 && l.slots[committed].state == stable:
			l.use(committed)
		}
	}
	for k, e := n, first; k > 0; k, e = k-1, e+1 {
		committed, pending := l.find(e)
		switch {
		case pending >= 0 || committed >= 0 && l.slots[committed].state == stable:
			// Held by the first pass.
		case l.reusable(committed):
			l.takeBack(committed)
		default:
			l.change(e)
			outcome = HoldPending
		}
	}
	return outcome
}

// rangeFits reports whether all extents from first to last can be referenced now,
// or why not.
func (l *Log) rangeFits(first, last Extent) (Hold, bool) {
	need, free := 0, l.idle.n
	for k, e := width(first, last), first; k > 0; k, e = k-1, e+1 {
		committed, pending := l.find(e)
		switch {
		case pending >= 0:
		case l.reusable(committed) && l.starving:
			return HoldStarving, false
		case committed >= 0 && l.slots[committed].state == stable:
			if l.slots[committed].refs == 0 {
				free-- // not to be had for the others
			}
		default:
			need++
		}
	}
	if need > free {
		l.starving = true
		return HoldFull, false
	}
	return HoldHot, true
}

// Release gives one reference back. A change that nobody needs any more is dropped
// if it is not in flight and never was. It panics if the extent has no reference.
func (l *Log) Release(e Extent) {
	i := l.holder(e)
	if i < 0 || l.slots[i].refs == 0 {
		panic(fmt.Sprintf("activitylog: release of extent %d, which is not held", e))
	}
	s := &l.slots[i]
	s.refs--
	if s.refs > 0 {
		return
	}
	l.referenced--
	if l.referenced == 0 {
		l.starving = false // every slot can be had: nobody starves
	}
	switch s.state {
	case stable:
		l.pushFront(&l.idle, i)
	case queued:
		l.dropChange(i)
		l.pushBack(&l.idle, i)
	}
}

// ReleaseRange gives back what TryHoldRange took.
func (l *Log) ReleaseRange(first, last Extent) {
	for k, e := width(first, last), first; k > 0; k, e = k-1, e+1 {
		l.Release(e)
	}
}

func width(first, last Extent) uint64 {
	if last < first || last == Free {
		panic(fmt.Sprintf("activitylog: no extents from %d to %d", first, last))
	}
	return uint64(last-first) + 1
}

// find returns the slot that has e as committed and the one that has it as pending
// extent, or -1. At most one of each exists; both exist while e is evicted from one
// slot and on its way into another.
func (l *Log) find(e Extent) (committed, pending int32) {
	if e == Free {
		panic("activitylog: the free mark is not an extent")
	}
	committed, pending = -1, -1
	for n := l.index.first(e); n >= 0; n = l.index.next[n] {
		s := &l.slots[n>>1]
		if n&1 == 0 && s.committed == e {
			committed = n >> 1
		} else if n&1 == 1 && s.pending == e {
			pending = n >> 1
		}
	}
	return committed, pending
}

// holder returns the slot that counts the references to e, or -1. The references
// of a changing slot belong to its pending extent.
func (l *Log) holder(e Extent) int32 {
	committed, pending := l.find(e)
	if pending >= 0 {
		return pending
	}
	if committed >= 0 && l.slots[committed].state != stable {
		return -1
	}
	return committed
}

// reusable reports whether a slot's committed extent is hot on disk for certain and
// in no transaction that evicts it.
func (l *Log) reusable(i int32) bool {
	return i >= 0 && l.slots[i].state <= queued
}

func (l *Log) ref(i int32) {
	s := &l.slots[i]
	if s.refs == 0 {
		l.referenced++
	}
	s.refs++
}

// use references the extent of a stable slot.
func (l *Log) use(i int32) {
	if l.slots[i].refs == 0 {
		l.remove(&l.idle, i)
	}
	l.ref(i)
}

// change queues e for the slot that is least missed.
func (l *Log) change(e Extent) {
	i := l.idle.tail
	l.remove(&l.idle, i)
	l.pushBack(&l.queue, i)
	l.slots[i].state = queued
	l.setPending(i, e)
	l.ref(i)
}

// takeBack makes the extent of a queued slot stable and referenced again. The
// change moves, with its references and its place in the queue, to another slot.
func (l *Log) takeBack(i int32) {
	v := l.idle.tail
	l.remove(&l.idle, v)
	l.replace(&l.queue, i, v)
	from, to := &l.slots[i], &l.slots[v]
	e := from.pending
	l.setPending(i, Free)
	l.setPending(v, e)
	to.state, to.refs = queued, from.refs
	from.state, from.refs = stable, 0
	l.ref(i)
}

// dropChange takes a slot's change off the queue; the caller says where it goes.
func (l *Log) dropChange(i int32) {
	l.remove(&l.queue, i)
	l.setPending(i, Free)
	l.slots[i].state = stable
}

func (l *Log) setPending(i int32, e Extent) {
	s := &l.slots[i]
	if s.pending != Free {
		l.index.remove(s.pending, i<<1|1)
	}
	s.pending = e
	if e != Free {
		l.index.add(e, i<<1|1)
	}
}

func (l *Log) setCommitted(i int32, e Extent) {
	s := &l.slots[i]
	if s.committed != Free {
		l.index.remove(s.committed, i<<1)
		l.hot--
	}
	s.committed = e
	if e != Free {
		l.index.add(e, i<<1)
		l.hot++
	}
}
