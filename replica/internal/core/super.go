// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// superWriter writes the superblock: one write at a time, each with what is true
// when it starts. Every write is preceded by a flush and is durable when it is
// done (spec: on-disk 10.3).
type superWriter struct {
	dirty   bool
	writing bool
	hold    int                       // > 0: the bitmap has to be on disk first
	waiting []func(error)             // for the next write
	inWrite []func(error)             // for the one under way
	current metadata.UUID             // in the block under way
	bitmap  metadata.UUID             // and the bitmap identifier there
	durable metadata.UUID             // on disk
	primary bool                      // PrimaryInd is set on disk
	setting bool                      // and in the block under way
	clean   bool                      // the disk is leaving in order: the block says so
	buf     *[metadata.BlockSize]byte // of the block under way; a disk that does not answer keeps it
}

// syncSuper calls fn when the superblock as it is now, or as it is at the end of
// this event, is durable. Without a disk fn gets ErrDiskless.
func (v *volume) syncSuper(fn func(error)) {
	if !v.metaUsable() {
		fn(ErrDiskless)
		return
	}
	v.md.dirty = true
	v.md.waiting = append(v.md.waiting, fn)
}

// gateSuper holds data writes back until the superblock is durable.
func (v *volume) gateSuper() {
	v.gates++
	v.syncSuper(func(error) {
		v.gates--
		v.gateOpened()
	})
}

// gateOpened lets what waited for a gate go on.
func (v *volume) gateOpened() {
	if v.gates > 0 {
		return
	}
	v.admitHeld()
	v.active.wake()
	v.completeFrozen()
	for _, pd := range v.pds {
		pd.p.releaseHeld()
	}
}

// metaUsable reports whether metadata can be written.
func (v *volume) metaUsable() bool {
	return v.disk == protocol.Attaching || v.disk > protocol.Failed && v.disk != protocol.DUnknown
}

// writeDirtySuper begins a write if one is due.
func (v *volume) writeDirtySuper() {
	if !v.md.dirty || v.md.writing || v.md.hold > 0 || !v.metaUsable() {
		return
	}
	v.md.dirty, v.md.writing = false, true
	v.md.inWrite, v.md.waiting = v.md.waiting, v.md.inWrite[:0]
	v.prepareSuper()
}

// prepareSuper sees to what has to be on the disks before the block is.
func (v *volume) prepareSuper() {
	leaves := func() bool { return v.md.primary && v.sb.Flags&metadata.PrimaryInd == 0 }
	left, ids := leaves(), v.ids
	write := func(err error) {
		if err == nil && (leaves() && !left || v.ids != ids && !v.sameDevice) {
			v.prepareSuper() // the block says something else by now
			return
		}
		v.writeSuper(err)
	}
	if left {
		// From then on the activity log no longer stands in for marks that are
		// not on disk yet, nor for what the data device may have in its cache.
		// (On the same device the flush in front of the block sees to the latter.)
		v.bitmapFirst(func(err error) {
			if err != nil || v.sameDevice {
				write(err)
				return
			}
			v.flushData(write)
		})
		return
	}
	named := v.ids.Bitmap != metadata.UUIDNone && !v.ids.Bitmap.Equal(v.md.bitmap)
	if !v.sameDevice && (named || !v.ids.Current.Equal(v.md.current)) && v.disk > protocol.Attaching {
		// What the last generation has acknowledged is in this disk's cache, perhaps
		// only there once the new one has a name. And what the peer wrote just before
		// it was lost came into the cache after that: a resync that is about to begin
		// gives it back to the peer, and clears the peer's marks.
		v.flushData(write)
		return
	}
	v.writeSuper(nil)
}

// writeSuper writes the block as it is now.
func (v *volume) writeSuper(err error) {
	if err == nil && !v.metaUsable() {
		err = ErrDiskless
	}
	if err != nil {
		v.superWritten(err)
		return
	}
	if v.md.buf == nil {
		v.md.buf = new([metadata.BlockSize]byte)
	}
	sb := v.superblock()
	sb.Encode(v.md.buf)
	v.md.current, v.md.bitmap, v.md.setting = sb.Current, sb.Bitmap, sb.Flags&metadata.PrimaryInd != 0
	o := v.c.op()
	o.Kind, o.Volume, o.vol, o.Meta = OpWrite, v.idx, v, true
	o.Off, o.Buf, o.Len = v.layout.SuperblockOffset, v.md.buf[:], metadata.BlockSize
	o.PreFlush, o.FUA = true, true
	o.done = superDone
	v.c.issue(o)
}

// superblock is the block as it should be on disk now. While a disk is attached
// the magic is the unclean one, so that nobody takes it without a replay.
func (v *volume) superblock() metadata.Superblock {
	sb := v.sb
	sb.EffectiveSize = v.size
	sb.Current, sb.Bitmap = v.ids.Current, v.ids.Bitmap
	sb.History[0], sb.History[1] = v.ids.History[0], v.ids.History[1]
	sb.Unclean = !v.md.clean
	sb.Flags &^= metadata.ALClean
	if v.md.clean {
		sb.Flags |= metadata.ALClean
	}
	return sb
}

func superDone(_ *Core, o *Op) {
	v := o.vol
	if o.Err != nil {
		v.diskFailed(causeMeta, "superblock", o.Err)
	} else {
		v.md.primary, v.md.durable = v.md.setting, v.md.current
		v.expose(v.md.current)
		if v.unborn.Equal(v.md.current) {
			// The disk has failed meanwhile, and holds it all the same: after a crash
			// of this node it counts. A peer that goes on from the one before would
			// be in a split brain then.
			v.wroteAlone()
		}
	}
	v.superWritten(o.Err)
}

// superWritten is the end of a write: everybody who waited for it goes on.
func (v *volume) superWritten(err error) {
	v.md.writing = false
	fns := v.md.inWrite
	v.md.inWrite = nil
	for _, fn := range fns {
		fn(err)
	}
	if !v.metaUsable() {
		v.failSuperWaiters()
	}
}

// failSuperWaiters tells everybody who waits for a superblock that there will be none.
func (v *volume) failSuperWaiters() {
	fns := v.md.waiting
	v.md.waiting, v.md.dirty = nil, false
	for _, fn := range fns {
		fn(ErrDiskless)
	}
}

// setIDs stores a changed tuple of generation identifiers; it reaches the disk
// with the next superblock.
func (v *volume) setIDs(ids metadata.GenerationIDs) {
	if ids != v.ids {
		v.ids = ids
		v.md.dirty = true
	}
}

// expose remembers the generation that users see (spec: behaviour 3.2). One that
// is not durable yet has no users: no write of it has completed.
func (v *volume) expose(current metadata.UUID) {
	if v.disk >= protocol.Consistent && v.disk != protocol.DUnknown {
		v.exposed, v.exposedWas = current, metadata.UUIDNone
		if v.unborn.Equal(current) {
			v.unborn = metadata.UUIDNone
		}
	}
}

// wroteAlone: a write has completed that the peer does not have, in the present
// generation. The disk may have failed before that was durable; users have seen it.
func (v *volume) wroteAlone() {
	if v.unborn != metadata.UUIDNone {
		v.exposed, v.unborn = v.unborn, metadata.UUIDNone
	}
}

// takeBack undoes a generation on a disk that failed while the superblock was written:
// no write has completed in it, and users may have gone on with the peer's disk.
func (v *volume) takeBack(sb *metadata.Superblock) {
	if v.unborn != metadata.UUIDNone && !v.asked && sb.Current.Equal(v.unborn) && sb.Bitmap != metadata.UUIDNone {
		v.logf(LogInfo, "nothing was written in generation %s", sb.Current)
		sb.Current, sb.Bitmap = sb.Bitmap, metadata.UUIDNone
	}
}

// beginGeneration begins a data generation, durable before the next write completes
// (spec: behaviour 3.3).
func (v *volume) beginGeneration(b metadata.Birth) {
	v.setIDs(v.ids.Begin(b, metadata.UUID(v.c.cfg.Rand()), v.role == protocol.Primary))
	v.pds[0].feed = metadata.Feed{}
	v.asked = false // the arbiter was, about the last one
	v.unborn = metadata.UUIDNone
	if b == metadata.BirthNew && v.role == protocol.Primary {
		v.unborn = v.ids.Current
	}
	v.logf(LogInfo, "new current UUID: %s", v.ids)
	v.gateSuper()
	v.tellAnew()
}

// tellAnew ends a handshake that a generation has begun in the middle of, as I/O was
// resumed: the peer was told the one before, and would take it over from a resync.
func (v *volume) tellAnew() {
	pd := v.pds[0]
	if p, gen := pd.p, pd.p.gen; pd.stateSent && pd.conn == protocol.WFReportParams {
		v.c.when(func() bool { return true }, func() {
			if p.gen == gen {
				p.meetAgain("a new generation in the middle of a handshake")
			}
		})
	}
}

// skipInitialSync clears the bitmap, on disk before the superblock that says the
// data is good: the other way round a crash would leave marks that nothing removes.
func (v *volume) skipInitialSync(pd *peerDevice, fn func(error)) {
	pd.bm.ClearAll()
	v.md.hold++
	v.bitmapFirst(func(error) {
		v.md.hold--
		v.md.dirty = true
		v.syncSuper(fn)
	})
}

// setAllOutOfSync marks everything out of sync.
func (v *volume) setAllOutOfSync(pd *peerDevice) {
	pd.bm.SetAll()
	v.al.susp = false
	v.replaceBitmap(func(err error) {
		if err == nil && v.role == protocol.Primary {
			v.suspendAL()
		}
	})
}
