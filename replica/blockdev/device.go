// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
)

// SectorSize is the unit of every offset and length: 512 bytes, DRBD's sector
// (spec: wire 0). A device whose own block is larger still takes 512-byte
// multiples; see Limits.PhysicalBlockSize.
const SectorSize = 512

// Sentinel errors. They come wrapped with the operation and its place; find
// them with errors.Is.
var (
	// ErrBusy: another program, or another Open of this one, has the disk.
	ErrBusy = errors.New("blockdev: the disk is in use")
	// ErrNotSupported: the device or the system it is on cannot do this. It is
	// errors.ErrUnsupported too.
	ErrNotSupported = fmt.Errorf("blockdev: %w by this device", errors.ErrUnsupported)
	// ErrAlignment: an offset or a length is not a multiple of SectorSize.
	ErrAlignment = errors.New("blockdev: offset and length must be multiples of 512 bytes")
	// ErrRange: the request does not lie inside the device.
	ErrRange = errors.New("blockdev: request is outside the device")
	// ErrReadOnly: a change was asked of a device that was opened read-only.
	ErrReadOnly = errors.New("blockdev: the disk is open read-only")
	// ErrClosed: the device or the queue was closed. It is fs.ErrClosed too.
	ErrClosed = fmt.Errorf("blockdev: %w", fs.ErrClosed)
	// ErrAbandoned: the queue was abandoned before the request had reached the device.
	ErrAbandoned = errors.New("blockdev: the device was given up, the request was not begun")
	// ErrFlushFailed: a flush failed earlier, so nothing written before it may be
	// believed to be durable, although a later flush would report success. The
	// device must be closed and opened again.
	ErrFlushFailed = errors.New("blockdev: an earlier flush failed, written data may be lost; reopen the disk")
)

// Device is a backing disk: a fixed number of bytes, read and written in
// multiples of SectorSize.
//
// All methods may be called at the same time from many goroutines. Requests
// that overlap in time and place have no order; each 512-byte sector then holds
// the data of one of them, whole. A failed or interrupted write leaves every
// sector of its range either old or new.
//
// ReadAt and WriteAt return ErrAlignment and ErrRange for requests that do not
// fit, and otherwise move all of p or return an error. The memory of p may have
// any alignment, although an aligned one (AlignedBuffer) saves a copy when the
// device does direct I/O.
//
// A completed write is in the device but maybe only in its volatile cache: only
// a Flush that began after the write returned makes it durable.
//
// Optional abilities are found by type assertion: Discarder, ZeroWriter,
// FUAWriter, Limiter, Resizer. The functions Discard, WriteZeroes and LimitsOf
// do that with a fallback.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Flush returns when everything written before it was called is durable,
	// the volatile cache of the device included.
	Flush() error
	// Size is the length in bytes, a multiple of SectorSize.
	Size() int64
	// Close releases the device and its lock. It does not flush.
	Close() error
}

// Discarder is a Device that can deallocate. off and n are bytes, multiples of
// SectorSize. Reads of the range return zeroes afterwards if
// Limits.DiscardZeroes, else anything. It returns ErrNotSupported where it
// cannot be done. Like a write it is durable only after a Flush.
type Discarder interface {
	Discard(off, n int64) error
}

// ZeroWriter is a Device with a faster way to zeroes than writing them. off and
// n are bytes, multiples of SectorSize. With mayUnmap the range may be
// deallocated; without, its space stays reserved. Either way it reads as zeroes
// afterwards. Like a write it is durable only after a Flush.
type ZeroWriter interface {
	WriteZeroes(off, n int64, mayUnmap bool) error
}

// FUAWriter is a Device that can make one write durable without a Flush (force
// unit access): when WriteAtFUA returns nil, exactly the bytes of p are durable;
// other writes are not.
type FUAWriter interface {
	WriteAtFUA(p []byte, off int64) (int, error)
}

// Same reports whether two devices are certainly the same: one value, or two Files of one
// path's file. Others may be too, as two names of a disk are.
func Same(a, b Device) bool {
	if a == nil || b == nil {
		return false
	}
	if x, ok := a.(*File); ok {
		if y, ok := b.(*File); ok {
			return x == y || os.SameFile(x.info, y.info)
		}
	}
	return reflect.TypeOf(a).Comparable() && a == b
}

// Resizer is a Device whose size can change under it.
type Resizer interface {
	// RefreshSize asks the system for the size again (a volume may have been
	// grown), and returns it, in bytes. Size reports the new value from then on.
	RefreshSize() (int64, error)
}

// Limiter is a Device that knows its limits.
type Limiter interface {
	Limits() Limits
}

// Limits describes what a device can do and what suits it. All values are
// bytes; 0 means unknown or no limit.
type Limits struct {
	LogicalBlockSize   int64 // smallest request: always SectorSize for the devices of this package
	PhysicalBlockSize  int64 // smallest write without read-modify-write, 512 or 4096 as a rule
	MinIO              int64 // preferred smallest request
	OptimalIO          int64 // preferred request for streaming
	DiscardGranularity int64 // a discard is effective on whole units of this size only
	MaxDiscard         int64 // longest discard that the device takes at once; the devices of this package split longer ones
	DiscardSupported   bool  // Discard works
	DiscardZeroes      bool  // discarded ranges read as zeroes
	Direct             bool  // requests bypass the system's page cache
}

// LimitsOf returns dev's limits, or for a device that is no Limiter the plainest
// there are: 512-byte blocks and no discard.
func LimitsOf(dev Device) Limits {
	if l, ok := dev.(Limiter); ok {
		return l.Limits()
	}
	return Limits{LogicalBlockSize: SectorSize, PhysicalBlockSize: SectorSize}
}

// Discard deallocates n bytes from off if dev can, and returns ErrNotSupported if
// it cannot.
func Discard(dev Device, off, n int64) error {
	d, ok := dev.(Discarder)
	if !ok {
		return fmt.Errorf("discard %d bytes at %d: %w", n, off, ErrNotSupported)
	}
	return d.Discard(off, n)
}

// discardUnits discards the whole units of dev's in the range, and zeroes the rest.
func discardUnits(dev Device, off, n int64) error {
	unit := max(LimitsOf(dev).DiscardGranularity, SectorSize)
	from, to := (off+unit-1)/unit*unit, (off+n)/unit*unit
	if from >= to {
		return WriteZeroes(dev, off, n, true)
	}
	if from > off {
		if err := WriteZeroes(dev, off, from-off, true); err != nil {
			return err
		}
	}
	if end := off + n; end > to {
		if err := WriteZeroes(dev, to, end-to, true); err != nil {
			return err
		}
	}
	return Discard(dev, from, to-from)
}

// zeroPages is what zeroBuffer lends out; nobody writes to it. It costs no memory
// before its first use.
var zeroPages [256<<10 + Alignment]byte

// zeroBuffer returns an aligned piece of zeroes that must not be changed.
func zeroBuffer() []byte {
	skip := -int(addressOf(zeroPages[:])) & (Alignment - 1)
	return zeroPages[skip : skip+256<<10]
}

// WriteZeroes makes n bytes from off read as zeroes: by the device's own way if
// it is a ZeroWriter, else by writing zeroes. It is durable after a Flush.
func WriteZeroes(dev Device, off, n int64, mayUnmap bool) error {
	if z, ok := dev.(ZeroWriter); ok {
		err := z.WriteZeroes(off, n, mayUnmap)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if err := check("write zeroes", off, n, dev.Size()); err != nil {
		return err
	}
	return writeZeroes(dev, off, n)
}

// writeZeroes is the fallback that works on every device. The range was checked.
func writeZeroes(w io.WriterAt, off, n int64) error {
	zeroes := zeroBuffer()
	for n > 0 {
		p := zeroes[:min(n, int64(len(zeroes)))]
		if _, err := w.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		n -= int64(len(p))
	}
	return nil
}

// check verifies that n bytes at off are a legal request on a device of size bytes.
func check(op string, off, n, size int64) error {
	if (off|n)&(SectorSize-1) != 0 {
		return fmt.Errorf("%s of %d bytes at %d: %w", op, n, off, ErrAlignment)
	}
	if off < 0 || n < 0 || n > size || off > size-n {
		return fmt.Errorf("%s of %d bytes at %d of %d: %w", op, n, off, size, ErrRange)
	}
	return nil
}
