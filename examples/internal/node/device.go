// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Device is a volume as its clients see it: what /dev/drbdN is to the kernel's users.
// It stays the same while the replica.Resource behind it is made anew. All methods
// are safe for concurrent use.
type Device struct {
	v       *Volume
	opens   atomic.Int64
	current atomic.Pointer[replica.Volume]
	lat     [Kinds]Histogram
}

// Errors of a Device, apart from package replica's.
var (
	// ErrSecondary: the device cannot be opened while the node is Secondary.
	ErrSecondary = errors.New("the node is Secondary: promote it first (drbdsetup primary)")
	// ErrGone: the device has no volume behind it.
	ErrGone = errors.New("the device is not configured")
)

// Name returns the resource's name, a slash, and the volume number, as "r0/0".
func (d *Device) Name() string { return d.v.r.name + "/" + itoa(int(d.v.id)) }

// Size returns the size in bytes, 0 while it is not known.
func (d *Device) Size() int64 {
	if vol := d.current.Load(); vol != nil {
		return vol.Size()
	}
	return 0
}

// Open counts a client in. It fails on a Secondary, unless the node promotes on demand:
// then it promotes first. Every Open that returned nil wants a Close.
func (d *Device) Open(ctx context.Context) error {
	r := d.v.r
	r.openMu.Lock()
	defer r.openMu.Unlock()
	res := r.replica()
	if res == nil {
		return ErrGone
	}
	if res.Status().Role() != protocol.Primary {
		if !r.node.cfg.AutoPromote {
			return ErrSecondary
		}
		if err := res.Promote(ctx); err != nil {
			return err
		}
		r.promoted = true
		r.node.log.Info("promoted for the first client", "resource", r.name, "volume", d.v.id)
	}
	d.opens.Add(1)
	return nil
}

// Close counts a client out. The last one of a resource that Open promoted demotes it.
func (d *Device) Close() {
	r := d.v.r
	r.openMu.Lock()
	defer r.openMu.Unlock()
	d.opens.Add(-1)
	if !r.promoted || r.inUse() {
		return
	}
	r.promoted = false
	res := r.replica()
	if res == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), demoteTimeout)
	defer cancel()
	if err := res.Demote(ctx); err != nil {
		r.node.log.Error("the last client has left, but the resource stays Primary", "resource", r.name, "err", err)
		return
	}
	r.node.log.Info("demoted, the last client has left", "resource", r.name)
}

// demoteTimeout bounds the demotion after the last client has left.
const demoteTimeout = 30 * time.Second

// Opens returns how many clients the device has.
func (d *Device) Opens() int { return int(d.opens.Load()) }

// Latency returns the histogram of a kind of requests.
func (d *Device) Latency(k Kind) *Histogram { return &d.lat[k] }

// do performs one request and counts it.
func (d *Device) do(k Kind, n int64, f func(*replica.Volume) error) error {
	vol := d.current.Load()
	if vol == nil {
		return ErrGone
	}
	begin := time.Now()
	err := f(vol)
	if err == nil {
		d.lat[k].add(time.Since(begin), n)
	}
	return err
}

// ReadAtContext reads. See replica.Volume.
func (d *Device) ReadAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = d.do(Read, int64(len(p)), func(v *replica.Volume) error { n, err = v.ReadAtContext(ctx, p, off); return err })
	return n, err
}

// WriteAtContext writes. See replica.Volume.
func (d *Device) WriteAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = d.do(Write, int64(len(p)), func(v *replica.Volume) error { n, err = v.WriteAtContext(ctx, p, off); return err })
	return n, err
}

// ReadAt implements io.ReaderAt.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	return d.ReadAtContext(context.Background(), p, off)
}

// WriteAt implements io.WriterAt.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	return d.WriteAtContext(context.Background(), p, off)
}

// WriteFUA writes what is durable when it returns. See replica.Volume.
func (d *Device) WriteFUA(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = d.do(Write, int64(len(p)), func(v *replica.Volume) error { n, err = v.WriteFUA(ctx, p, off); return err })
	return n, err
}

// Flush makes what was written before durable. See replica.Volume.
func (d *Device) Flush(ctx context.Context) error {
	return d.do(Flush, 0, func(v *replica.Volume) error { return v.Flush(ctx) })
}

// Discard gives up n bytes at off. See replica.Volume.
func (d *Device) Discard(ctx context.Context, off, n int64) error {
	return d.do(Discard, n, func(v *replica.Volume) error { return v.Discard(ctx, off, n) })
}

// WriteZeroes zeroes n bytes at off. See replica.Volume.
func (d *Device) WriteZeroes(ctx context.Context, off, n int64, opts ...replica.ZeroOption) error {
	return d.do(Zero, n, func(v *replica.Volume) error { return v.WriteZeroes(ctx, off, n, opts...) })
}
