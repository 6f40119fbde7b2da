// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// ResizeOption is a rare variant of [Volume.Resize].
type ResizeOption interface{ resize(*core.ResizeOptions) }

type resizeOption func(*core.ResizeOptions)

func (f resizeOption) resize(o *core.ResizeOptions) { f(o) }

// AssumeClean declares that what the volume grows by is equal on both nodes, as new
// storage that reads as zeroes is: it is not copied.
func AssumeClean() ResizeOption {
	return resizeOption(func(o *core.ResizeOptions) { o.AssumeClean = true })
}

// AssumePeerHasSpace lets a volume grow while the peer is away, although nothing is known
// of its disk. If that turns out to be too small, the nodes refuse each other.
func AssumePeerHasSpace() ResizeOption {
	return resizeOption(func(o *core.ResizeOptions) { o.AssumePeerHasSpace = true })
}

// Resize changes the size of the volume, in bytes; 0 means as large as both disks allow.
// Call it on one node, after the disks of both have grown. The node looks at its disk
// again, and so does the connected peer. It returns when the new size is in force and durable on
// this node and the peer has answered; what is new is then resynced, unless
// AssumeClean is given. A smaller size cuts off what lies behind it, without a question.
//
// The volume is in use meanwhile; requests wait while metadata is written. Internal
// metadata moves to the new end of the disk. If the process dies before that is done, the metadata
// is still whole at its old place, where [MoveMetadata] finds it. A disk that has grown
// by less than its metadata takes can only be moved while detached.
//
// The peer adopts the size. VolumeConfig.Size of both nodes has to follow before they
// are opened again.
//
// Errors: ErrRefused during a resync, while both nodes are Secondary, and if the peer
// changes the size at the same time and goes first; ErrDiskless;
// ErrShrink if the disks have become smaller than the volume; ErrConfig for a size that is
// not possible; ErrConnectionLost, after which the nodes agree when they connect again.
func (v *Volume) Resize(ctx context.Context, size int64, opts ...ResizeOption) error {
	doing := fmt.Sprintf("volume %d: resize to %d bytes", v.cfg.ID, size)
	if size < 0 || size%metadata.SectorSize != 0 {
		return v.r.explain(doing, ErrAlignment)
	}
	if err := v.lockAdmin(ctx); err != nil {
		return v.r.explain(doing, err)
	}
	defer v.unlockAdmin()
	o := core.ResizeOptions{Size: uint64(size) / metadata.SectorSize}
	for _, opt := range opts {
		opt.resize(&o)
	}
	bytes := v.disk.Load().size()
	err := v.r.command(ctx, doing, func(c *core.Core, cmd *core.Command) {
		c.DeviceSize(v.index, bytes)
		c.Resize(cmd, v.index, o)
	})
	if err == nil {
		v.r.mu.Lock()
		v.now.Size = size
		v.r.mu.Unlock()
	}
	return err
}

// size asks the device for its size again.
func (d *disk) size() int64 {
	if d == nil {
		return 0
	}
	if rs, ok := d.dev.(blockdev.Resizer); ok {
		if n, err := rs.RefreshSize(); err == nil {
			return n
		}
	}
	return d.dev.Size()
}

// deviceSize is the size that a volume's device has by now.
type deviceSize struct {
	vol   int
	bytes int64
}

// deviceSizes looks at the devices of all volumes.
func (r *Resource) deviceSizes() (list []deviceSize) {
	for _, v := range r.volumes {
		if d := v.disk.Load(); d != nil {
			list = append(list, deviceSize{v.index, d.size()})
		}
	}
	return list
}

// grown looks at the devices of the volumes for which a P_SIZES has come: the peer's
// administrator may have changed their size.
func (rd *reader) grown() (list []deviceSize) {
	if rd.st.id != protocol.DataStream {
		return nil
	}
	for i := range rd.batch {
		h := &rd.batch[i].header
		if h.Command != protocol.CmdSizes {
			continue
		}
		if v := rd.l.r.Volume(h.Volume); v != nil && v.disk.Load() != nil {
			list = append(list, deviceSize{v.index, v.disk.Load().size()})
		}
	}
	return list
}

// MoveMetadata moves internal metadata to the end of a disk that has grown while it was
// not in use, from oldBytes ("drbdadm check-resize", spec: on-disk 9.3). The volume keeps
// its size until [Volume.Resize], or until both nodes connect and both disks offer
// more. Errors: ErrConfig for other metadata, those of metadata.Resize and of the device.
func MoveMetadata(d Disk, oldBytes int64) error {
	err := checkDisk(d.MetaDisk, d.MetaDevice)
	switch {
	case err != nil:
	case d.Device == nil:
		err = fmt.Errorf("%w: Disk.Device is nil", ErrConfig)
	case !d.MetaDisk.IsInternal():
		err = fmt.Errorf("%w: only internal metadata lies at the end of the disk", ErrConfig)
	default:
		in := &disk{dev: d.Device}
		_, _, err = metadata.Resize(d.Device, d.MetaDisk, oldBytes, in.size(), metadata.ResizeOptions{})
	}
	if err != nil {
		return fmt.Errorf("replica: move metadata: %w", err)
	}
	return nil
}
