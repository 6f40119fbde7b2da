// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// cause is what failed on a disk.
type cause uint8

const (
	causeRead cause = iota
	causeWrite
	causeMeta
	causeTimeout
	causeFlush // nobody knows what of the disk's cache is lost
)

// diskFailed applies on-io-error (spec: behaviour 5.8).
func (v *volume) diskFailed(why cause, what string, err error) {
	if v.disk <= protocol.Failed && v.disk != protocol.Attaching {
		return // it is on its way out already
	}
	v.logf(LogError, "disk failed: %s: %v", what, err)
	v.c.event(Event{Kind: EventIOError, Volume: v.idx, Text: fmt.Sprintf("%s: %v", what, err)})
	if v.disk == protocol.Attaching {
		return // Attach reports it
	}
	pd := v.pds[0]
	if v.cfg.DetachOnIO == IOPassOn && why != causeMeta && why != causeTimeout {
		pd.abortVerify(ErrIO)
		// A disk that is the best there is stays so: else an older one, when its node
		// comes back, would overwrite it.
		if better := pd.conn >= protocol.Connected && pd.disk == protocol.UpToDate; v.disk > protocol.Inconsistent && better {
			v.c.change(pd, fact, func(s *protocol.State) { s.Disk = protocol.Inconsistent })
			if v.role == protocol.Primary {
				v.gateSuper() // until the metadata says so a crash would make this disk the better one
			}
		}
		if why == causeFlush && pd.bm != nil {
			// Some of what it had may be gone, blocks that count as in sync among it.
			v.setAllOutOfSync(pd)
		}
		return
	}
	v.lostCache = true
	v.untold = pd.telling()
	v.ioErrorHook = v.cfg.DetachOnIO == IOCallLocalIOError
	v.c.change(pd, fact, func(s *protocol.State) { s.Disk = protocol.Failed })
}

// callLocalIOError runs the handler before the peer is told (spec: behaviour 5.8):
// it may want to stop this node. The disk stays Failed until it has ended.
func (pd *peerDevice) callLocalIOError() {
	v := pd.v
	v.c.call(HandlerLocalIOError, pd, func(int) {
		v.ioErrorHook = false
		if pd.conn >= protocol.Connected {
			pd.sendState()
			pd.tellFailed()
		}
	})
}

// telling reports whether the peer has to know before a write counts that only it has.
func (pd *peerDevice) telling() bool {
	return pd.v.role == protocol.Primary && pd.conn >= protocol.Connected && pd.p.phase == phaseUp
}

// tellFailed asks the peer what it has just been told: that this Primary's disk has
// failed. Until it answers no write is acknowledged that only the peer has. A crash
// would make this disk, a crashed Primary's, the better one to a peer that knows nothing.
func (pd *peerDevice) tellFailed() {
	if v := pd.v; v.untold && v.disk == protocol.Failed {
		pd.askKnown()
	}
}

// askKnown sends the question of tellFailed. A wish of the peer's own may go first.
func (pd *peerDevice) askKnown() {
	v := pd.v
	disk := protocol.Diskless
	if v.disk == protocol.Failed {
		disk = v.disk
	}
	pd.p.queueCluster(&clusterRequest{pd: pd, ask: true, req: protocol.StateRequest{}.WithDisk(disk), done: func(code protocol.Code) {
		if (code == protocol.CodeConcurrentStateChange || code == protocol.CodeInTransientState) && v.disk <= protocol.Failed {
			pd.askKnown()
			return
		}
		v.untold = false
		if !code.Success() {
			v.denials++
		}
		for _, r := range v.c.requests.live() {
			if r.v != v || r.kind == IORead || r.local != partFailed {
				continue
			}
			if !code.Success() && r.onlyThere() { // the connection is gone, and nobody knows what it knew; or its disk is
				r.net, r.err = partFailed, ErrConnectionLost
			}
			v.c.maybeComplete(r) // also one that the peer's disk has lost since it began to wait
		}
	}})
}

// knows reports whether the peer asks for what it has told already: see askKnown.
func (pd *peerDevice) knows(in protocol.StateRequest) bool {
	return in.Mask == (protocol.State{PeerDisk: protocol.DiskMask}) && in.Value.PeerDisk <= protocol.Failed &&
		pd.disk <= protocol.Failed && pd.conn >= protocol.Connected
}

// answerKnown answers askKnown when the generation that has begun for it is durable. The
// peer acknowledges then what only this disk has; if this node died first, its disk and
// the one that failed would be taken for equally good.
func (pd *peerDevice) answerKnown() {
	v, p, gen := pd.v, pd.p, pd.p.gen
	gone := func() bool { return p.gen != gen || !p.alive() }
	v.c.when(func() bool { return v.gates == 0 || gone() }, func() {
		if gone() {
			return
		}
		code := protocol.CodeSuccess
		if v.disk != protocol.UpToDate {
			code = protocol.CodeNoUpToDateDisk
		}
		send(p, protocol.MetaStream, protocol.CmdStateChgReply, v.cfg.Number, protocol.StateReply{Code: code})
	})
}

// onlyThere reports whether a write has failed here and is on the peer's disk, a good one.
func (r *request) onlyThere() bool {
	return r.kind != IORead && r.io != nil && r.local == partFailed && r.net == partOK && r.succeeded()
}

// leaveDisk follows the step to Failed: whoever waits for the disk is let go, and
// when the last operation is back the volume is Diskless.
func (v *volume) leaveDisk() {
	v.alFailed()
	v.failSuperWaiters()
	v.c.when(func() bool { return v.disk != protocol.Failed || v.opsPending == 0 && !v.ioErrorHook }, func() {
		if v.disk == protocol.Failed {
			v.diskless()
		}
	})
	v.active.wake()
}

// diskless is the end of a disk.
func (v *volume) diskless() {
	v.al, v.leaving, v.sealed = alState{}, false, false
	v.md.dirty = false
	for _, pd := range v.pds {
		pd.stopResync()
		pd.resync.lazy.stop()
	}
	v.c.change(v.pds[0], fact, func(s *protocol.State) { s.Disk = protocol.Diskless })
	for _, pd := range v.pds {
		pd.bm, pd.rx = nil, nil
	}
	if pd := v.pds[0]; pd.conn >= protocol.Connected && pd.idsValid && pd.disk == protocol.UpToDate {
		v.exposed = pd.ids.Current // what users see from here on
	}
	v.capacity, v.sb = 0, metadata.Superblock{}
	v.space, v.next = 0, nil
	v.md, v.bmw = superWriter{}, bitmapWriter{}
	v.gateOpened()
}

// Detach takes the disk out of service and leaves clean metadata. With force it
// does not wait for disk operations that hang, but for those that use the
// application's memory (see disktimeout.go).
func (c *Core) Detach(cmd *Command, vol int, force bool) {
	v := c.vols[vol]
	defer c.settle()
	if v.disk == protocol.Diskless {
		c.finish(cmd, nil)
		return
	}
	pd := v.pds[0]
	gone := func() bool { return v.disk == protocol.Diskless }
	if force {
		v.lostCache = true
		v.untold = v.untold || v.hasDisk() && pd.telling()
		c.change(pd, fact, func(s *protocol.State) { s.Disk = protocol.Failed })
		v.abandon(fmt.Errorf("%w: detached by force", ErrDiskless))
		c.when(gone, func() { c.finish(cmd, nil) })
		return
	}
	allowed := func() protocol.Code {
		return c.allowed(pd, func(s *protocol.State) { s.Disk = protocol.Failed })
	}
	c.patiently(cmd, allowed, func(code protocol.Code) {
		switch {
		case !code.Success():
			c.finish(cmd, refused("detach", code, false))
		case pd.conn < protocol.Connected || pd.p.phase != phaseUp:
			v.detachClean(cmd)
		default:
			pd.askDetach(cmd)
		}
	})
}

// askDetach asks the peer, who may need this disk.
func (pd *peerDevice) askDetach(cmd *Command) {
	v, c := pd.v, pd.v.c
	pd.p.queueCluster(&clusterRequest{pd: pd, ask: true, req: protocol.StateRequest{}.WithDisk(protocol.Failed), done: func(code protocol.Code) {
		switch {
		case code == protocol.CodeKeepWaiting: // the connection is gone: ask the rules again
			c.Detach(cmd, v.idx, false)
		case !code.Success():
			c.finish(cmd, refused("detach", code, true))
		case !c.allowed(pd, func(s *protocol.State) { s.Disk = protocol.Failed }).Success():
			// Meanwhile this disk has become the only good one, or feeds a resync.
			c.finish(cmd, refused("detach", c.allowed(pd, func(s *protocol.State) { s.Disk = protocol.Failed }), false))
			pd.p.meetAgain("the peer agreed to a detach that is not possible any more")
		default:
			// The peer counts on this disk being gone, and may have begun a
			// generation of its own: from here on it must not begin one, too.
			v.leaving = true
			v.detachClean(cmd)
		}
	}})
}

// asksDetach reports whether the peer has been asked, and has not answered.
func (pd *peerDevice) asksDetach() bool {
	reqs := pd.p.clusterReqs
	return len(reqs) > 0 && reqs[0].sent && reqs[0].pd == pd && reqs[0].req.Value.Disk == protocol.Failed
}

// detachClean leaves a disk in order: no writes in flight, bitmap on disk, the log
// empty, the superblock clean. What apply-al would leave (spec: on-disk 10.4).
func (v *volume) detachClean(cmd *Command) {
	c, pd := v.c, v.pds[0]
	pd.abortVerify(errors.New("the disk is being detached"))
	v.freezing++
	for _, pd := range v.pds {
		pd.p.closeEpoch()
	}
	end := func(err error) {
		v.freezing--
		v.closing = false
		if err != nil && v.disk > protocol.Failed {
			v.lostCache = true
			v.logf(LogWarn, "detach leaves unclean metadata: %v", err)
		}
		c.change(pd, fact, func(s *protocol.State) { s.Disk = protocol.Failed })
		c.when(func() bool { return v.disk == protocol.Diskless }, func() { c.finish(cmd, nil) })
		c.stateAdmits()
	}
	agreed := v.leaving
	withdrawn := func() bool { return agreed && !v.leaving && v.metaUsable() }
	// The peer's disk will be the only one: it has to hold all that was acknowledged.
	held := func() bool { return pd.conn < protocol.Connected || !pd.unstable() }
	c.when(func() bool { return v.quiet() && held() || !v.metaUsable() || withdrawn() }, func() {
		if !v.metaUsable() { // it has failed, and may have gone: the next one is not to be sealed
			end(ErrDiskless)
			return
		}
		if withdrawn() { // the connection is gone: ask the rules again
			v.freezing--
			c.Detach(cmd, v.idx, false)
			c.stateAdmits()
			return
		}
		// What the peer sent before it agreed may still come. It waits, and is refused
		// when the disk has gone: written now it could be lost with the disk's cache
		// after the epoch was acknowledged.
		v.sealed = true
		v.markWaiting()
		v.flushData(func(err error) {
			if err != nil {
				end(err)
				return
			}
			v.writeBitmap(nil, func(err error) {
				if err != nil {
					end(err)
					return
				}
				v.emptyAL(func(err error) {
					if err != nil {
						end(err)
						return
					}
					v.writeCleanSuper(end)
				})
			})
		})
	})
}

// unstable reports whether writes that the peer got are not durable there, as far as it has said.
func (pd *peerDevice) unstable() bool {
	for _, r := range pd.v.c.requests.live() {
		if r.pd == pd && r.epoch != nil {
			return true
		}
	}
	return false
}

// emptyAL is initAL for a disk in use. A Primary's log counts as long as PrimaryInd
// is set: that goes first, and CrashedPrimary, which has the same meaning to the next
// attach but for the log, takes its place.
func (v *volume) emptyAL(fn func(error)) {
	v.closing = true
	if v.sb.Flags&metadata.PrimaryInd == 0 {
		v.initAL(fn)
		return
	}
	v.sb.Flags = v.sb.Flags&^metadata.PrimaryInd | metadata.CrashedPrimary
	v.syncSuper(func(err error) {
		if err != nil {
			fn(err)
			return
		}
		v.initAL(fn)
	})
}

// quiet reports that nothing is in flight on the disk or waits for it. Own requests whose
// turn has not come can wait until it has gone: some wait for the end of a handshake, or
// of a resync, that the peer has given up as it agreed.
func (v *volume) quiet() bool {
	return v.opsPending == 0 && v.localPending == 0 && !v.md.dirty && !v.md.writing && !v.bmw.running &&
		!v.al.writing && len(v.al.waiting) == 0 && v.gates == 0 && !v.active.underWay() && !v.watches()
}

// markWaiting marks own writes that go out when the disk has gone: part of one that has
// lost a conflict may be on it.
func (v *volume) markWaiting() {
	for _, r := range v.c.requests.live() {
		if r.v == v && r.kind != IORead {
			v.pds[0].setOutOfSync(r.sector, r.size)
		}
	}
}

// watches reports whether a write may not be stable at the peer yet: the activity log
// stands in for its mark, and must not be emptied.
func (v *volume) watches() bool {
	for _, r := range v.c.requests.live() {
		if r.v == v && r.epoch != nil {
			return true
		}
	}
	return false
}

// writeCleanSuper writes the superblock that says: nothing to replay. It takes its turn
// among the others, so that what changes meanwhile is not undone by an older block.
func (v *volume) writeCleanSuper(fn func(error)) {
	v.md.clean = true
	v.syncSuper(fn)
}

const initALChunk = 1 << 20

// initAL writes initialised blocks over the whole activity log. Its bits must be
// in the bitmap on disk by then; the flush in front makes sure that they stay there.
func (v *volume) initAL(fn func(error)) {
	size := v.layout.ActivityLogSize
	buf := make([]byte, min(size, initALChunk))
	for off := 0; off < len(buf); off += metadata.BlockSize {
		activitylog.InitBlock((*[activitylog.BlockSize]byte)(buf[off:]))
	}
	var step func(off int64, err error)
	step = func(off int64, err error) {
		if err != nil || off >= size {
			fn(err)
			return
		}
		n := min(int64(len(buf)), size-off)
		o := v.c.op()
		o.Kind, o.Volume, o.vol, o.Meta, o.PreFlush = OpWrite, v.idx, v, true, true
		o.Off, o.Buf, o.Len = v.layout.ActivityLogOffset+off, buf[:n], n
		o.fn = func(err error) { step(off+n, err) }
		v.c.issue(o)
	}
	step(0, nil)
}
