// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of the io_uring interface that the queue needs, over raw system calls:
// see io_uring_setup(2) and io_uring_enter(2).
const (
	uringOpNop   = 0
	uringOpFsync = 3
	uringOpRead  = 22
	uringOpWrite = 23

	uringSetupClamp = 1 << 4

	uringEnterGetEvents = 1
	uringFsyncDatasync  = 1

	uringOffSQRing = 0
	uringOffCQRing = 0x8000000
	uringOffSQEs   = 0x10000000
)

// uringSQE is one submission, struct io_uring_sqe.
type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64
	addr          uint64
	len           uint32
	opFlags       uint32
	userData      uint64
	_             [3]uint64
}

// uringCQE is one completion, struct io_uring_cqe.
type uringCQE struct {
	userData uint64
	res      int32
	flags    uint32
}

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sqOff                                                                  struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		userAddr                                                    uint64
	}
	cqOff struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		userAddr                                                    uint64
	}
}

// uring is a ring. One goroutine at a time may push and submit, another wait and pop.
type uring struct {
	fd             int
	sqMem, cqMem   []byte
	sqeMem         []byte
	sqTail         *uint32
	cqHead, cqTail *uint32
	sqMask, cqMask uint32
	entries        uint32
	sqes, cqes     unsafe.Pointer
	tail           uint32 // of the submissions, not yet told to the kernel
	pending        uint32 // submissions that the kernel was not yet told of
}

// newURing makes a ring of about n entries. Kernels older than 5.6, and sandboxes
// that forbid it, return an error.
func newURing(n uint32) (*uring, error) {
	// Not SINGLE_ISSUER or DEFER_TASKRUN, although they make the kernel's work
	// cheaper: they tie the ring to one thread, and waking that thread for every
	// lone request costs more than they save.
	p := uringParams{flags: uringSetupClamp}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, os.NewSyscallError("io_uring_setup", e)
	}
	return mapURing(int(fd), &p)
}

// mapURing maps the rings of a new descriptor.
func mapURing(fd int, p *uringParams) (*uring, error) {
	unix.CloseOnExec(fd)
	r := &uring{fd: fd, entries: p.sqEntries}
	var err error
	mmap := func(off int64, size uint32) []byte {
		if err != nil {
			return nil
		}
		var m []byte
		m, err = unix.Mmap(fd, off, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		return m
	}
	// The two rings may share one mapping; mapping them one by one works always.
	r.sqMem = mmap(uringOffSQRing, p.sqOff.array+p.sqEntries*4)
	r.cqMem = mmap(uringOffCQRing, p.cqOff.cqes+p.cqEntries*uint32(unsafe.Sizeof(uringCQE{})))
	r.sqeMem = mmap(uringOffSQEs, p.sqEntries*uint32(unsafe.Sizeof(uringSQE{})))
	if err != nil {
		r.close()
		return nil, os.NewSyscallError("mmap of io_uring", err)
	}
	sq, cq := unsafe.Pointer(&r.sqMem[0]), unsafe.Pointer(&r.cqMem[0])
	r.sqTail = (*uint32)(unsafe.Add(sq, p.sqOff.tail))
	r.sqMask = *(*uint32)(unsafe.Add(sq, p.sqOff.ringMask))
	r.cqHead = (*uint32)(unsafe.Add(cq, p.cqOff.head))
	r.cqTail = (*uint32)(unsafe.Add(cq, p.cqOff.tail))
	r.cqMask = *(*uint32)(unsafe.Add(cq, p.cqOff.ringMask))
	r.cqes = unsafe.Add(cq, p.cqOff.cqes)
	r.sqes = unsafe.Pointer(&r.sqeMem[0])
	r.tail = *r.sqTail
	// Entry i of the ring always means submission i.
	for i := range p.sqEntries {
		*(*uint32)(unsafe.Add(sq, p.sqOff.array+i*4)) = i
	}
	return r, nil
}

func (r *uring) close() {
	for _, m := range [][]byte{r.sqMem, r.cqMem, r.sqeMem} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	unix.Close(r.fd)
}

// push adds a submission. The caller knows that there is room: it never has more
// than entries under way.
func (r *uring) push(s uringSQE) {
	*(*uringSQE)(unsafe.Add(r.sqes, uintptr(r.tail&r.sqMask)*unsafe.Sizeof(s))) = s
	r.tail++
	r.pending++
}

// submit tells the kernel of what was pushed. When it cannot take it for want of
// memory it is asked again: a request that hangs is better than one that is lost.
func (r *uring) submit() {
	atomic.StoreUint32(r.sqTail, r.tail)
	for r.pending > 0 {
		n, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.pending), 0, 0, 0, 0)
		switch e {
		case 0:
			r.pending -= uint32(n)
		case unix.EINTR:
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// wait returns when there is a completion, or for no reason.
func (r *uring) wait() {
	_, _, _ = unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, 1, uringEnterGetEvents, 0, 0)
}

// pop takes a completion.
func (r *uring) pop() (uringCQE, bool) {
	head := *r.cqHead // only we write it
	if head == atomic.LoadUint32(r.cqTail) {
		return uringCQE{}, false
	}
	c := *(*uringCQE)(unsafe.Add(r.cqes, uintptr(head&r.cqMask)*unsafe.Sizeof(uringCQE{})))
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// rwSQE describes a read or write of buf at off.
func rwSQE(opcode uint8, fd int, buf []byte, off int64, flags uint32, user uint64) uringSQE {
	return uringSQE{
		opcode: opcode, fd: int32(fd), off: uint64(off), addr: uint64(addressOf(buf)),
		len: uint32(len(buf)), opFlags: flags, userData: user,
	}
}

// prefersRing tells whether a ring is faster than goroutines for this file: if
// it does direct I/O to something that takes time.
func (f *File) prefersRing() bool {
	if !f.limits.Direct || f.blkAlign > SectorSize {
		return false
	}
	var st unix.Statfs_t
	err := f.withFd(func(fd int) error { return unix.Fstatfs(fd, &st) })
	return err == nil && st.Type != unix.TMPFS_MAGIC
}

// selfTest reads through the ring once, so that a kernel that has rings but not
// the operations is found out before they are needed.
func (r *uring) selfTest(fd int) error {
	buf := AlignedBuffer(Alignment)
	r.push(rwSQE(uringOpRead, fd, buf, 0, 0, 1))
	r.submit()
	c, ok := r.pop()
	for ; !ok; c, ok = r.pop() {
		r.wait()
	}
	runtime.KeepAlive(buf)
	if c.res < 0 && unix.Errno(-c.res) == unix.EINVAL {
		return fmt.Errorf("io_uring: %w: no read operation", ErrNotSupported)
	}
	return nil
}
