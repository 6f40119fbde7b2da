// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultRingEntries = 128
	maxRingEntries     = 4096
	// sideWorkers do what the ring does not: discard, zeroes, unaligned memory.
	sideWorkers = 2

	// What a completion belongs to: one of these or 2 + the slot of an op.
	userWake  = 0
	userFlush = 1
	userSlots = 2
)

// ringQueue is the Queue over an io_uring. One goroutine, locked to its thread,
// talks to the kernel:
//
//	Submit --> waiting --(eventfd, if it sleeps)--> thread --> submissions --> kernel
//	                                                  |                          |
//	              side: a poolQueue for the rest <----+---- Done <-- completions +
//
// Flushes are combined as in poolQueue: one is under way at a time, on behalf of
// all that waited when it began.
type ringQueue struct {
	performer
	file *File
	side *poolQueue
	fd   int // our duplicate of the file's, so that nobody closes it under the kernel
	wake int // eventfd

	mu       sync.Mutex
	quiet    sync.Cond
	waiting  opList
	live     int  // ops of Submit that the thread has, and those in Do
	sleeping bool // the thread waits in the kernel and must be woken
	closed   bool
	gone     bool // the thread has ended

	// The thread's own.
	ring     *uring
	todo     opList // taken from waiting, not yet begun
	slots    []*Op  // what the kernel works on; it keeps the buffers alive
	free     []int32
	flushing *Op    // linked list: those that the flush under way is for
	group    opList // those that wait for the next
}

// NewRing returns a Queue over an io_uring for a File that does direct I/O, with
// room for so many requests at the disk (0: 128); more wait. It returns
// ErrNotSupported or the system's error where there is none. NewQueue chooses it by
// itself where it is faster.
func NewRing(f *File, entries int) (Queue, error) {
	if !f.limits.Direct || f.blkAlign > SectorSize {
		return nil, fmt.Errorf("io_uring: %w: it needs direct I/O and 512-byte blocks", ErrNotSupported)
	}
	if entries <= 0 {
		entries = defaultRingEntries
	}
	entries = min(entries, maxRingEntries)
	q := &ringQueue{performer: newPerformer(f), file: f, slots: make([]*Op, entries)}
	q.quiet.L = &q.mu
	for i := entries - 1; i >= 0; i-- {
		q.free = append(q.free, int32(i))
	}
	if err := f.withFd(func(fd int) (err error) {
		q.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	}); err != nil {
		return nil, f.wrap(err)
	}
	var err error
	if q.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(q.fd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	started := make(chan error)
	go q.thread(entries, started)
	if err := <-started; err != nil {
		unix.Close(q.fd)
		unix.Close(q.wake)
		return nil, fmt.Errorf("blockdev: %w", err)
	}
	q.side = NewPoolQueue(f, sideWorkers).(*poolQueue)
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
	q.wakeUnlock()
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
	q.wakeUnlock()
}

// wakeUnlock releases mu and wakes the thread if it sleeps.
func (q *ringQueue) wakeUnlock() {
	sleeping := q.sleeping
	q.sleeping = false
	q.mu.Unlock()
	if sleeping {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		// It fails only if the counter is at its limit, which wakes too.
		_, _ = unix.Write(q.wake, one[:])
	}
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
	q.finish(op, q.all(op))
}

// Close implements Queue.
func (q *ringQueue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return ErrClosed
	}
	q.closed = true
	for q.live > 0 {
		q.quiet.Wait()
	}
	q.wakeUnlock()
	q.mu.Lock()
	for !q.gone {
		q.quiet.Wait()
	}
	q.mu.Unlock()
	err := q.side.Close()
	unix.Close(q.fd)
	unix.Close(q.wake)
	return err
}

// finish hands op back.
func (q *ringQueue) finish(op *Op, err error) {
	op.Err = err
	op.stage = stageStart
	if op.Done != nil {
		op.Done(op)
	}
	q.leave()
}

// leave counts an op that has ended, or was given to side.
func (q *ringQueue) leave() {
	q.mu.Lock()
	if q.live--; q.live == 0 {
		q.quiet.Broadcast()
	}
	q.mu.Unlock()
}

// thread makes the ring and serves it until the queue is closed.
func (q *ringQueue) thread(entries int, started chan<- error) {
	// The ring belongs to the thread that made it: only this one may submit, and a
	// thread's end would cancel what it has submitted.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// One entry more for the flush, one for the poll of the eventfd.
	ring, err := newURing(uint32(entries) + 2)
	if err == nil {
		if err = ring.selfTest(q.fd); err != nil {
			ring.close()
		}
	}
	started <- err
	if err != nil {
		return
	}
	q.ring = ring
	q.armWake()
	for q.take() {
		q.issue()
		q.enter()
		q.reap()
	}
	ring.close()
	q.mu.Lock()
	q.gone = true
	q.quiet.Broadcast()
	q.mu.Unlock()
}

// armWake lets a write to the eventfd end a wait in the kernel.
func (q *ringQueue) armWake() {
	q.ring.push(uringSQE{opcode: uringOpPollAdd, fd: int32(q.wake), opFlags: pollIn(), userData: userWake})
}

// pollIn is POLLIN as the 32-bit field of a submission holds it: on big-endian
// machines its halves are swapped.
func pollIn() uint32 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return unix.POLLIN << 16
	}
	return unix.POLLIN
}

// take fetches what was submitted. It returns false when the queue is closed and
// nothing is left to do.
func (q *ringQueue) take() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.waiting.head != nil {
		q.todo.push(q.waiting.pop())
	}
	return !q.closed || q.live > 0
}

// issue begins ops while there are free slots.
func (q *ringQueue) issue() {
	for q.todo.head != nil && len(q.free) > 0 {
		q.begin(q.todo.pop())
	}
}

// begin takes op to its next wait: a flush, the disk, or the side queue.
func (q *ringQueue) begin(op *Op) {
	if op.Kind != OpFlush && !q.ours(op) {
		// With its flushes: side has the same stages.
		q.side.Submit(op)
		q.leave()
		return
	}
	if op.Kind == OpFlush || op.PreFlush && op.stage == stageStart {
		q.flush(op)
		return
	}
	slot := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	op.slot = slot
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

// ours tells whether the ring can do op. What is wrong with an op is found out and
// reported by side.
func (q *ringQueue) ours(op *Op) bool {
	return (op.Kind == OpRead || op.Kind == OpWrite) && len(op.Buf) > 0 && q.file.suits(op.Buf, op.Off) &&
		check("", op.Off, int64(len(op.Buf)), q.file.size.Load()) == nil
}

// flush makes op part of a flush: the one that begins now, or else the next.
func (q *ringQueue) flush(op *Op) {
	q.group.push(op)
	if q.flushing == nil {
		q.startFlush()
	}
}

func (q *ringQueue) startFlush() {
	if q.file.flushFailed.Load() {
		q.flushing = q.group.take()
		q.flushed(fmt.Errorf("flush %s: %w", q.file.path, ErrFlushFailed))
		return
	}
	q.flushing = q.group.take()
	q.ring.push(uringSQE{opcode: uringOpFsync, fd: int32(q.fd), opFlags: uringFsyncDatasync, userData: userFlush})
}

// flushed ends the flush under way, for all it was for, and begins the next.
func (q *ringQueue) flushed(err error) {
	batch := q.flushing
	q.flushing = nil
	for batch != nil {
		op := batch
		batch, op.next = op.next, nil
		if err != nil || op.Kind == OpFlush {
			q.finish(op, err)
			continue
		}
		op.stage = stageMain
		q.todo.push(op)
	}
	if q.group.head != nil && q.flushing == nil {
		q.startFlush()
	}
}

// enter submits what was pushed and, if there is nothing else to do, sleeps until
// something has ended or was submitted.
func (q *ringQueue) enter() {
	wait := uint32(0)
	q.mu.Lock()
	canBegin := q.todo.head != nil && len(q.free) > 0
	if q.waiting.head == nil && !canBegin && !(q.closed && q.live == 0) {
		q.sleeping = true
		wait = 1
	}
	q.mu.Unlock()
	err := q.ring.enter(wait)
	if wait > 0 {
		q.mu.Lock()
		q.sleeping = false
		q.mu.Unlock()
	}
	if err != nil && err != unix.EINTR {
		// The kernel lacks memory or has no room for completions. What it was not
		// told of stays pending and is offered again.
		time.Sleep(time.Millisecond)
	}
}

// reap handles completions.
func (q *ringQueue) reap() {
	for {
		c, ok := q.ring.pop()
		if !ok {
			return
		}
		switch c.userData {
		case userWake:
			var b [8]byte
			_, _ = unix.Read(q.wake, b[:]) // it was readable, and does not block
			q.armWake()
		case userFlush:
			q.flushEnded(c.res)
		default:
			q.ended(int32(c.userData-userSlots), c.res)
		}
	}
}

func (q *ringQueue) flushEnded(res int32) {
	var err error
	if res < 0 {
		errno := unix.Errno(-res)
		if errno == unix.EINTR || errno == unix.EAGAIN {
			q.ring.push(uringSQE{opcode: uringOpFsync, fd: int32(q.fd), opFlags: uringFsyncDatasync, userData: userFlush})
			return
		}
		q.file.flushFailed.Store(true)
		err = q.file.wrap(errno)
	}
	q.flushed(err)
}

// ended handles the end of a read or write.
func (q *ringQueue) ended(slot, res int32) {
	op := q.slots[slot]
	q.slots[slot] = nil
	q.free = append(q.free, slot)
	errno := unix.Errno(0)
	if res < 0 {
		errno = unix.Errno(-res)
	}
	switch {
	case int(res) == len(op.Buf):
		q.finish(op, nil)
	case res >= 0, errno == unix.EINTR, errno == unix.EAGAIN, errno == unix.EOPNOTSUPP:
		// Interrupted, cut short, or a kernel or file system without this kind of
		// request: done again as a whole by the plain system calls, which know why.
		op.stage = stageMain
		q.side.Submit(op)
		q.leave()
	default:
		q.finish(op, q.file.wrapAt(errno, op.Off))
	}
}
