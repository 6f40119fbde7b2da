// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// afterChange draws the consequences of one state change, in this order (spec:
// behaviour 2.10).
func (c *Core) afterChange(t transition) {
	pd, v := t.pd, t.pd.v
	o, n := t.old, t.new
	up := n.Conn >= protocol.Connected
	if o.Disk < protocol.Consistent && !v.md.dirty && !v.md.writing {
		v.expose(v.ids.Current)
	}

	if n.Disk == protocol.UpToDate {
		v.missed = metadata.UUIDNone
	}
	if borrows(n) && !borrows(o) {
		v.peerBears = true // until it tells which
	}
	if n.Disk == protocol.UpToDate && n.PeerDisk == protocol.UpToDate && v.crashedPrimary {
		v.crashedPrimary = false
		pd.uuidFlags &^= metadata.FlagCrashedPrimary
		v.updateFlags()
	}
	if n.Conn == protocol.Connected && o.Conn == protocol.Connected && o.Disk == protocol.Inconsistent &&
		o.PeerDisk == protocol.Inconsistent && n.Peer == protocol.Primary &&
		(o.Peer == protocol.Secondary || n.PeerDisk == protocol.UpToDate) {
		pd.considerResync = true // the peer's data was declared good
	}
	if o.PeerDisk >= protocol.Inconsistent && n.PeerDisk < protocol.Inconsistent {
		pd.doubt()
	}
	c.generationAfter(pd, o, n) // before any state: the peer compares when it gets that
	c.suspensionAfter(pd, o, n)
	if becameSource(o.Conn, n.Conn) {
		pd.makeSyncUUID()
	}
	if up && o.PeerDisk < protocol.Negotiating && n.PeerDisk >= protocol.Inconsistent && o.Conn >= protocol.Connected {
		pd.sendUUIDs(0)
		pd.sendState()
	}
	if o.Conn == protocol.WFReportParams && up {
		pd.sendState()
	}
	if n.Conn == protocol.WFBitMapS && o.Conn != n.Conn {
		pd.sendBitmap()
	}
	if n.Conn == protocol.WFBitMapT && o.Conn != n.Conn {
		pd.syncUUIDSet = false // one that came before belongs to a resync that was given up
		pd.expectBitmap()
	}
	if o.Peer == protocol.Primary && n.Peer == protocol.Secondary && n.PeerDisk < protocol.Inconsistent ||
		o.Role == protocol.Primary && n.Role == protocol.Secondary {
		v.writeBitmap(nil, func(error) {})
	}
	if up && o.Conn >= protocol.Connected && (o.AftrISP != n.AftrISP || o.UserISP != n.UserISP) {
		pd.sendState()
	}
	if n.Conn != o.Conn && startsSync(n.Conn) {
		pd.startFullSync(n.Conn)
	}
	if up && o.Disk != n.Disk && (n.Disk == protocol.Failed || n.Disk == protocol.Diskless || o.Disk == protocol.UpToDate && n.Disk == protocol.Inconsistent) {
		if !v.ioErrorHook {
			pd.sendState()
			pd.tellFailed()
		}
	}
	if v.ioErrorHook && n.Disk == protocol.Failed && o.Disk != protocol.Failed {
		pd.callLocalIOError()
	}
	if n.Conn != o.Conn {
		pd.p.discarded()
		pd.congestionAfter(o.Conn, n.Conn)
		pd.resyncAfter(o.Conn, n.Conn)
		pd.verifyAfter(o.Conn, n.Conn)
	}
	if n.Disk == protocol.Failed && o.Disk != protocol.Failed {
		if o.Disk > protocol.Negotiating { // not one whose attach is given up
			v.peerBears = n.Role == protocol.Primary && up && o.PeerDisk == protocol.UpToDate
		}
		v.disownWrites()
		v.leaveDisk()
	}
	v.alAfter(o, n)
	c.stateAdmits()
}

// borrows reports whether a Primary without a disk uses that of its peer, which begins a
// generation for it.
func borrows(s protocol.State) bool {
	return s.Role == protocol.Primary && s.Disk <= protocol.Negotiating && s.Conn >= protocol.Connected && s.PeerDisk == protocol.UpToDate
}

// doubt: the peer's disk is gone, and with it perhaps what it had acknowledged. If the
// link breaks now, and nothing is known of the disk any more, that still counts for nothing.
func (pd *peerDevice) doubt() {
	for _, r := range pd.v.c.requests.live() {
		if r.pd == pd {
			r.peerGood = false
		}
	}
}

// markUnsure marks what a peer whose disk has failed has not made durable: the disk may be
// back, and have our bitmap, before the peer's word of a write that failed is here.
func (pd *peerDevice) markUnsure() {
	pd.keepAllMarks()
	for _, r := range pd.v.c.requests.live() {
		if r.pd == pd && r.kind != IORead {
			pd.setOutOfSync(r.sector, r.size)
		}
	}
}

// becameSource: the node begins to feed the peer (from whatever state).
func becameSource(o, n protocol.ConnState) bool {
	feeds := func(s protocol.ConnState) bool { return s == protocol.SyncSource || s == protocol.PausedSyncS }
	return feeds(n) && !feeds(o)
}

// generationAfter begins a new data generation where contact to the peer's data was
// lost while somebody writes, at once and not at the first write (spec: behaviour 3.4).
func (c *Core) generationAfter(pd *peerDevice, o, n protocol.State) {
	v := pd.v
	before, after := metadata.DiskState(o.PeerDisk), metadata.DiskState(n.PeerDisk)
	if pd.letGo && n.Conn < protocol.Connected { // the peer left before it said what became of its disk
		before = metadata.DiskUpToDate
		defer pd.heldNoMore()
	}
	if n.Conn == protocol.Connected && n.Disk >= protocol.Inconsistent && n.PeerDisk == protocol.UpToDate &&
		(o.PeerDisk < protocol.UpToDate || o.Disk < protocol.Inconsistent) && v.ids.Bitmap != metadata.UUIDNone {
		// A target had all blocks when this node gave the resync up: it has our
		// generation now, and the bitmap identifier stays. Of a disk that is still being
		// attached, and was not compared with the peer's, that says nothing.
		pd.feed = metadata.FeedStarted(v.ids, v.ids)
	}
	if v.leaving && !v.sealed && o.Conn >= protocol.Connected && n.Conn < protocol.Connected && n.Disk == protocol.UpToDate && n.Role == protocol.Primary && o.Peer != protocol.Primary {
		// The detach is off: this disk has what protocol A and B acknowledged, and the
		// peer, who has begun no generation yet, may not. See detachClean. Another
		// Primary has begun one, or is about to: there the detach goes on. If the
		// peer's disk has failed meanwhile, no generation has begun for that.
		v.leaving = false
		before = metadata.DiskUpToDate
	}
	own, shared := metadata.DiskState(n.Disk), pd.feed.PeerMayShare()
	// A disk that fails, other than one that is detached in order, may have lost
	// acknowledged writes from its cache, and may say that its node crashed as Primary:
	// without a generation here it would become the source of the next resync.
	failed := n.Conn >= protocol.Connected && n.PeerDisk == protocol.Failed && !pd.consenting
	primary := n.Role == protocol.Primary || n.Peer == protocol.Primary || failed
	birth := v.ids.BirthOnLoss(before, after, n.Conn >= protocol.Connected, primary, own, shared)
	if birth == metadata.NoBirth && n.Peer == protocol.Primary && (o.Peer != protocol.Primary || o.Disk == protocol.Negotiating) {
		// A Primary that has no disk begins to use this one, of its peer or just attached.
		// Its own may come back, and has the present generation, too.
		birth = v.ids.BirthOnDisklessPrimary(after, own, shared)
	}
	if pd.consenting && n.Role == protocol.Primary && n.Peer == protocol.Primary && o.PeerDisk >= protocol.Inconsistent && n.PeerDisk < protocol.Inconsistent {
		// Two Primaries, and the other one was just allowed to detach. Until it has
		// done so its applications read its own disk: what we wrote without it
		// would be complete here and not be seen there.
		pd.letGo = true
		return
	}
	if birth == metadata.NoBirth && goesOnAlone(o, n) {
		birth = v.ids.BirthOnPromotion(false, false, after, shared)
	}
	if birth == metadata.NoBirth || v.leaving || n.Role != protocol.Primary && pd.peerWentOn() {
		return
	}
	if (o.Conn == protocol.WFReportParams || pd.consenting) && n.Role != protocol.Primary && n.PeerDisk < protocol.Inconsistent {
		// A diskless Primary is about to judge whether our data is what its users
		// have seen; or a Primary was just allowed to detach, and may be cut off
		// before it hears of that. Its next P_STATE tells. Until then it has no
		// reason to write here, and a generation of ours would be one too many.
		pd.birthDue = n.Peer == protocol.Primary
		return
	}
	pd.beginAlone(birth)
}

// peerWentOn reports whether the peer has told of a generation that it began without this
// node's disk. Whatever has become of its disk since, this one is older.
func (pd *peerDevice) peerWentOn() bool {
	return pd.idsValid && pd.ids.Bitmap.Equal(pd.v.ids.Current) && !pd.ids.Current.Equal(pd.v.ids.Current)
}

// goesOnAlone reports whether a Primary has got a disk again that its peer has not: what
// it writes from now on belongs to a generation of its own, as if it were promoted with
// that disk. DRBD begins none.
func goesOnAlone(o, n protocol.State) bool {
	return n.Role == protocol.Primary && n.Disk == protocol.UpToDate && o.Disk < protocol.Inconsistent &&
		(n.Conn < protocol.Connected || n.PeerDisk < protocol.Inconsistent)
}

// beginAlone begins the generation that the peer's disk will not have.
func (pd *peerDevice) beginAlone(birth metadata.Birth) {
	v := pd.v
	if v.c.suspended() && (pd.role != protocol.Primary || pd.conn < protocol.Connected) { // the other Primary writes here, suspended or not
		v.postponed = true
		return
	}
	v.beginGeneration(birth)
	if pd.conn >= protocol.Connected {
		pd.sendUUIDs(0)
	}
}

// peerLetGo: the other Primary tells what became of the disk that it was allowed
// to detach.
func (pd *peerDevice) peerLetGo() {
	v := pd.v
	birth := v.ids.BirthOnLoss(metadata.DiskUpToDate, metadata.DiskState(pd.disk), pd.conn >= protocol.Connected, true,
		metadata.DiskState(v.disk), pd.feed.PeerMayShare())
	if pd.disk < protocol.Inconsistent && birth != metadata.NoBirth {
		pd.beginAlone(birth)
	}
	pd.heldNoMore()
}

// lettingGo reports whether own writes wait for the other Primary's word.
func (v *volume) lettingGo() bool {
	for _, pd := range v.pds {
		if pd.letGo {
			return true
		}
	}
	return false
}

// heldNoMore lets own writes go on.
func (pd *peerDevice) heldNoMore() {
	pd.letGo = false
	pd.v.gateOpened()
}

// acceptedByDisklessPrimary: the Primary stays with us, and writes here from now on.
func (pd *peerDevice) acceptedByDisklessPrimary() {
	v := pd.v
	pd.birthDue = false
	if pd.role != protocol.Primary {
		return
	}
	birth := v.ids.BirthOnDisklessPrimary(metadata.DiskState(pd.disk), metadata.DiskState(v.disk), pd.feed.PeerMayShare())
	if birth != metadata.NoBirth {
		v.beginGeneration(birth)
		pd.sendUUIDs(0)
	}
}

// stateAdmits lets waiting application requests in where the state now allows it.
func (c *Core) stateAdmits() {
	for _, v := range c.vols {
		v.completeFrozen()
		v.active.wake()
		v.admitHeld()
	}
}
