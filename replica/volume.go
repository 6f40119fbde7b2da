// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// blockSector is DRBD's sector: every offset and length is a multiple of it.
const blockSector = metadata.SectorSize

// Volume is one replicated device of a Resource. Reads and writes work while the
// resource is Primary. All methods are safe for concurrent use.
//
// Offsets and lengths are bytes and multiples of 512; others give ErrAlignment.
// Buffers may have any alignment in memory, although one of 4096 bytes
// (blockdev.AlignedBuffer) saves a copy where the disk does direct I/O. A buffer
// must not be touched until the call has returned. Requests larger than 1 MiB are
// done in pieces, several at a time.
//
// A write that has returned nil is on both nodes as the replication protocol says
// (protocol.C: on both disks, maybe in their write caches). It survives the loss
// of either node; after [Volume.Flush] it survives a power failure of both.
// Writes that overlap in time and place have no order, but both nodes hold the
// same one. A write that failed may have been done in part.
//
// While the resource cannot serve a request but soon will (I/O is suspended, the
// bitmaps are being exchanged), the request waits. With a context that ends it is
// withdrawn; one that has begun is waited for, because its buffer is in use.
type Volume struct {
	r     *Resource
	cfg   VolumeConfig
	index int // in the core
	size  atomic.Int64
	disk  atomic.Pointer[disk]
	admin chan struct{} // holds a token while Attach, Detach, Change or Resize runs
	now   VolumeConfig  // options in force; guarded by Resource.mu
	order *orderedVolume
}

var (
	_ io.ReaderAt = (*Volume)(nil)
	_ io.WriterAt = (*Volume)(nil)
)

func newVolume(r *Resource, index int) *Volume {
	return &Volume{r: r, cfg: r.cfg.Volumes[index], now: r.cfg.Volumes[index], index: index, admin: make(chan struct{}, 1)}
}

// ID returns the volume number.
func (v *Volume) ID() uint16 { return v.cfg.ID }

// Resource returns the resource that the volume belongs to.
func (v *Volume) Resource() *Resource { return v.r }

// Size returns the size in bytes, or 0 while it is not known: a volume without
// metadata of an agreed size learns it when the nodes connect.
func (v *Volume) Size() int64 { return v.size.Load() }

// ReadAt implements io.ReaderAt: ReadAtContext without a context.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	return v.ReadAtContext(context.Background(), p, off)
}

// WriteAt implements io.WriterAt: WriteAtContext without a context.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) {
	return v.WriteAtContext(context.Background(), p, off)
}

// ReadAtContext reads len(p) bytes at off: from the own disk if that is good
// there, else from the peer. At the end of the volume it returns what there is,
// and io.EOF. Errors: ErrNotPrimary, ErrNoUpToDateData, ErrIO, ErrAlignment,
// ErrRange, ErrClosed, the context's.
func (v *Volume) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, short := int64(len(p)), false
	if size := v.size.Load(); size > 0 && off >= 0 && off+n > size {
		n, short = max(size-off, 0), true
	}
	if err := v.check(off, n); err != nil {
		return 0, v.wrap("read", off, int64(len(p)), err)
	}
	done := int64(0)
	if n > 0 {
		var err error
		if done, err = v.transfer(ctx, core.IORead, p[:n], off, n, ioFlags{}); err != nil {
			return int(done), v.wrap("read", off, int64(len(p)), err)
		}
	}
	if short {
		return int(done), io.EOF
	}
	return int(done), nil
}

// WriteAtContext writes p at off, on both nodes. Errors: ErrNotPrimary,
// ErrNoUpToDateData, ErrIO, ErrAlignment, ErrRange, ErrClosed, the context's.
func (v *Volume) WriteAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	return v.write(ctx, p, off, ioFlags{})
}

// WriteFUA is WriteAtContext whose data is durable on the own disk when it returns
// (force unit access). The peer is told the same.
func (v *Volume) WriteFUA(ctx context.Context, p []byte, off int64) (int, error) {
	return v.write(ctx, p, off, ioFlags{fua: true})
}

func (v *Volume) write(ctx context.Context, p []byte, off int64, flags ioFlags) (int, error) {
	n := int64(len(p))
	if err := v.checkRange(off, n); err != nil {
		return 0, v.wrap("write", off, n, err)
	}
	done, err := v.transfer(ctx, core.IOWrite, p, off, n, flags)
	if err != nil {
		err = v.wrap("write", off, n, err)
	}
	return int(done), err
}

// Flush returns when every write that had returned before is durable on the own
// disk, and ordered before every later write on the peer's. As with DRBD it does
// not wait for the peer's disk, unless that is the only good one: this node has none, or is
// the target of a resync (spec: behaviour 5.6).
func (v *Volume) Flush(ctx context.Context) error {
	err := v.do(ctx, core.IOFlush, nil, 0, 0, ioFlags{})
	if err != nil {
		err = fmt.Errorf("replica: %s/%d: flush: %w", v.r.name, v.cfg.ID, err)
	}
	return err
}

// Discard tells both disks that n bytes at off are not needed any more. They read
// the same on both nodes afterwards, as zeroes if the disks keep what they promise (see
// VolumeConfig.NoDiscardZeroesIfAligned).
func (v *Volume) Discard(ctx context.Context, off, n int64) error {
	return v.wide(ctx, "discard", core.IODiscard, off, n, ioFlags{})
}

// WriteZeroes makes n bytes at off read as zeroes, without sending them. The space
// stays reserved unless MayUnmap is given.
func (v *Volume) WriteZeroes(ctx context.Context, off, n int64, opts ...ZeroOption) error {
	var flags ioFlags
	for _, o := range opts {
		o.zero(&flags)
	}
	return v.wide(ctx, "write zeroes", core.IOZero, off, n, flags)
}

// wide performs a request without data.
func (v *Volume) wide(ctx context.Context, doing string, kind core.IOKind, off, n int64, flags ioFlags) error {
	err := v.checkRange(off, n)
	if err == nil {
		_, err = v.transfer(ctx, kind, nil, off, n, flags)
	}
	if err != nil {
		return v.wrap(doing, off, n, err)
	}
	return nil
}

// check refuses what is not aligned.
func (v *Volume) check(off, n int64) error {
	if off < 0 || n < 0 {
		return ErrRange
	}
	if (off|n)%blockSector != 0 {
		return ErrAlignment
	}
	return nil
}

// checkRange refuses what is not aligned or lies outside the volume.
func (v *Volume) checkRange(off, n int64) error {
	if err := v.check(off, n); err != nil {
		return err
	}
	if size := v.size.Load(); size > 0 && (n > size || off > size-n) {
		return fmt.Errorf("%w of %d bytes", ErrRange, size)
	}
	return nil
}

func (v *Volume) wrap(doing string, off, n int64, err error) error {
	return fmt.Errorf("replica: %s/%d: %s %d bytes at %d: %w", v.r.name, v.cfg.ID, doing, n, off, err)
}

// limits returns what the core wants to know about a device.
func limits(dev blockdev.Device) core.DiskLimits {
	l := blockdev.LimitsOf(dev)
	return core.DiskLimits{
		LogicalBlock: uint32(l.LogicalBlockSize), PhysicalBlock: uint32(l.PhysicalBlockSize),
		Discard: l.DiscardSupported, DiscardZeroes: l.DiscardZeroes,
	}
}
