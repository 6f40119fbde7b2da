// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"sync"
	"sync/atomic"
)

// poolQueue is the portable Queue: goroutines that call the device.
//
// Flushes are combined. One worker at a time flushes, on behalf of every op that
// waits for a flush when it begins; ops that come while it runs wait for the next
// one, without holding a worker:
//
//	submit -> waiting -> worker -> [flush group] -> main -> [flush group] -> Done
//	                                 PreFlush                 FUA
type poolQueue struct {
	performer
	max       int
	abandoned atomic.Bool

	mu      sync.Mutex
	work    sync.Cond // there is something in waiting, or the queue is closed
	quiet   sync.Cond // live reached 0
	waiting opList
	live    int // ops submitted or in Do whose Done has not returned
	workers int
	idle    int // workers that wait and were not signalled yet
	closed  bool

	flushing bool   // a worker is in dev.Flush
	group    opList // waits for the next flush
}

// opList is a first-in-first-out list linked through Op.next.
type opList struct{ head, tail *Op }

func (l *opList) push(op *Op) {
	op.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
}

func (l *opList) pop() *Op {
	op := l.head
	if l.head = op.next; l.head == nil {
		l.tail = nil
	}
	op.next = nil
	return op
}

// take empties the list and returns what was in it, still linked.
func (l *opList) take() *Op {
	head := l.head
	l.head, l.tail = nil, nil
	return head
}

// NewPoolQueue returns a queue of at most workers goroutines (at least 1) that call
// dev's methods: the portable kind, and the best for memory. On a disk, goroutines
// that wait in the kernel hold back others unless GOMAXPROCS exceeds the number of
// cores.
func NewPoolQueue(dev Device, workers int) Queue {
	q := &poolQueue{performer: newPerformer(dev), max: max(workers, 1)}
	q.work.L = &q.mu
	q.quiet.L = &q.mu
	return q
}

// Submit implements Queue.
func (q *poolQueue) Submit(op *Op) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		refuse(op)
		return
	}
	q.live++
	q.pushLocked(op)
	q.mu.Unlock()
}

// SubmitBatch implements Queue.
func (q *poolQueue) SubmitBatch(ops []*Op) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		for _, op := range ops {
			refuse(op)
		}
		return
	}
	q.live += len(ops)
	for _, op := range ops {
		q.pushLocked(op)
	}
	q.mu.Unlock()
}

// refuse ends an op that came after Close.
func refuse(op *Op) {
	op.Err = ErrClosed
	if op.Done != nil {
		op.Done(op)
	}
}

// pushLocked gives op to a worker: an idle one, or a new one if there may be more.
func (q *poolQueue) pushLocked(op *Op) {
	q.waiting.push(op)
	switch {
	case q.idle > 0:
		q.idle--
		q.work.Signal()
	case q.workers < q.max:
		q.workers++
		go q.worker()
	}
}

// Do implements Queue.
func (q *poolQueue) Do(op *Op) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		refuse(op)
		return
	}
	q.live++
	q.mu.Unlock()
	if q.abandoned.Load() {
		q.finish(op, ErrAbandoned)
		return
	}
	q.finish(op, q.all(op))
}

// Abandon implements Queue.
func (q *poolQueue) Abandon() { q.abandoned.Store(true) }

// Close implements Queue.
func (q *poolQueue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	q.closed = true
	q.wakeAllLocked()
	for q.live > 0 || q.workers > 0 {
		q.quiet.Wait()
	}
	return nil
}

func (q *poolQueue) wakeAllLocked() {
	q.idle = 0
	q.work.Broadcast()
}

// worker performs ops until the queue is closed and empty.
func (q *poolQueue) worker() {
	q.mu.Lock()
	for {
		for q.waiting.head == nil && !(q.closed && q.live == 0) {
			q.idle++
			q.work.Wait() // whoever wakes it takes it off idle
		}
		if q.waiting.head == nil {
			break
		}
		op := q.waiting.pop()
		q.mu.Unlock()
		q.step(op)
		q.mu.Lock()
	}
	if q.workers--; q.workers == 0 {
		q.quiet.Broadcast()
	}
	q.mu.Unlock()
}

// step takes op as far as it gets without waiting for another op's flush.
func (q *poolQueue) step(op *Op) {
	for {
		if q.abandoned.Load() {
			q.finish(op, ErrAbandoned)
			return
		}
		if op.stage == stageFUA || op.stage == stageStart && (op.PreFlush || op.Kind == OpFlush) {
			if !q.flush(op) {
				return
			}
		}
		flush, err := q.main(op)
		if err != nil || !flush {
			q.finish(op, err)
			return
		}
		op.stage = stageFUA
	}
}

// flush makes op part of a flush. It returns true if op is still the caller's and
// its main step comes next.
func (q *poolQueue) flush(op *Op) bool {
	q.mu.Lock()
	if q.flushing {
		q.group.push(op)
		q.mu.Unlock()
		return false
	}
	q.flushing = true
	others := q.group.take()
	q.mu.Unlock()

	err := q.dev.Flush()

	q.mu.Lock()
	q.flushing = false
	if q.group.head != nil {
		// One of those who came meanwhile leads the next flush, for all of them.
		q.pushLocked(q.group.pop())
	}
	q.mu.Unlock()
	for others != nil {
		o := others
		others, o.next = o.next, nil
		if q.flushed(o, err) {
			q.mu.Lock()
			q.pushLocked(o)
			q.mu.Unlock()
		}
	}
	return q.flushed(op, err)
}

// flushed notes that the flush op waited for has ended. It returns true if op's
// main step is still to be done.
func (q *poolQueue) flushed(op *Op, err error) bool {
	if err != nil || op.Kind == OpFlush || op.stage == stageFUA {
		q.finish(op, err)
		return false
	}
	op.stage = stageMain
	return true
}

// finish hands op back.
func (q *poolQueue) finish(op *Op, err error) {
	op.Err = err
	op.stage = stageStart
	if op.Done != nil {
		op.Done(op)
	}
	q.mu.Lock()
	if q.live--; q.live == 0 {
		q.quiet.Broadcast()
		if q.closed {
			q.wakeAllLocked()
		}
	}
	q.mu.Unlock()
}

// busy returns how many ops have not ended.
func (q *poolQueue) busy() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.live
}
