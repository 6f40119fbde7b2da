// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// The size of a volume while it is in use (spec: behaviour 6.10, wire 8.15). The node
// with the command tells the peer what it offers, the peer takes the smaller of both
// and answers, and both resync what is new:
//
//	command ── P_UUIDS, P_SIZES (current size 0) ──► takes the new size
//	takes it ◄──────────────── P_SIZES ───────────── resync of new storage begins
//
// A Primary takes a size within what it knows of the peer before it tells: when it
// shrinks, none of its writes may lie behind the peer's end.
//
// Internal metadata lies at the end of the disk. When the disk has grown it is written
// anew at the new end, and what is at the old place counts until the superblock at the
// new one is durable:
//
//	before   | data ................ | metadata |                        |
//	writes   | data ................ | metadata |    log, bitmap         |
//	then     | data ................ | metadata |    log, bitmap, super  |
//	after    | data ....................................... | metadata   |
//
// The two places must not overlap. The blocks of the old one become data, and are out
// of sync.

// ResizeOptions are the choices of Resize.
type ResizeOptions struct {
	Size               uint64 // sectors; 0 for as large as both disks allow
	AssumePeerHasSpace bool   // not connected: grow although the peer's disk may be smaller
	AssumeClean        bool   // what is new is equal on both nodes: no resync
}

// DeviceSize tells how many bytes the data device of a volume has by now. It changes
// nothing: Resize here, or on the peer, makes use of it.
func (c *Core) DeviceSize(vol int, bytes int64) {
	v := c.vols[vol]
	v.space, v.next = v.capacity, nil
	if !v.hasDisk() {
		return
	}
	if !v.sameDevice {
		v.space = max(v.capacity, v.layout.UsableWith(bytes))
		return
	}
	l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), bytes, v.sb.Geometry())
	switch {
	case err != nil || l.UsableSectors <= v.capacity:
	case l.BitmapOffset < v.layout.SuperblockOffset+metadata.BlockSize:
		v.logf(LogWarn, "the disk has grown by less than its metadata takes: it cannot be moved while in use")
	default:
		v.space, v.next = l.UsableSectors, &l
	}
}

// offers is what the peer is told of the own disk, in sectors.
func (v *volume) offers() uint64 { return max(v.capacity, v.space) }

// growFirst reports that the metadata has to move before the nodes can connect with the
// size that both disks allow (the peer will take it), and sees to it: the connection is
// given up for that time.
func (pd *peerDevice) growFirst(size uint64) bool {
	v := pd.v
	if !v.hasDisk() || v.next == nil || size <= v.capacity {
		return false
	}
	v.logf(LogInfo, "both disks take %d sectors: connecting anew when the metadata has moved", size)
	if v.coming == 0 {
		v.setSize(size, false, func(error) {})
		pd.resync.grow = true
	}
	pd.p.lose(protocol.BrokenPipe)
	return true
}

// Resize changes the size of a volume. Errors: ErrDiskless (138), ErrRefused with the
// reason (130, 131), ErrConfig for a size that is not possible, ErrShrink, ErrIO.
func (c *Core) Resize(cmd *Command, vol int, opt ResizeOptions) {
	v := c.vols[vol]
	pd := v.pds[0]
	defer c.settle()
	if pd.conn == protocol.WFReportParams {
		c.when(func() bool { return pd.conn != protocol.WFReportParams || cmd.finished }, func() {
			if !cmd.finished {
				c.Resize(cmd, vol, opt)
			}
		})
		return
	}
	size, err := v.checkResize(opt)
	if err != nil {
		c.finish(cmd, fmt.Errorf("resize: %w", err))
		return
	}
	v.user, v.cfg.UserSize = opt.Size, opt.Size
	// The peer is told before the first write behind its end can go out: those wait for
	// the gates of the change.
	tell := func(err error) {
		if err != nil || pd.conn < protocol.Connected {
			pd.resizing = false
			v.finishResize(cmd, err)
			return
		}
		v.user, v.cfg.UserSize = opt.Size, opt.Size // the peer may have wished for another one meanwhile
		if pd.asked, pd.outdone = true, false; !pd.resizing {
			pd.resizing, pd.resizedFrom = true, v.size
		}
		pd.askSizes(cmd, opt.AssumeClean)
	}
	if pd.conn >= protocol.Connected {
		pd.resizing, pd.asked, pd.resizedFrom = true, false, v.size
		if v.role != protocol.Primary {
			tell(nil)
			return
		}
	}
	if pd.conn < protocol.Connected && size > v.size && !opt.AssumeClean {
		pd.resync.grow = true // the peer, too, may have done so alone: nobody copies what is new
	}
	v.setSize(size, opt.AssumeClean, func(err error) {
		if err != nil {
			err = fmt.Errorf("resize: %w", err)
		}
		tell(err)
	})
}

// finishResize ends a command when what it changed is durable.
func (v *volume) finishResize(cmd *Command, err error) {
	v.c.when(func() bool { return v.gates == 0 || cmd.finished }, func() {
		if err == nil && !v.hasDisk() {
			err = fmt.Errorf("resize: %w", ErrIO)
		}
		v.c.finish(cmd, err)
	})
}

// checkResize says which size a command leads to, as far as this node knows.
func (v *volume) checkResize(opt ResizeOptions) (uint64, error) {
	pd := v.pds[0]
	switch {
	case !v.hasDisk():
		return 0, ErrDiskless
	case pd.conn > protocol.Connected:
		return 0, fmt.Errorf("%w: not during a resync or verify (130)", ErrRefused)
	case v.role == protocol.Secondary && pd.role == protocol.Secondary:
		return 0, fmt.Errorf("%w: one of the nodes has to be Primary (131)", ErrRefused)
	case v.coming > 0 || pd.resizing || pd.adopting > 0:
		return 0, fmt.Errorf("%w: another change of the size is under way", ErrRefused)
	}
	own := v.offers()
	size := own
	switch peer := pd.sizes.DiskSize; {
	case opt.AssumePeerHasSpace && pd.conn < protocol.Connected, v.c.cfg.noPeer:
	case peer != 0:
		size = min(size, peer)
	default:
		size = min(size, v.size) // nobody knows what the peer has
	}
	switch {
	case opt.Size > own, opt.Size > size && pd.conn < protocol.Connected:
		return 0, fmt.Errorf("%w: %d sectors are asked for, %d are possible", ErrConfig, opt.Size, size)
	case opt.Size != 0:
		size = min(opt.Size, size)
	case size < v.size:
		return 0, fmt.Errorf("%w: %d sectors, now %d", ErrShrink, size, v.size)
	}
	return size, nil
}

// askSizes tells the peer, and finishes the command when it has answered.
func (pd *peerDevice) askSizes(cmd *Command, clean bool) {
	c, gen := pd.v.c, pd.p.gen
	flags := protocol.SizesFlags(0)
	if clean {
		flags |= protocol.SizesNoResync
	}
	pd.sendUUIDs(0)
	pd.sendSizesAs(flags, 0)
	c.when(func() bool { return !pd.resizing || pd.p.gen != gen || !pd.p.alive() }, func() { // also if it was given up
		err := error(nil)
		switch {
		case pd.outdone && pd.p.gen == gen:
			err = fmt.Errorf("resize: %w: the peer changed the size at the same time, and its change goes first", ErrRefused)
		case pd.resizing:
			err = fmt.Errorf("resize: %w: the peer may have taken the size; if the nodes refuse each other now, resize the one that has not", ErrConnectionLost)
		}
		pd.resizing, pd.outdone = false, false
		pd.v.finishResize(cmd, err)
	})
}

// resized draws the conclusions of a P_SIZES while connected.
func (pd *peerDevice) resized(q protocol.Sizes, before uint64) {
	v := pd.v
	from := before
	if pd.resizing {
		from = min(from, pd.resizedFrom)
	}
	pd.resizing = false
	if v.size <= from {
		return
	}
	if q.Flags&protocol.SizesNoResync != 0 {
		v.logf(LogInfo, "no resync of the new storage, as was asked for")
		return
	}
	if v.disk != protocol.UpToDate || pd.disk != protocol.UpToDate {
		pd.resync.grow = true // a disk is being attached
		return
	}
	pd.syncNewStorage()
}

// syncGrown: the nodes have connected, or a disk was attached, they have found their data
// equal, and the volume has grown by storage that is not. A new generation, and a new
// connection, make one of them the source; DRBD leaves the marks, and the difference, until
// something else does.
func (pd *peerDevice) syncGrown() {
	r, v := &pd.resync, pd.v
	r.grow = r.grow && pd.conn == protocol.Connected && pd.oosBlocks() > 0 // else there is nothing to do, or a resync does it
	source := v.role == protocol.Primary && pd.role != protocol.Primary || v.role == pd.role && pd.p.resolver
	if !r.grow || !source || v.disk != protocol.UpToDate || pd.disk != protocol.UpToDate || v.ids.Bitmap != metadata.UUIDNone {
		return // not yet, or the peer does it: if this connection lasts
	}
	r.grow = false
	v.logf(LogInfo, "the volume has grown: connecting anew for a resync of the new storage")
	v.beginGeneration(metadata.BirthNew)
	pd.p.lose(protocol.BrokenPipe)
}

// setSize changes the size; done is called when it is in force.
func (v *volume) setSize(size uint64, clean bool, done func(error)) {
	c := v.c
	switch {
	case v.coming > 0:
		c.when(func() bool { return v.coming == 0 }, func() { v.setSize(size, clean, done) })
	case size == v.size:
		done(nil)
	case v.hasDisk() && size > v.capacity && v.next != nil:
		v.coming = size
		v.whenStill(func() { v.moveMetadata(size, clean, done) })
	case v.hasDisk() && size < v.size && v.role == protocol.Primary:
		v.whenStill(func() { // no write may lie behind the end
			v.resize(size, clean)
			done(nil)
		})
	default:
		if v.hasDisk() {
			v.capacity = max(v.capacity, min(v.space, size))
		}
		v.resize(size, clean)
		done(nil)
	}
	c.stateAdmits()
}

// whenStill holds new requests of the application back until none is under way, calls
// fn, and lets them in again.
func (v *volume) whenStill(fn func()) {
	c := v.c
	v.freezing++
	for _, p := range c.peers {
		p.closeEpoch()
	}
	c.when(func() bool { return v.still() || !v.hasDisk() }, func() {
		fn()
		v.freezing--
		v.admitHeld()
	})
}

// still reports that no application request is under way, here or unflushed at the
// peer, and no metadata is being written.
func (v *volume) still() bool {
	for _, p := range v.c.peers {
		if p.tx.first != nil {
			return false
		}
	}
	l := v.al.log
	return v.appPending == 0 && (l == nil || l.Referenced()+l.Pending() == 0) && !v.al.writing && len(v.al.waiting) == 0 &&
		!v.bmw.running && !v.md.writing && v.md.hold == 0 && v.gates == 0
}

// moveMetadata writes log, bitmap and superblock at the new end of the disk.
func (v *volume) moveMetadata(size uint64, clean bool, done func(error)) {
	v.coming = 0
	if !v.hasDisk() || v.next == nil {
		done(ErrDiskless)
		return
	}
	old, pd := v.layout, v.pds[0]
	v.logf(LogInfo, "size changed from %d to %d sectors, the metadata moves", v.size, size)
	v.layout, v.next = *v.next, nil
	v.capacity, v.size = v.layout.UsableSectors, size
	v.sb.MDSizeSectors, v.sb.ALOffset, v.sb.BMOffset = v.layout.MDSizeSectors, v.layout.ALOffset, v.layout.BMOffset
	pd.bm.Resize(bitmap.BitsFor(size), !clean)
	from, to := uint64(old.BitmapOffset)/bitmap.BlockSize, uint64(old.SuperblockOffset)/bitmap.BlockSize+1
	pd.bm.SetRange(from, to)
	pd.bm.MarkAllDirty()
	v.newAL()
	v.gates++   // no data is written, and
	v.md.hold++ // no superblock, before log and bitmap are there
	end := func(err error) {
		if err == nil {
			v.c.event(Event{Kind: EventSize, Volume: v.idx, Bytes: int64(size) * 512})
		}
		done(err) // the peer hears of it, and then
		v.gates--
		v.gateOpened()
	}
	v.initAL(func(err error) {
		if err != nil {
			v.md.hold--
			v.diskFailed(causeMeta, "activity log", err)
			end(err)
			return
		}
		v.bitmapFirst(func(err error) {
			v.md.hold--
			if err != nil {
				end(err)
				return
			}
			v.syncSuper(func(err error) {
				if err != nil || !clean {
					end(err)
					return
				}
				v.emptyOldPlace(old, end)
			})
		})
	})
}

// emptyOldPlace makes the blocks of the old metadata equal on both nodes: zero.
func (v *volume) emptyOldPlace(old metadata.Layout, done func(error)) {
	o := v.c.op()
	o.Kind, o.Volume, o.vol, o.MayUnmap = OpZero, v.idx, v, true
	from, n := old.BitmapOffset, old.SuperblockOffset+metadata.BlockSize-old.BitmapOffset
	o.Off, o.Len = from, n
	o.fn = func(err error) {
		if err != nil {
			v.diskFailed(causeWrite, "zero the place of the old metadata", err)
			done(err)
			return
		}
		pd := v.pds[0]
		pd.bm.ClearRange(uint64(from)/bitmap.BlockSize, uint64(from+n)/bitmap.BlockSize)
		v.bmw.noteCleared(uint64(from)/bitmap.BlockSize, uint64(from+n)/bitmap.BlockSize)
		pd.armLazy()
		done(nil)
	}
	v.c.issue(o)
}
