// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import "math/bits"

// list is a doubly linked list of slots, threaded through their prev and next.
type list struct {
	head, tail int32
	n          int
}

var emptyList = list{head: -1, tail: -1}

func (l *Log) pushFront(q *list, i int32) {
	s := &l.slots[i]
	s.prev, s.next = -1, q.head
	if q.head >= 0 {
		l.slots[q.head].prev = i
	} else {
		q.tail = i
	}
	q.head = i
	q.n++
}

func (l *Log) pushBack(q *list, i int32) {
	s := &l.slots[i]
	s.prev, s.next = q.tail, -1
	if q.tail >= 0 {
		l.slots[q.tail].next = i
	} else {
		q.head = i
	}
	q.tail = i
	q.n++
}

func (l *Log) remove(q *list, i int32) {
	s := &l.slots[i]
	if s.prev >= 0 {
		l.slots[s.prev].next = s.next
	} else {
		q.head = s.next
	}
	if s.next >= 0 {
		l.slots[s.next].prev = s.prev
	} else {
		q.tail = s.prev
	}
	q.n--
}

// replace puts slot v, which is in no list, in the place of i.
func (l *Log) replace(q *list, i, v int32) {
	before := l.slots[i].prev
	l.remove(q, i)
	if before < 0 {
		l.pushFront(q, v)
		return
	}
	after := l.slots[before].next
	if after < 0 {
		l.pushBack(q, v)
		return
	}
	s := &l.slots[v]
	s.prev, s.next = before, after
	l.slots[before].next, l.slots[after].prev = v, v
	q.n++
}

// index finds slots by extent: chained hashing over arrays made once, so that the
// hot path allocates nothing and nothing depends on a random seed. Slot i has two
// nodes, 2i for its committed extent and 2i+1 for its pending one.
type index struct {
	heads []int32
	next  []int32
	shift uint8
}

func newIndex(slots int) index {
	size := bits.Len(uint(2*slots - 1)) // a power of two, at least as many as nodes
	return index{
		heads: make([]int32, 1<<size),
		next:  make([]int32, 2*slots),
		shift: uint8(32 - size),
	}
}

func (x *index) reset() {
	for i := range x.heads {
		x.heads[i] = -1
	}
}

func (x *index) bucket(e Extent) *int32 {
	return &x.heads[uint32(e)*0x9E3779B1>>x.shift]
}

func (x *index) first(e Extent) int32 { return *x.bucket(e) }

func (x *index) add(e Extent, node int32) {
	b := x.bucket(e)
	x.next[node] = *b
	*b = node
}

func (x *index) remove(e Extent, node int32) {
	for p := x.bucket(e); ; p = &x.next[*p] {
		if *p == node {
			*p = x.next[node]
			return
		}
	}
}
