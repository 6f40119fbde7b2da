// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

const (
	bounceChunk = 1 << 20 // longest piece copied through a bounce buffer at once
	bounceLimit = 8 << 20 // memory for bounce buffers per File
)

// Options says how to open a disk. The zero value is right for a backing disk.
type Options struct {
	// ReadOnly opens for reading. The lock is shared with other readers on a
	// file; a block device is still claimed exclusively.
	ReadOnly bool
	// NoDirect uses the page cache even where direct I/O would work.
	NoDirect bool
	// NoLock opens without a lock or claim, for a tool that only looks. Two
	// programs that write to one disk destroy it.
	NoLock bool
	// Preallocate makes Create reserve all the space, so that a later write cannot
	// fail because the file system is full. Where the system cannot, Create fails
	// with ErrNotSupported.
	Preallocate bool
}

// File is a backing disk on a regular file or, on Linux, a block device.
//
// It does direct I/O (O_DIRECT) where the file system and the disk let it, so that
// a completed write is at least in the disk, and no error is met long after the
// write. Where they do not, Limits().Direct is false and everything else is the
// same. It takes 512-byte multiples and any memory on every disk: what the
// disk's own rules do not allow goes through an aligned copy, and writes smaller
// than the disk's block are read-modify-write cycles that exclude all other writes.
//
// A Flush that fails makes the File fail all later ones with ErrFlushFailed: the
// system forgets the error after it was reported once, and the lost data with it.
type File struct {
	f     *os.File
	path  string
	info  fs.FileInfo
	block bool // a block device
	size  atomic.Int64

	limits   Limits
	memAlign int   // buffers must begin at a multiple of this; 1 if they need not
	blkAlign int64 // offsets and lengths must be multiples of this; SectorSize at least
	devBlock int64 // the same for discard and zeroes, also without direct I/O

	bounce *Pool
	// rmw is held for reading by writes, and for writing by read-modify-write
	// cycles. Only a File with blkAlign > SectorSize uses it.
	rmw sync.RWMutex

	// use is held for reading while the descriptor is used behind os.File's back.
	use    sync.RWMutex
	closed bool // guarded by use

	flushFailed atomic.Bool
}

var (
	_ Device     = (*File)(nil)
	_ Discarder  = (*File)(nil)
	_ ZeroWriter = (*File)(nil)
	_ FUAWriter  = (*File)(nil)
	_ Limiter    = (*File)(nil)
	_ Resizer    = (*File)(nil)
)

// Open opens a regular file or block device, with symbolic links followed. The
// size is rounded down to a multiple of SectorSize.
//
// Unless opt.NoLock says otherwise it takes an exclusive lock until Close: flock(2)
// on a file (LockFileEx on Windows), an exclusive claim (O_EXCL) on a block device,
// which also keeps out mounts, swap, LVM, MD and the kernel's DRBD. If another has
// it, also in the same process, the error is ErrBusy. Other errors are the
// system's (fs.ErrNotExist, fs.ErrPermission), and ErrNotSupported for a path that
// is neither file nor block device.
func Open(path string, opt Options) (*File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("blockdev: open: %w", err)
	}
	f := &File{path: path, block: isBlockDevice(st.Mode()), memAlign: 1, blkAlign: SectorSize, devBlock: SectorSize}
	if !f.block && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: %w: neither a regular file nor a block device", path, ErrNotSupported)
	}
	if err := f.open(opt); err != nil {
		return nil, err
	}
	if err := f.setUp(st, opt); err != nil {
		f.f.Close()
		return nil, err
	}
	return f, nil
}

// setUp completes a File whose descriptor is open.
func (f *File) setUp(before fs.FileInfo, opt Options) error {
	st, err := f.f.Stat()
	if err != nil {
		return fmt.Errorf("blockdev: open: %w", err)
	}
	if !os.SameFile(before, st) {
		return fmt.Errorf("open %s: %w: it was replaced meanwhile, try again", f.path, ErrBusy)
	}
	f.info = st
	if !opt.NoLock {
		if err := f.lock(opt); err != nil {
			return err
		}
	}
	f.bounce = NewPool(bounceLimit)
	if err := f.probe(); err != nil {
		return err
	}
	_, err = f.RefreshSize()
	return err
}

// Create makes a new file of size bytes, a multiple of SectorSize, that reads as
// zeroes, and opens it. The file must not exist (fs.ErrExist). Its existence and
// size are durable when Create returns. It is sparse unless opt.Preallocate is set,
// so writes to it can fail for want of space. Only its owner can access it.
func Create(path string, size int64, opt Options) (*File, error) {
	if size <= 0 || size%SectorSize != 0 {
		return nil, fmt.Errorf("create %s of %d bytes: %w", path, size, ErrAlignment)
	}
	if opt.ReadOnly {
		return nil, fmt.Errorf("create %s: %w", path, ErrReadOnly)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("blockdev: create: %w", err)
	}
	err = f.Truncate(size)
	if err == nil && opt.Preallocate {
		err = preallocate(f, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("blockdev: create: %w", err)
	}
	return Open(path, opt)
}

// Path returns the path that the File was opened with.
func (f *File) Path() string { return f.path }

// Size implements Device.
func (f *File) Size() int64 { return f.size.Load() }

// Limits implements Limiter. It does not change while the File is open.
func (f *File) Limits() Limits { return f.limits }

// RefreshSize implements Resizer.
func (f *File) RefreshSize() (int64, error) {
	size, err := f.querySize()
	if err != nil {
		return 0, f.wrap(err)
	}
	size -= size % f.blkAlign
	f.size.Store(size)
	return size, nil
}

// Resize gives a regular file a new size, a multiple of SectorSize. A block device
// returns ErrNotSupported. The size is durable after a Flush.
func (f *File) Resize(size int64) error {
	if f.block {
		return fmt.Errorf("resize %s: %w: resize the block device by its own means", f.path, ErrNotSupported)
	}
	if size < 0 || size%SectorSize != 0 {
		return fmt.Errorf("resize %s to %d bytes: %w", f.path, size, ErrAlignment)
	}
	if err := f.f.Truncate(size); err != nil {
		return f.wrap(err)
	}
	_, err := f.RefreshSize()
	return err
}

// ReadAt implements Device.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if err := check("read", off, int64(len(p)), f.size.Load()); err != nil {
		return 0, err
	}
	if !f.suits(p, off) {
		return f.bounceRead(p, off)
	}
	n, err := f.f.ReadAt(p, off)
	return n, f.wrapAt(err, off)
}

// WriteAt implements Device.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, off, false)
}

// WriteAtFUA implements FUAWriter.
func (f *File) WriteAtFUA(p []byte, off int64) (int, error) {
	return f.write(p, off, true)
}

func (f *File) write(p []byte, off int64, fua bool) (int, error) {
	if err := check("write", off, int64(len(p)), f.size.Load()); err != nil {
		return 0, err
	}
	if f.blkAlign > SectorSize {
		if (off|int64(len(p)))%f.blkAlign != 0 {
			f.rmw.Lock()
			defer f.rmw.Unlock()
		} else {
			f.rmw.RLock()
			defer f.rmw.RUnlock()
		}
	}
	var n int
	var err error
	switch {
	case !f.suits(p, off):
		n, err = f.bounceWrite(p, off, fua)
	case fua:
		n, err = f.writeFUA(p, off)
	default:
		n, err = f.f.WriteAt(p, off)
	}
	return n, f.wrapAt(err, off)
}

// suits tells whether the disk takes p at off as it is.
func (f *File) suits(p []byte, off int64) bool {
	return IsAligned(p, f.memAlign) && (off|int64(len(p)))&(f.blkAlign-1) == 0
}

// bounceRead reads through aligned copies.
func (f *File) bounceRead(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		lo, hi, end := f.bounceSpan(at, off+int64(len(p)))
		buf, err := f.bounce.Get(context.Background(), int(hi-lo))
		if err != nil {
			return done, err
		}
		if _, err = f.f.ReadAt(buf, lo); err == nil {
			done += copy(p[done:], buf[at-lo:end-lo])
		}
		f.bounce.Put(buf)
		if err != nil {
			return done, f.wrapAt(err, lo)
		}
	}
	return len(p), nil
}

// bounceWrite writes through aligned copies. If a piece does not begin or end at a
// block of the disk, the caller holds rmw, and the rest of the block is read first.
func (f *File) bounceWrite(p []byte, off int64, fua bool) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		lo, hi, end := f.bounceSpan(at, off+int64(len(p)))
		buf, err := f.bounce.Get(context.Background(), int(hi-lo))
		if err != nil {
			return done, err
		}
		n := 0
		if err = f.fillEdges(buf, lo, at, end); err == nil {
			n = copy(buf[at-lo:end-lo], p[done:])
			if fua {
				_, err = f.writeFUA(buf, lo)
			} else {
				_, err = f.f.WriteAt(buf, lo)
			}
		}
		f.bounce.Put(buf)
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// bounceSpan returns the next piece of a bounced request that goes from at to
// limit: the blocks [lo, hi) of the disk that hold its bytes [at, end).
func (f *File) bounceSpan(at, limit int64) (lo, hi, end int64) {
	lo = at - at%f.blkAlign
	hi = min(lo+bounceChunk, limit+f.blkAlign-1)
	hi -= hi % f.blkAlign
	return lo, hi, min(hi, limit)
}

// fillEdges reads the blocks at the two ends of buf that [at, end) covers in part.
func (f *File) fillEdges(buf []byte, lo, at, end int64) error {
	hi := lo + int64(len(buf))
	if at != lo {
		if _, err := f.f.ReadAt(buf[:f.blkAlign], lo); err != nil {
			return err
		}
	}
	if end != hi && (at == lo || hi-lo > f.blkAlign) {
		if _, err := f.f.ReadAt(buf[int64(len(buf))-f.blkAlign:], hi-f.blkAlign); err != nil {
			return err
		}
	}
	return nil
}

// Flush implements Device: fdatasync on Linux, F_FULLFSYNC on macOS,
// FlushFileBuffers on Windows, fsync elsewhere.
func (f *File) Flush() error {
	if f.flushFailed.Load() {
		return fmt.Errorf("flush %s: %w", f.path, ErrFlushFailed)
	}
	err := f.flush()
	if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, fs.ErrClosed) {
		f.flushFailed.Store(true)
	}
	return f.wrap(err)
}

// Discard implements Discarder: a hole in a file, which reads as zeroes, or the
// discard command of a block device, after which reads return anything.
func (f *File) Discard(off, n int64) error {
	if err := check("discard", off, n, f.size.Load()); err != nil || n == 0 {
		return err
	}
	lo, hi := f.wholeBlocks(off, n) // parts of blocks are left as they are
	return f.wrapAt(f.onBlocks(lo, hi, f.punch), off)
}

// WriteZeroes implements ZeroWriter: through the file system or the disk where they
// can, else by writing zeroes.
func (f *File) WriteZeroes(off, n int64, mayUnmap bool) error {
	if err := check("write zeroes", off, n, f.size.Load()); err != nil || n == 0 {
		return err
	}
	lo, hi := f.wholeBlocks(off, n)
	if lo >= hi {
		return writeZeroes(f, off, n)
	}
	err := f.onBlocks(lo, hi, func(fd int, off, n int64) error { return f.zeroRange(fd, off, n, mayUnmap) })
	if errors.Is(err, errors.ErrUnsupported) {
		return writeZeroes(f, off, n)
	}
	if err == nil {
		err = writeZeroes(f, off, lo-off)
	}
	if err == nil {
		err = writeZeroes(f, hi, off+n-hi)
	}
	return f.wrapAt(err, off)
}

// wholeBlocks returns the blocks of the disk that lie in a range completely; lo >= hi
// if there are none.
func (f *File) wholeBlocks(off, n int64) (lo, hi int64) {
	lo = off + f.devBlock - 1
	hi = off + n
	return lo - lo%f.devBlock, hi - hi%f.devBlock
}

// onBlocks calls do for the range [lo, hi) unless it is empty. Like a write it
// excludes read-modify-write cycles.
func (f *File) onBlocks(lo, hi int64, do func(fd int, off, n int64) error) error {
	if lo >= hi {
		return nil
	}
	if f.blkAlign > SectorSize {
		f.rmw.RLock()
		defer f.rmw.RUnlock()
	}
	return f.withFd(func(fd int) error { return do(fd, lo, hi-lo) })
}

// Close implements Device. It waits for discards, flushes and FUA writes that are
// under way. It does not flush.
func (f *File) Close() error {
	f.use.Lock()
	defer f.use.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.closed = true
	f.bounce.Trim()
	return f.wrap(f.f.Close())
}

// withFd calls do with the descriptor, which stays open meanwhile.
func (f *File) withFd(do func(fd int) error) error {
	f.use.RLock()
	defer f.use.RUnlock()
	if f.closed {
		return ErrClosed
	}
	return do(int(f.f.Fd()))
}

// wrap gives an error of the system the sentinels of this package.
func (f *File) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrClosed), errors.Is(err, ErrNotSupported):
		return err
	case errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("%s: %w", f.path, ErrClosed)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s: %w: it is shorter than it was, was it truncated?", f.path, io.ErrUnexpectedEOF)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("blockdev: %w", err)
	}
	return fmt.Errorf("blockdev: %s: %w", f.path, err)
}

func (f *File) wrapAt(err error, off int64) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("at byte %d: %w", off, f.wrap(err))
}
