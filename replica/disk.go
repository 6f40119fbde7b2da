// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// metaWorkers is enough for metadata: the core writes one thing after the other.
const metaWorkers = 2

// Disk is a backing device with the place of its metadata, as in VolumeConfig.
type Disk struct {
	Device     blockdev.Device
	MetaDisk   metadata.Location
	MetaDevice blockdev.Device // nil for metadata.Internal()
}

// metaDevice returns the device that holds the metadata.
func (d *Disk) metaDevice() blockdev.Device {
	if d.MetaDevice != nil {
		return d.MetaDevice
	}
	return d.Device
}

// byteReader reads a device at any offset, as readers of metadata do.
type byteReader struct{ dev blockdev.Device }

func (b byteReader) ReadAt(p []byte, off int64) (int, error) {
	if err := blockdev.ReadAt(b.dev, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// gone is the queue of a volume without a disk: whatever still comes fails.
type gone struct{}

func (gone) Submit(op *blockdev.Op) { gone{}.Do(op) }
func (gone) SubmitBatch(ops []*blockdev.Op) {
	for _, op := range ops {
		gone{}.Do(op)
	}
}
func (gone) Do(op *blockdev.Op) {
	op.Err = ErrDiskless
	if op.Done != nil {
		op.Done(op)
	}
}
func (gone) Abandon()     {}
func (gone) Close() error { return nil }

// abandon keeps the requests of the disk that have not reached it from doing so.
func (d *disk) abandon() {
	if d == nil {
		return
	}
	d.data.Abandon()
	if d.md != d.data {
		d.md.Abandon()
	}
}

// shares reports whether two disks use a device together, as far as can be known.
func (d *disk) shares(o *Disk) bool {
	if d == nil {
		return false
	}
	for _, dev := range []blockdev.Device{o.Device, o.metaDevice()} {
		if blockdev.Same(d.dev, dev) || blockdev.Same(d.meta, dev) {
			return true
		}
	}
	return false
}

// disk is a backing device in service, with its queues.
type disk struct {
	dev      blockdev.Device
	meta     blockdev.Device // that of the metadata
	data, md blockdev.Queue
	pace     atomic.Int64 // ns that a small request takes when it is performed at once
}

// close ends the queues when everything in them has ended.
func (d *disk) close() {
	if d == nil {
		return
	}
	d.data.Close()
	if d.md != d.data {
		d.md.Close()
	}
}

// Attach brings a disk into service: that of VolumeConfig if d.Device is nil.
// While the resource is connected, the nodes compare the data and resync what
// differs; while they are connecting it waits for the end of that. A device that was given
// up because it did not answer (VolumeConfig.DiskTimeout, Detach with Force) is taken again
// when it has answered all requests: until then it is ErrHung. Errors: ErrAttached,
// ErrDataStale, ErrShrink, ErrConfig, ErrHung, those of package metadata, the device's.
func (v *Volume) Attach(ctx context.Context, d Disk) error {
	if err := v.attach(ctx, d); err != nil {
		return fmt.Errorf("replica: %s/%d: attach: %w", v.r.name, v.cfg.ID, err)
	}
	return nil
}

func (v *Volume) attach(ctx context.Context, d Disk) error {
	if d.Device == nil {
		d = Disk{Device: v.cfg.Disk, MetaDisk: v.cfg.MetaDisk, MetaDevice: v.cfg.MetaDevice}
	}
	if d.Device == nil {
		return fmt.Errorf("%w: neither VolumeConfig.Disk nor the argument names a disk", ErrConfig)
	}
	if err := checkDisk(d.MetaDisk, d.MetaDevice); err != nil {
		return err
	}
	if err := v.lockAdmin(ctx); err != nil {
		return err
	}
	defer v.unlockAdmin()
	if v.diskState() != protocol.Diskless {
		return ErrAttached
	}
	other := !v.disk.Load().shares(&d)
	if n := v.hung(); n > 0 && !other {
		// It is not even read before all of them have ended: they may still change it.
		return fmt.Errorf("%w: it still has %d requests of the time before, and may write old data over new; wait until they have ended, or attach another disk", ErrHung, n)
	}
	img, err := load(ctx, d)
	if err != nil {
		return err
	}
	img.Other = other
	in := &disk{dev: d.Device, meta: d.metaDevice(), data: blockdev.NewQueue(d.Device, v.r.queueDepth(&v.cfg))}
	if in.md = in.data; d.MetaDevice != nil {
		in.md = blockdev.NewQueue(d.MetaDevice, metaWorkers)
	}
	if err := v.replaceDisk(in); err != nil {
		in.close()
		return err
	}
	err = v.r.command(ctx, "", func(c *core.Core, cmd *core.Command) { c.Attach(cmd, v.index, img) })
	if err != nil && ctx.Err() == nil { // it was refused: the device is not in use
		v.disk.CompareAndSwap(in, nil)
		in.close()
	}
	return err
}

// replaceDisk makes in the disk. The one before, if any, has failed: what still hangs in
// it ends when it ends. Under the lock, because a resource that ends waits for the
// goroutines that there are, and closes the disks that it then has.
func (v *Volume) replaceDisk(in *disk) error {
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	if v.r.failed != nil {
		return v.r.failed
	}
	if old := v.disk.Swap(in); old != nil {
		v.r.wg.Go(old.close)
	}
	return nil
}

// Detach takes the disk out of service, with clean metadata. The volume goes on
// over the peer; it is refused if the peer has no UpToDate data, and waits until that has
// made durable what was written here. When it returns, the device is not in use any more,
// except with the option Force, which leaves requests that hang to themselves. Reads and
// writes of the application that hang use its buffers, and so they are waited for even
// then; with VolumeConfig.DiskTimeout, which has them work on copies, they are not.
func (v *Volume) Detach(ctx context.Context, opts ...DetachOption) error {
	var o detachOptions
	for _, opt := range opts {
		opt.detach(&o)
	}
	if err := v.lockAdmin(ctx); err != nil {
		return fmt.Errorf("replica: %s/%d: detach: %w", v.r.name, v.cfg.ID, err)
	}
	defer v.unlockAdmin()
	err := v.r.command(ctx, "", func(c *core.Core, cmd *core.Command) { c.Detach(cmd, v.index, o.force) })
	if err != nil {
		return fmt.Errorf("replica: %s/%d: detach: %w", v.r.name, v.cfg.ID, err)
	}
	if o.force {
		return nil // requests may hang in the queues
	}
	v.disk.Swap(nil).close()
	return nil
}

// lockAdmin waits until no other Attach or Detach of the volume runs.
func (v *Volume) lockAdmin(ctx context.Context) error {
	select {
	case v.admin <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (v *Volume) unlockAdmin() { <-v.admin }

// load reads the metadata of a disk. A disk that hangs is left behind when ctx ends:
// it is read, and nothing waits for it.
func load(ctx context.Context, d Disk) (*core.DiskImage, error) {
	type result struct {
		img *core.DiskImage
		err error
	}
	done := make(chan result, 1)
	go func() {
		meta := d.metaDevice()
		img, err := core.LoadDisk(byteReader{meta}, meta.Size(), d.MetaDisk, d.Device.Size(), limits(d.Device))
		done <- result{img, err}
	}()
	select {
	case got := <-done:
		return got.img, got.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the disk has not answered: %w", context.Cause(ctx))
	}
}

// diskState returns the state of the own disk.
func (v *Volume) diskState() protocol.DiskState {
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	return v.r.snapshot().Volumes[v.index].State.Disk
}

// hung returns how many requests a disk has not answered that was given up.
func (v *Volume) hung() int {
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	return v.r.snapshot().Volumes[v.index].Hung
}

// closeQueues waits for all disk operations.
func (v *Volume) closeQueues() { v.disk.Load().close() }
