// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func isBlockDevice(m fs.FileMode) bool {
	return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
}

// open opens the descriptor, with direct I/O if the file system takes the flag.
func (f *File) open(opt Options) error {
	flags := os.O_RDWR
	if opt.ReadOnly {
		flags = os.O_RDONLY
	}
	if f.block && !opt.NoLock {
		flags |= unix.O_EXCL // an exclusive claim on a block device, not O_CREATE's
	}
	var err error
	if !opt.NoDirect {
		f.f, err = os.OpenFile(f.path, flags|unix.O_DIRECT, 0)
		f.limits.Direct = err == nil
	}
	if opt.NoDirect || errors.Is(err, unix.EINVAL) {
		f.f, err = os.OpenFile(f.path, flags, 0)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("open %s: %w by a mount, swap, LVM, MD, another DRBD or another program; stop that first", f.path, ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("blockdev: open: %w", err)
	}
	return nil
}

// lock takes flock(2) on a file. The claim on a block device came with open.
func (f *File) lock(opt Options) error {
	if f.block {
		return nil
	}
	return flock(f.f, opt.ReadOnly)
}

// probe finds out what the disk can do.
func (f *File) probe() error {
	f.limits.LogicalBlockSize = SectorSize
	if f.block {
		f.probeBlockDevice()
	} else {
		f.probeRegular()
	}
	if !f.limits.Direct {
		return nil
	}
	mem, blk := f.probeDirect()
	size, err := f.querySize()
	if err != nil {
		return f.wrap(err)
	}
	if blk == 0 || !f.block && size%blk != 0 {
		// Direct I/O that the file system would not honour, or a last block that
		// could only be written by making the file longer.
		f.limits.Direct = false
		return f.dropDirect()
	}
	f.memAlign, f.blkAlign = mem, max(blk, SectorSize)
	f.limits.PhysicalBlockSize = max(f.limits.PhysicalBlockSize, f.blkAlign)
	return nil
}

// probeDirect returns the alignment that direct I/O asks of memory and of places
// on the disk, blk 0 if there is no direct I/O after all.
func (f *File) probeDirect() (mem int, blk int64) {
	fd := int(f.f.Fd())
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		return max(int(st.Dio_mem_align), 1), int64(st.Dio_offset_align)
	}
	// A kernel before 6.1, or a file system that does not say: try it.
	buf := AlignedBuffer(Alignment)
	for blk = SectorSize; blk <= Alignment; blk *= 2 {
		if _, err := f.f.ReadAt(buf[:blk], 0); err == nil || errors.Is(err, io.EOF) {
			return int(blk), blk
		}
	}
	return 0, 0
}

// dropDirect clears O_DIRECT.
func (f *File) dropDirect() error {
	fd := f.f.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	return f.wrap(err)
}

func (f *File) probeRegular() {
	fd := int(f.f.Fd())
	block := int64(4096)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Blksize >= SectorSize {
		block = int64(st.Blksize)
	}
	f.limits.PhysicalBlockSize = min(block, 4096)
	f.limits.MinIO = block
	f.limits.DiscardGranularity = block
	// A hole behind the end of the file changes nothing but tells whether holes work.
	size, err := f.querySize()
	if err == nil && unix.Fallocate(fd, punchHole, (size+block)&^(block-1), block) == nil {
		f.limits.DiscardSupported = true
		f.limits.DiscardZeroes = true
	}
}

func (f *File) probeBlockDevice() {
	fd := int(f.f.Fd())
	get := func(req uint, unknown int64) int64 {
		v, err := unix.IoctlGetUint32(fd, req)
		if err != nil || v == 0 {
			return unknown
		}
		return int64(v)
	}
	logical := get(unix.BLKSSZGET, SectorSize)
	f.devBlock = logical
	f.limits.PhysicalBlockSize = max(get(unix.BLKPBSZGET, logical), logical)
	f.limits.MinIO = get(unix.BLKIOMIN, f.limits.PhysicalBlockSize)
	f.limits.OptimalIO = get(unix.BLKIOOPT, 0)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return
	}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	f.limits.MaxDiscard = queueLimit(dev, "discard_max_bytes")
	f.limits.DiscardGranularity = queueLimit(dev, "discard_granularity")
	f.limits.DiscardSupported = f.limits.MaxDiscard > 0
}

// queueLimit reads a limit of the disk that dev, a folder in sysfs, is or is a
// partition of. It returns 0 if there is none.
func queueLimit(dev, name string) int64 {
	b, err := os.ReadFile(dev + "queue/" + name)
	if err != nil {
		if b, err = os.ReadFile(dev + "../queue/" + name); err != nil {
			return 0
		}
	}
	v, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func (f *File) querySize() (int64, error) {
	// lseek knows the size of files and of block devices, and nothing else uses
	// the descriptor's position.
	return f.f.Seek(0, io.SeekEnd)
}

// flush makes the data and what is needed to find it durable. The file system and
// the block layer send the disk's cache flush.
func (f *File) flush() error {
	f.use.RLock()
	defer f.use.RUnlock()
	if f.closed {
		return ErrClosed
	}
	for {
		if err := unix.Fdatasync(int(f.f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// writeFUA writes with RWF_DSYNC: the disk's FUA where it has it.
func (f *File) writeFUA(p []byte, off int64) (int, error) {
	f.use.RLock()
	defer f.use.RUnlock()
	if f.closed {
		return 0, ErrClosed
	}
	done := 0
	for done < len(p) {
		n, err := pwriteDsync(int(f.f.Fd()), p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err == unix.EOPNOTSUPP || err == unix.ENOSYS:
			if n, err = f.f.WriteAt(p, off); err != nil {
				return n, err
			}
			return n, unix.Fdatasync(int(f.f.Fd()))
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		default:
			done += n
		}
	}
	return done, nil
}

// pwriteDsync is pwritev2(2) with one buffer, without the slices that the
// wrapper of x/sys allocates.
func pwriteDsync(fd int, p []byte, off int64) (int, error) {
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	// The kernel joins the two words of the offset; on 64 bits the second is shifted out.
	n, _, e := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1,
		uintptr(off), uintptr(uint64(off)>>32), unix.RWF_DSYNC)
	runtime.KeepAlive(p)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

const punchHole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE

// punch deallocates: a hole in a file, BLKDISCARD on a block device.
func (f *File) punch(fd int, off, n int64) error {
	if !f.limits.DiscardSupported {
		return ErrNotSupported
	}
	var err error
	if f.block {
		err = ioctlRange(fd, unix.BLKDISCARD, off, n)
	} else {
		err = fallocate(fd, punchHole, off, n)
	}
	return unsupported("discard", err)
}

// zeroRange makes a range read as zeroes without sending them.
func (f *File) zeroRange(fd int, off, n int64, mayUnmap bool) error {
	if mayUnmap {
		// Both kinds: zeroes, and space given back if the disk can.
		err := unsupported("write zeroes", fallocate(fd, punchHole, off, n))
		if !errors.Is(err, ErrNotSupported) {
			return err
		}
	}
	var err error
	if f.block {
		err = ioctlRange(fd, unix.BLKZEROOUT, off, n)
	} else {
		err = fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	return unsupported("write zeroes", err)
}

// unsupported translates the ways in which a disk says that it cannot.
func unsupported(op string, err error) error {
	switch err {
	case unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOTTY, unix.ENODEV:
		return fmt.Errorf("%s: %w (%v)", op, ErrNotSupported, err)
	}
	return err
}

func fallocate(fd int, mode uint32, off, n int64) error {
	for {
		if err := unix.Fallocate(fd, mode, off, n); err != unix.EINTR {
			return err
		}
	}
}

// ioctlRange is an ioctl whose argument is a range of bytes.
func ioctlRange(fd int, req uint, off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&r)))
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return e
		}
	}
}

func preallocate(f *os.File, size int64) error {
	return unsupported("preallocate", fallocate(int(f.Fd()), 0, 0, size))
}
