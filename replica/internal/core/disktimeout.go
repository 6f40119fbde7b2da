// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"math/bits"
	"time"
)

// A disk that does not answer (spec: behaviour 5.8, "disk-timeout"). When the oldest
// operation of a volume has taken too long, or the administrator insists on a detach,
// all of the volume's are abandoned: they count as failed, the disk is gone, and the
// application goes on over the peer.
//
//	issue ──► in the hands of the shell ──► OpDone: its result counts
//	              │ too late
//	              ▼
//	          abandoned: failed, as far as the core goes ──► OpDone: only its memory comes back
//
// The device may still carry out what was abandoned, in a second or in an hour. So an
// abandoned operation keeps its memory: nobody writes to what it may still read, nor reads
// what it may still write. Where that would be the application's buffer, which goes back
// to its owner, the operation works on a copy from the beginning. And a disk is not taken
// again before all of it has come back: until then it may write old data over new.
// What it has written by then lies in blocks that are marked: the own activity log, or
// the peer's bitmap, has them.

// opList is a list of operations in the order in which they were issued.
type opList struct{ head, tail *Op }

func (l *opList) add(o *Op) {
	o.before, o.after = l.tail, nil
	if l.tail == nil {
		l.head = o
	} else {
		l.tail.after = o
	}
	l.tail = o
}

func (l *opList) remove(o *Op) {
	if o.before == nil {
		l.head = o.after
	} else {
		o.before.after = o.after
	}
	if o.after == nil {
		l.tail = o.before
	} else {
		o.after.before = o.before
	}
	o.before, o.after = nil, nil
}

// memory is a kept stock of buffers for the copies that operations work on, by powers of
// two from 4 KiB to MaxIOBytes.
type memory struct {
	free [copyClasses][][]byte
	kept int // bytes in free
}

const (
	minCopyBits = 12
	copyClasses = 9
	keptCopies  = 8 << 20 // bytes
)

func copyClass(n int) int { return max(bits.Len(uint(max(n, 1)-1)), minCopyBits) - minCopyBits }

func (c *Core) getCopy(n int) []byte {
	k := copyClass(n)
	list := c.copies.free[k]
	if len(list) == 0 {
		size := 1 << (k + minCopyBits)
		if c.cfg.Memory == nil {
			return make([]byte, n, size)
		}
		return c.cfg.Memory(size)[:n]
	}
	b := list[len(list)-1]
	list[len(list)-1] = nil
	c.copies.free[k] = list[:len(list)-1]
	c.copies.kept -= cap(b)
	return b[:n]
}

func (c *Core) putCopy(b []byte) {
	if c.copies.kept+cap(b) > keptCopies {
		return
	}
	k := copyClass(cap(b))
	c.copies.free[k] = append(c.copies.free[k], b)
	c.copies.kept += cap(b)
}

// limit prepares an operation for being abandoned.
func (v *volume) limit(o *Op) {
	o.Limited = true
	if o.req == nil || o.Buf == nil {
		return
	}
	o.users = o.Buf
	o.Buf = v.c.getCopy(len(o.users))
	if o.Kind == OpWrite {
		copy(o.Buf, o.users)
	}
}

// unlimit ends what limit began, when the operation has come back.
func (v *volume) unlimit(o *Op) {
	if o.users == nil {
		return
	}
	if o.Kind == OpRead && o.Err == nil && !o.abandoned {
		copy(o.users, o.Buf)
	}
	v.c.putCopy(o.Buf)
	o.users = nil
}

// mayBeAbandoned: it has nothing of the application's.
func (o *Op) mayBeAbandoned() bool { return o.Limited || o.req == nil || o.Buf == nil }

// Abandoned reports whether the core does not wait for the operation any more. It is to be
// asked under the lock. The operation has to come back with OpDone all the same.
func (o *Op) Abandoned() bool { return o.abandoned }

// diskTimer is when the oldest operation has taken too long.
func (v *volume) diskTimer() timer {
	if v.cfg.DiskTimeout == 0 {
		return timer{}
	}
	for o := v.ops.head; o != nil; o = o.after {
		if o.Limited { // others were issued when there was no limit
			return timer{at: o.since + v.cfg.DiskTimeout, set: true}
		}
	}
	return timer{}
}

// standstill is how late a timer may be before it says more about this node than about
// the disk: that the process, or its machine, has stood still.
func (v *volume) standstill() time.Duration { return max(v.cfg.DiskTimeout/2, time.Second) }

// checkDisk abandons the operations of a disk that does not answer.
func (v *volume) checkDisk() {
	t := v.diskTimer()
	if !t.set || v.c.now < t.at {
		return
	}
	if v.c.now-t.at > v.standstill() {
		for o := v.ops.head; o != nil; o = o.after {
			o.since = v.c.now
		}
		return
	}
	o := v.ops.head
	for !o.Limited {
		o = o.after
	}
	err := fmt.Errorf("%w: %s has taken %v", ErrDiskTimeout, o.describe(), v.c.now-o.since)
	v.diskFailed(causeTimeout, "disk-timeout", err)
	v.abandon(err)
}

func (o *Op) describe() string {
	what := [...]string{"a read", "a write", "a flush", "a discard", "a write of zeroes"}[o.Kind]
	switch {
	case o.Kind == OpFlush:
	case o.Meta:
		what += fmt.Sprintf(" of %d bytes of metadata at %d", o.Len, o.Off)
	default:
		what += fmt.Sprintf(" of %d bytes at %d", o.Len, o.Off)
	}
	return what
}

// abandon takes every operation on the disk for failed that can be.
func (v *volume) abandon(err error) {
	last := v.ops.tail
	for o := v.ops.head; o != nil; {
		next, end := o.after, o == last
		if o.mayBeAbandoned() {
			v.abandonOp(o, err)
		}
		if end {
			break
		}
		o = next
	}
}

// abandonOp lets another operation fail in o's place. What the shell may be looking at
// just now, without the lock, stays as it is.
func (v *volume) abandonOp(o *Op, err error) {
	c := v.c
	s := c.op()
	s.Kind, s.Volume, s.Meta, s.Off, s.Len, s.IO = o.Kind, o.Volume, o.Meta, o.Off, o.Len, o.IO
	s.done, s.fn, s.req, s.peer, s.epoch, s.from, s.vol = o.done, o.fn, o.req, o.peer, o.epoch, o.from, o.vol
	s.Err = err
	if q := o.peer; q != nil && q.buf != nil {
		o.keep, q.buf = q.buf, nil
		o.keep.forget()
	}
	o.done, o.fn, o.req, o.peer, o.epoch, o.from = nil, nil, nil, nil, nil, nil
	o.abandoned = true
	v.hung++
	c.eff.Abandoned = append(c.eff.Abandoned, o)
	v.ops.remove(o)
	v.opsPending--
	c.conclude(s)
}

// reclaim takes an abandoned operation back from the shell.
func (c *Core) reclaim(o *Op) {
	o.vol.hung--
	o.keep.Release()
	o.keep = nil
	o.vol.unlimit(o)
	c.recycle(o)
}

// stillHung says why the disk cannot be taken again.
func (v *volume) stillHung() error {
	return fmt.Errorf("%w: it still has %d requests of the time before, and may write old data over new; wait until they have ended, or attach another disk", ErrHung, v.hung)
}
