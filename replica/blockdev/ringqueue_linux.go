// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	defaultRingEntries = 128
	maxRingEntries     = 4096
	// sideWorkers goroutines do what the ring cannot, discard, zeroes, unaligned
	// memory, and what they do faster: up to so many ops at a time. A completion
	// through the ring costs more, but costs are shared when there are many.
	sideWorkers = 8

	// What a completion belongs to: one of these or userSlots + the slot of an op.
	userStop  = 0
	userFlush = 1
	userSlots = 2
)

// ringQueue is the Queue over an io_uring.
//
//	Submit --> waiting --> whoever is first, for all ---> kernel
//	              |                                         |
//	              +--> side: a poolQueue  Done <-- reaper --+
//	                   for few ops at a time
//	                   and all odd ones
//
// There is no thread between a submitter and the kernel: Submit makes the system
// call itself, unless another goroutine is just making it and takes this op along.
// One goroutine, the reaper, waits for completions and calls Done.
//
// Flushes are combined as in poolQueue: one is under way at a time, on behalf of
// all that waited when it began.
type ringQueue struct {
	performer
	file *File
	side *poolQueue
	// aside is how many ops at a time side may have before the ring is used:
	// sideWorkers, and 0 in tests of the ring.
	aside int
	ring  *uring
	fd    int // our duplicate of the file's, so that nobody closes it under the kernel

	mu         sync.Mutex
	quiet      sync.Cond
	live       int    // ops of Submit that side has not got, and those in Do
	waiting    opList // not yet begun
	submitting bool   // somebody is in begin..enter, and will look at waiting again
	slots      []*Op  // what the kernel works on; it keeps the buffers alive
	free       []int32
	flushing   *Op    // linked list: those that the flush under way is for
	inFlush    bool   // a flush is under way
	group      opList // those that wait for the next
	closed     bool
	stopped    chan struct{} // closed when the reaper has ended
}

// NewRing returns a Queue over an io_uring for a File that does direct I/O, with
// room for so many requests at the disk (0: 128); more wait. Up to eight requests at
// a time, and what the ring cannot do, go to goroutines that call the File. It
// returns ErrNotSupported or the system's error where there is no io_uring.
func NewRing(f *File, entries int) (Queue, error) {
	if !f.limits.Direct || f.blkAlign > SectorSize {
		return nil, fmt.Errorf("io_uring: %w: it needs direct I/O and 512-byte blocks", ErrNotSupported)
	}
	if entries <= 0 {
		entries = defaultRingEntries
	}
	entries = min(entries, maxRingEntries)
	q := &ringQueue{performer: newPerformer(f), file: f, slots: make([]*Op, entries), stopped: make(chan struct{})}
	q.quiet.L = &q.mu
	for i := entries - 1; i >= 0; i-- {
		q.free = append(q.free, int32(i))
	}
	err := f.withFd(func(fd int) (err error) {
		q.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, f.wrap(err)
	}
	// One entry more for the flush, one for the reaper's end.
	if q.ring, err = newURing(uint32(entries) + 2); err == nil {
		if err = q.ring.selfTest(q.fd); err != nil {
			q.ring.close()
		}
	}
	if err != nil {
		unix.Close(q.fd)
		return nil, fmt.Errorf("blockdev: %w", err)
	}
	q.side = NewPoolQueue(f, sideWorkers).(*poolQueue)
	q.aside = sideWorkers
	go q.reaper()
	return q, nil
}

// Submit implements Queue.
func (q *ringQueue) Submit(op *Op) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		refuse(op)
		return
	}
	q.live++
	q.waiting.push(op)
	q.submitUnlock()
}

// SubmitBatch implements Queue.
func (q *ringQueue) SubmitBatch(ops []*Op) {
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
		q.waiting.push(op)
	}
	q.submitUnlock()
}

// submitUnlock begins what waits, as far as there are slots, and releases mu. If
// another goroutine is at it already, that one does it.
func (q *ringQueue) submitUnlock() {
	if q.submitting {
		q.mu.Unlock()
		return
	}
	q.submitting = true
	for q.beginAll() {
		q.mu.Unlock()
		q.ring.submit()
		q.mu.Lock()
	}
	q.submitting = false
	if q.closed {
		q.quiet.Broadcast()
	}
	q.mu.Unlock()
}

// beginAll begins what waits, as far as there are slots. It returns true if there
// is something to tell the kernel. mu is held, and released for moments.
func (q *ringQueue) beginAll() bool {
	for q.waiting.head != nil && len(q.free) > 0 {
		op := q.waiting.pop()
		switch {
		case q.side.abandoned.Load(), !q.ours(op), q.idle() && q.side.busy() < q.aside:
			// With its flushes: side has the same stages. It also ends what was abandoned.
			q.toSideLocked(op)
		case op.Kind == OpFlush || op.PreFlush && op.stage == stageStart:
			q.group.push(op)
		default:
			q.beginLocked(op)
		}
	}
	if q.group.head != nil && !q.inFlush {
		q.inFlush = true
		q.flushing = q.group.take()
		q.ring.push(uringSQE{opcode: uringOpFsync, fd: int32(q.fd), opFlags: uringFsyncDatasync, userData: userFlush})
	}
	return q.ring.pending > 0
}

// toSideLocked gives op to the side queue.
func (q *ringQueue) toSideLocked(op *Op) {
	q.mu.Unlock()
	q.side.Submit(op)
	q.mu.Lock()
	q.leaveLocked()
}

// beginLocked gives a read or write to the kernel.
func (q *ringQueue) beginLocked(op *Op) {
	slot := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.slots[slot] = op
	opcode, flags := uint8(uringOpRead), uint32(0)
	if op.Kind == OpWrite {
		opcode = uringOpWrite
		if op.FUA {
			flags = unix.RWF_DSYNC
		}
	}
	q.ring.push(rwSQE(opcode, q.fd, op.Buf, op.Off, flags, userSlots+uint64(slot)))
}

// ours tells whether the ring can do op. What is wrong with an op, or with a disk
// whose flush failed, is found out and reported by side.
func (q *ringQueue) ours(op *Op) bool {
	if (op.Kind == OpFlush || op.PreFlush) && q.file.flushFailed.Load() {
		return false
	}
	return op.Kind == OpFlush || (op.Kind == OpRead || op.Kind == OpWrite) &&
		len(op.Buf) > 0 && q.file.suits(op.Buf, op.Off) &&
		check("", op.Off, int64(len(op.Buf)), q.file.size.Load()) == nil
}

// idle tells whether the ring has nothing to do.
func (q *ringQueue) idle() bool {
	return len(q.free) == len(q.slots) && !q.inFlush && q.group.head == nil
}

// Do implements Queue.
func (q *ringQueue) Do(op *Op) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		refuse(op)
		return
	}
	q.live++
	q.mu.Unlock()
	if q.side.abandoned.Load() {
		q.finish(op, ErrAbandoned)
		return
	}
	q.finish(op, q.all(op))
}

// Abandon implements Queue.
func (q *ringQueue) Abandon() { q.side.Abandon() }

// Close implements Queue.
func (q *ringQueue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return ErrClosed
	}
	q.closed = true
	for q.live > 0 || q.submitting {
		q.quiet.Wait()
	}
	q.submitting = true // nobody else pushes any more
	q.mu.Unlock()
	q.ring.push(uringSQE{opcode: uringOpNop, userData: userStop})
	q.ring.submit()
	<-q.stopped
	q.ring.close()
	err := q.side.Close()
	unix.Close(q.fd)
	return err
}

// finish hands op back.
func (q *ringQueue) finish(op *Op, err error) {
	op.Err = err
	op.stage = stageStart
	if op.Done != nil {
		op.Done(op)
	}
	q.mu.Lock()
	q.leaveLocked()
	q.mu.Unlock()
}

// leaveLocked counts an op that has ended, or was given to side.
func (q *ringQueue) leaveLocked() {
	if q.live--; q.live == 0 {
		q.quiet.Broadcast()
	}
}

// reaper handles completions until Close.
func (q *ringQueue) reaper() {
	defer close(q.stopped)
	for {
		q.ring.wait()
		for {
			c, ok := q.ring.pop()
			if !ok {
				break
			}
			switch c.userData {
			case userStop:
				return
			case userFlush:
				q.flushEnded(c.res)
			default:
				q.ended(int32(c.userData-userSlots), c.res)
			}
		}
		q.mu.Lock()
		q.submitUnlock() // slots are free again
	}
}

// flushEnded ends the flush under way, for all it was for.
func (q *ringQueue) flushEnded(res int32) {
	var err error
	again := false
	switch errno := unix.Errno(-min(res, 0)); errno {
	case 0:
	case unix.EINTR, unix.EAGAIN, unix.ECANCELED:
		again = true // not the disk's fault
	default:
		q.file.flushFailed.Store(true)
		err = q.file.wrap(errno)
	}
	q.mu.Lock()
	batch := q.flushing
	q.flushing = nil
	q.inFlush = false
	q.mu.Unlock()
	for batch != nil {
		op := batch
		batch, op.next = op.next, nil
		if !again && (err != nil || op.Kind == OpFlush) {
			q.finish(op, err)
			continue
		}
		if !again {
			op.stage = stageMain
		}
		q.mu.Lock()
		q.waiting.push(op)
		q.mu.Unlock()
	}
}

// ended handles the end of a read or write.
func (q *ringQueue) ended(slot, res int32) {
	q.mu.Lock()
	op := q.slots[slot]
	q.slots[slot] = nil
	q.free = append(q.free, slot)
	q.mu.Unlock()
	errno := unix.Errno(0)
	if res < 0 {
		errno = unix.Errno(-res)
	}
	switch {
	case int(res) == len(op.Buf):
		q.finish(op, nil)
	case res >= 0, errno == unix.EINTR, errno == unix.EAGAIN, errno == unix.ECANCELED, errno == unix.EOPNOTSUPP:
		// Interrupted, cut short, its thread has ended, or a kernel or file system
		// without this kind of request: done again as a whole by the plain system
		// calls, which know why.
		op.stage = stageMain
		q.mu.Lock()
		q.toSideLocked(op)
		q.mu.Unlock()
	default:
		q.finish(op, q.file.wrapAt(errno, op.Off))
	}
}
