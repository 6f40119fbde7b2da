// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// DiskImage is a disk as LoadDisk found it, ready to be attached.
type DiskImage struct {
	Super      metadata.Superblock
	Layout     metadata.Layout
	Bitmap     *bitmap.Bitmap // out-of-sync blocks, with the activity log applied; nil if the disk was never sized
	Replayed   int            // hot extents that were applied
	Capacity   uint64         // sectors that the backing device offers
	Limits     DiskLimits
	SameDevice bool // metadata lies on the data device
	Other      bool // it is certainly not the disk that the volume had last
}

// DiskLimits is what the backing device can do.
type DiskLimits struct {
	LogicalBlock, PhysicalBlock uint32 // bytes
	Discard                     bool
	DiscardZeroes               bool // discarded ranges read as zeroes
}

// LoadDisk reads superblock, activity log and bitmap from the metadata device
// and replays the activity log in memory. It writes nothing. For internal metadata
// meta and metaBytes are those of the data device.
func LoadDisk(meta io.ReaderAt, metaBytes int64, loc metadata.Location, dataBytes int64, lim DiskLimits) (*DiskImage, error) {
	sb, layout, err := metadata.Read(meta, loc, metaBytes)
	if err != nil {
		return nil, err
	}
	if sb.Version != metadata.V08 {
		return nil, fmt.Errorf("%w: the disk has %v metadata; convert it to v08, the format of protocol 101", ErrConfig, sb.Version)
	}
	img := &DiskImage{Super: sb, Layout: layout, Limits: lim, SameDevice: loc.IsInternal()}
	img.Capacity = layout.UsableWith(dataBytes)
	size := min(sb.EffectiveSize, img.Capacity)
	if size == 0 {
		return img, nil
	}
	img.Bitmap = bitmap.New(bitmap.BitsFor(size))
	if err := img.Bitmap.Load(meta, layout.BitmapOffset, 0, 1); err != nil {
		return nil, fmt.Errorf("read the bitmap: %w", err)
	}
	if sb.Flags&metadata.PrimaryInd != 0 && sb.NeedsApplyAL() {
		if err := img.replay(meta); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// The magics of v08, which tell how old the activity log may be (spec: on-disk 5.6).
const (
	magicV08        = 0x8374026B
	magicV08Unclean = 0x8374026C
)

// replay marks every block of every hot extent: a Primary may have been writing there
// when it crashed. The log counts only if PrimaryInd is set (spec: behaviour 7.4).
func (img *DiskImage) replay(meta io.ReaderAt) error {
	g := activitylog.Geometry{Stripes: img.Super.ALStripes, StripeSize4k: img.Super.ALStripeSize4k}
	magic := uint32(magicV08)
	if img.Super.Unclean {
		magic = magicV08Unclean
	}
	off := img.Layout.ActivityLogOffset
	format, err := activitylog.DetectFormat(meta, off, g, magic)
	var res activitylog.Result
	if err == nil {
		res, err = activitylog.ReplayFormat(format, meta, off, g, img.Super.ALExtents)
	}
	if err != nil {
		return fmt.Errorf("replay of the activity log (%d blocks): %w; if the log is lost, invalidate this disk with drbdmeta or metatool", g.Blocks(), err)
	}
	for _, e := range res.Hot {
		from := uint64(e) * activitylog.ExtentSectors / 8
		img.Bitmap.SetRange(min(from, img.Bitmap.Len()), min(from+activitylog.ExtentSectors/8, img.Bitmap.Len()))
	}
	img.Replayed = len(res.Hot)
	return nil
}

// Attach brings a loaded disk into service (spec: behaviour 2.8, 7.3; on-disk 10.2):
// what the replay found goes to the bitmap on disk, then the superblock says "in use",
// then the log is emptied.
func (c *Core) Attach(cmd *Command, vol int, img *DiskImage) {
	v := c.vols[vol]
	defer c.settle()
	var misfit error
	attaching := func() protocol.Code {
		if v.disk == protocol.Diskless {
			v.takeBack(&img.Super)
		}
		if misfit = v.checkAttach(img); misfit != nil {
			return protocol.CodeSuccess
		}
		return c.change(v.pds[0], wish, func(s *protocol.State) { s.Disk = protocol.Attaching })
	}
	c.patiently(cmd, attaching, func(code protocol.Code) {
		switch {
		case misfit != nil:
			c.finish(cmd, fmt.Errorf("attach: %w", misfit))
		case !code.Success():
			c.finish(cmd, refused("attach", code, false))
		default:
			v.bringUp(cmd, img)
		}
	})
}

// bringUp is what follows once the disk may be attached.
func (v *volume) bringUp(cmd *Command, img *DiskImage) {
	c, pd := v.c, v.pds[0]
	v.load(img)
	fail := func(err error) {
		c.change(pd, fact, func(s *protocol.State) { s.Disk = protocol.Failed })
		c.finish(cmd, fmt.Errorf("attach: %w: %w", ErrIO, err))
	}
	then := func(next func()) func(error) {
		return func(err error) {
			if err != nil {
				fail(err)
				return
			}
			next()
		}
	}
	// In this order: once the superblock has no PrimaryInd nobody looks at the log,
	// and the log may be torn while it is emptied.
	v.flushOld(then(func() {
		v.writeBitmap(nil, then(func() {
			v.attachFlags()
			v.syncSuper(then(func() {
				v.initAL(then(func() { v.attached(cmd) }))
			}))
		}))
	}))
}

// flushOld makes durable what a process that was killed has left in the disk's cache: a
// resync gives it to the peer, and then nothing marks it any more. With the metadata on
// the same device the next flush of that does so.
func (v *volume) flushOld(fn func(error)) {
	if v.sameDevice {
		fn(nil)
		return
	}
	v.flushData(fn)
}

// checkAttach refuses disks that do not fit (spec: on-disk 10.1, 13 to 16).
func (v *volume) checkAttach(img *DiskImage) error {
	pd := v.pds[0]
	sb := &img.Super
	switch {
	case v.disk != protocol.Diskless:
		return ErrAttached
	case v.hung > 0 && !img.Other:
		return v.stillHung()
	case img.Capacity == 0:
		return fmt.Errorf("%w: the disk has no room for data", ErrConfig)
	case v.user > img.Capacity:
		return fmt.Errorf("%w: size %d sectors is configured, the disk takes %d", ErrConfig, v.user, img.Capacity)
	case sb.Flags&metadata.Consistent != 0 && v.user == 0 && sb.EffectiveSize > img.Capacity:
		return fmt.Errorf("%w: the data has %d sectors, the disk takes %d", ErrShrink, sb.EffectiveSize, img.Capacity)
	case v.size > img.Capacity && (v.role == protocol.Primary || pd.conn >= protocol.Connected):
		return fmt.Errorf("%w: the running volume has %d sectors, the disk takes %d", ErrShrink, v.size, img.Capacity)
	}
	if v.role == protocol.Primary && pd.conn < protocol.Connected && v.peerBears {
		return fmt.Errorf("%w: the peer was lost before it told which generation it began without this disk; connect it, or demote first", ErrDataStale)
	}
	primary := v.role == protocol.Primary || pd.role == protocol.Primary && pd.disk < protocol.Inconsistent
	if primary && v.exposed != 0 && !metadata.AcceptsData(v.exposed, sb.Current, metadata.DiskState(pd.disk)) {
		return fmt.Errorf("%w: it has generation %s, the disk %s", ErrDataStale, v.exposed, sb.Current)
	}
	if v.lacks(sb.Current) && v.role == protocol.Primary && (pd.conn < protocol.Connected || pd.disk != protocol.UpToDate) {
		return fmt.Errorf("%w: only the peer has the last acknowledged writes; connect it first", ErrDataStale)
	}
	return nil
}

// lacks reports whether a disk with this generation went before the last acknowledged
// writes. The peer may not have heard of that, and have begun no generation of its own.
func (v *volume) lacks(current metadata.UUID) bool {
	return v.missed != metadata.UUIDNone && v.missed.Equal(current)
}

// load takes over what was read.
func (v *volume) load(img *DiskImage) {
	v.lostWrites = v.lostWrites || v.lostCache && v.role == protocol.Primary && !mirrors(v.pds[0].state())
	v.lostCache, v.unborn = false, metadata.UUIDNone
	v.degraded = img.Super.Flags&metadata.PrimaryInd != 0 && img.Super.Flags&metadata.ConnectedInd == 0
	v.md.primary, v.md.durable = img.Super.Flags&metadata.PrimaryInd != 0, img.Super.Current
	v.sb, v.layout, v.limits, v.capacity, v.sameDevice = img.Super, img.Layout, img.Limits, img.Capacity, img.SameDevice
	v.ids = metadata.GenerationIDs{Current: v.sb.Current, Bitmap: v.sb.Bitmap,
		History: [2]metadata.UUID{v.sb.History[0], v.sb.History[1]}}
	v.ids = v.ids.SetPrimary(v.role == protocol.Primary)
	v.crashedPrimary = v.sb.Flags&(metadata.CrashedPrimary|metadata.PrimaryInd) != 0
	if v.lacks(v.sb.Current) {
		v.sb.Flags &^= metadata.Consistent | metadata.WasUpToDate // the peer's is the good one, whoever was Primary
	}
	v.negotiated = attachState(v.sb.Flags, v.cfg.Fencing)
	size := v.sb.EffectiveSize
	if size == 0 || size > v.capacity {
		size = v.capacity
	}
	if v.user != 0 {
		size = v.user
	}
	if v.size != 0 && v.pds[0].conn >= protocol.Connected {
		size = v.size // the cluster has a size; the disk was checked to be large enough
	}
	v.size = size
	pd := v.pds[0]
	bits := bitmap.BitsFor(size)
	pd.bm = img.Bitmap
	if pd.bm == nil {
		// Never sized: nothing is known to be in sync (spec: on-disk, trap 11).
		pd.bm = bitmap.New(bits)
		pd.bm.SetAll()
		pd.bm.MarkAllDirty()
	} else if pd.bm.Len() != bits {
		pd.bm.Resize(bits, true)
	}
	if v.sb.Flags&metadata.FullSync != 0 || v.crashedPrimary && v.sb.Flags&metadata.ALDisabled != 0 {
		pd.bm.SetAll()
		pd.bm.MarkAllDirty()
	}
	if img.Replayed > 0 {
		v.logf(LogInfo, "applied %d extents of the activity log", img.Replayed)
	}
	v.c.event(Event{Kind: EventSize, Volume: v.idx, Bytes: int64(size) * 512})
	pd.feed = metadata.FeedAfterAttach(v.ids) // marks on disk say nothing: it may have failed before they were removed
	v.newAL()
}

// attachState is the table of spec: behaviour 7.3.
func attachState(f metadata.Flags, fencing Fencing) protocol.DiskState {
	switch {
	case f&metadata.Consistent == 0:
		return protocol.Inconsistent
	case f&metadata.WasUpToDate == 0:
		return protocol.Outdated
	case f&metadata.PeerOutdated == 0 && fencing != FencingDontCare:
		return protocol.Consistent
	}
	return protocol.UpToDate
}

// attachFlags are those of a disk in use, until the state says more.
func (v *volume) attachFlags() {
	f := v.sb.Flags &^ (metadata.FullSync | metadata.ALDisabled | metadata.PrimaryInd)
	if v.crashedPrimary {
		f |= metadata.CrashedPrimary
	}
	v.sb.Flags = f
	v.alFlag()
}

// attached: the superblock says so; now the state may.
func (v *volume) attached(cmd *Command) {
	c, pd := v.c, v.pds[0]
	if pd.conn == protocol.WFReportParams {
		// The peer was told that this node is diskless; it hears of the disk when
		// the handshake is over.
		c.when(func() bool { return pd.conn != protocol.WFReportParams }, func() { v.attached(cmd) })
		return
	}
	if v.disk != protocol.Attaching {
		c.finish(cmd, fmt.Errorf("attach: %w", ErrIO))
		return
	}
	if (pd.conn < protocol.Connected || pd.disk < protocol.Negotiating) && v.hasShownOther() {
		// The peer, whose data users have seen, and who was to bring this disk up
		// to date, or its disk, has gone while the disk was read.
		v.abortStale()
		c.finish(cmd, fmt.Errorf("attach: %w", v.attachErr))
		return
	}
	if pd.conn < protocol.Connected {
		// While unconnected the peer's disk is as the superblock remembers it.
		c.change(pd, fact, func(s *protocol.State) {
			s.Disk = v.negotiated
			if v.sb.Flags&metadata.PeerOutdated != 0 {
				s.PeerDisk = protocol.Outdated
			}
		})
		v.syncSuper(func(err error) {
			if err != nil {
				err = fmt.Errorf("attach: %w", err)
			}
			c.finish(cmd, err)
		})
		return
	}
	c.change(pd, fact, func(s *protocol.State) { s.Disk = protocol.Negotiating })
	pd.sizesValid = true
	pd.sendSizes(0)
	pd.sendUUIDs(0)
	pd.sendState()
	pd.idsDue = true
	c.when(func() bool { return v.disk != protocol.Negotiating }, func() {
		if v.disk <= protocol.Failed {
			c.finish(cmd, fmt.Errorf("attach: %w", errors.Join(v.attachErr, ErrDataStale)))
			return
		}
		c.finish(cmd, nil)
	})
}

// hasShownOther reports whether the users of a Primary have seen, or may have written, data
// that its own disk does not have.
func (v *volume) hasShownOther() bool {
	return v.role == protocol.Primary && (v.peerBears || v.lacks(v.ids.Current) ||
		v.exposed != 0 && !metadata.AcceptsData(v.exposed, v.ids.Current, metadata.DiskUnknown))
}

// abortStale gives up the attach of a disk for hasShownOther.
func (v *volume) abortStale() {
	v.abortAttach(fmt.Errorf("%w: it has generation %s, the disk %s", ErrDataStale, v.exposed, v.ids.Current))
}

// abortAttach: the handshake does not want this disk.
func (v *volume) abortAttach(err error) {
	v.attachErr = err
	v.c.change(v.pds[0], fact, func(s *protocol.State) { s.Disk = protocol.Failed })
}
