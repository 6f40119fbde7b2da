// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// resync is the copying of blocks between two nodes. The target drives: it asks for
// blocks, the source answers (spec: behaviour 6.2, wire 8.3).
type resync struct {
	pd       *peerDevice
	running  bool
	ready    bool   // target: the superblock says Inconsistent, blocks may be asked for
	ending   bool   // the last blocks are here; flush, ping, identifiers
	told     bool   // source: the target has said that it is complete
	total    uint64 // blocks at the start
	failed   uint64 // in this pass
	cursor   uint64 // target: next block to look at
	skipped  bool   // target: a block was busy, another pass is needed
	asked    []span // target: requests without a finished write
	inFlight uint64 // sectors of asked
	budget   int64  // sectors that may still be asked for in this step
	limited  bool   // budget is not unlimited
	nextStep time.Duration
	speed    controller

	waiting []*peerReq // source: requests held back for other I/O
	delay   timer
	slow    bool // other I/O goes first
	unheard bool // blocks were marked here since the bitmap went out: the target may believe that it has all
	checkAt time.Duration
	otherIO uint64 // sectors, at the last check

	began    time.Duration
	pausedAt time.Duration
	paused   time.Duration
	marks    [8]mark
	mark     int
	timer    timer
	lazy     timer
	csums    protocol.Digest // target: ask by checksum; none: copy everything
	same     uint64          // blocks that were equal by checksum
	round    uint64          // counts resyncs
	// blocksLeft is what is left, if that is not what is out of sync.
	blocksLeft func() uint64
	newPart    bool // target: it is about to begin, of what the device grew by; all else is equal
	grow       bool // the device grew before or while connecting: the new part needs a resync
}

// span is a range that the target has asked for.
type span struct {
	sector uint64
	size   uint32
	here   bool // the reply has come, the write is under way
}

type mark struct {
	at   time.Duration
	left uint64
}

const (
	resyncExtent = 16 << 20 / 512 // sectors; no request crosses such a border (spec: wire 8.3)
	markInterval = 3 * time.Second
	lazyInterval = 2 * time.Second
)

// requested reports whether the target has asked for blocks in this range that
// are not here yet.
func (r *resync) requested(from, to uint64) bool {
	for i := range r.asked {
		a := &r.asked[i]
		if a.sector < to && from < a.sector+uint64(a.size)/512 {
			return true
		}
	}
	return false
}

// resyncAfter starts, pauses and ends the machinery as the connection state demands.
func (pd *peerDevice) resyncAfter(o, n protocol.ConnState) {
	r, v := &pd.resync, pd.v
	if o == protocol.WFSyncUUID {
		r.newPart = false
	}
	switch {
	case isResync(n) && !isResync(o):
		r.start(pd.oosBlocks())
		v.c.event(Event{Kind: EventResyncStart, Volume: v.idx, Peer: pd.p.idx, Blocks: r.total})
		if n == protocol.SyncTarget || n == protocol.PausedSyncT {
			r.csums = pd.checksums()
			pd.beginTarget()
		}
	case isResync(n):
		r.pause(n == protocol.PausedSyncS || n == protocol.PausedSyncT)
		pd.pump()
	case isResync(o) && !isResync(n):
		if r.told && sources(o) && n == protocol.Connected && pd.disk == protocol.Inconsistent {
			// The target had announced its end when our disk went: it is complete.
			v.c.change(pd, fact, func(s *protocol.State) { s.PeerDisk = protocol.UpToDate })
		}
		pd.stopResync()
		v.writeBitmap(nil, func(error) {})
	case o > protocol.Connected && n == protocol.Connected:
		v.writeBitmap(nil, func(error) {})
	}
}

// beginTarget makes durable what a crash of the target must not forget: which blocks
// are out of sync (the source clears its marks as we acknowledge blocks that may
// still be in our disk's cache), and that the disk holds blocks of different ages.
func (pd *peerDevice) beginTarget() {
	r, v := &pd.resync, pd.v
	round := r.round
	v.gates++
	v.writeBitmap(nil, func(error) {
		v.syncSuper(func(err error) {
			v.gates--
			v.gateOpened()
			if err == nil && r.running && r.round == round { // else those marks are of an earlier resync
				r.ready = true
				pd.pump()
			}
		})
	})
}

// syncNewStorage is the resync of what the device grew by (spec: behaviour 6.9, 6.10).
func (pd *peerDevice) syncNewStorage() {
	if pd.oosBlocks() == 0 || pd.v.disk != protocol.UpToDate || pd.disk != protocol.UpToDate {
		return
	}
	source := pd.p.resolver
	if pd.v.role != pd.role {
		source = pd.v.role == protocol.Primary
	}
	conn := protocol.WFSyncUUID
	if source {
		pd.becomeSource()
		return
	}
	pd.resync.newPart = true
	pd.v.c.change(pd, fact, func(s *protocol.State) { s.Conn = conn })
	pd.applySyncUUID()
}

func (r *resync) start(blocks uint64) {
	now := r.pd.v.c.now
	*r = resync{pd: r.pd, running: true, total: blocks, began: now, nextStep: now, asked: r.asked[:0],
		lazy: r.lazy, grow: r.grow, round: r.round + 1, blocksLeft: r.blocksLeft}
	r.otherIO = r.pd.v.otherIO()
	for i := range r.marks {
		r.marks[i] = mark{now, blocks}
	}
}

func (r *resync) pause(on bool) {
	now := r.pd.v.c.now
	switch {
	case on && r.pausedAt == 0:
		r.pausedAt = now
	case !on && r.pausedAt != 0:
		r.paused += now - r.pausedAt
		r.pausedAt = 0
	}
}

// stopResync forgets the machinery; blocks that were asked for stay out of sync.
func (pd *peerDevice) stopResync() {
	r := &pd.resync
	r.running, r.ready, r.ending, r.told = false, false, false, false
	r.asked, r.inFlight = r.asked[:0], 0
	if pd.conn != protocol.Ahead {
		pd.lateAcks += pd.rsPending
		pd.rsPending = 0 // Ahead, the answers still come, and are waited for
	}
	r.timer.stop()
	pd.dropDelayed()
	pd.v.active.wake()
}

// startFullSync is invalidate and invalidate-remote: both nodes mark everything, no
// bitmaps travel (spec: wire 8.11).
func (pd *peerDevice) startFullSync(conn protocol.ConnState) {
	c := pd.v.c
	pd.v.setAllOutOfSync(pd)
	if conn == protocol.StartingSyncS {
		pd.becomeSource()
		return
	}
	c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.WFSyncUUID })
	pd.applySyncUUID()
}

// becomeSource begins to feed the target, if the handler does not mind.
func (pd *peerDevice) becomeSource() {
	pd.beforeResync(HandlerBeforeResyncSource, func() {
		pd.v.c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.SyncSource })
	})
}

// makeSyncUUID names the resync that begins. The name is durable here before the
// peer learns it, and no data is written in between.
func (pd *peerDevice) makeSyncUUID() {
	v := pd.v
	ids := v.ids
	if pd.idsValid && pd.bm.Count() == pd.bm.Len() {
		ids = ids.RebaseFor(pd.ids.Current) // a full bitmap is relative to anything
	}
	ids, sync := ids.BecomeSource(metadata.UUID(v.c.cfg.Rand()))
	v.setIDs(ids)
	pd.feed = metadata.FeedStarted(ids, pd.ids)
	pd.named++
	gen, named := pd.p.gen, pd.named
	v.syncSuper(func(err error) {
		// Else that resync is history. The next one may have the same name, which is not
		// durable yet: the block just written may have been from between the two.
		if err == nil && pd.p.gen == gen && pd.named == named && isResync(pd.conn) && v.ids.Bitmap.Equal(sync) {
			send(pd.p, protocol.DataStream, protocol.CmdSyncUUID, v.cfg.Number, protocol.SyncUUID{UUID: uint64(sync)})
		}
	})
	v.gateSuper()
}

// receiveSyncUUID: the source names the resync. It may come before this node is
// ready for it; then it is kept.
func (pd *peerDevice) receiveSyncUUID(u uint64) {
	pd.syncUUID, pd.syncUUIDSet = metadata.UUID(u), true
	pd.applySyncUUID()
}

func (pd *peerDevice) applySyncUUID() {
	if !pd.syncUUIDSet || pd.conn != protocol.WFSyncUUID && pd.conn != protocol.Behind {
		return
	}
	pd.syncUUIDSet = false
	v := pd.v
	pd.beforeResync(HandlerBeforeResyncTarget, func() {
		v.setIDs(v.ids.AdoptSyncUUID(pd.syncUUID, v.role == protocol.Primary))
		v.c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.SyncTarget })
	})
}

// beforeResync runs a handler, and goes on if it does not mind (spec: behaviour 6.1).
// Until then this node writes nothing: what the source sends waits.
func (pd *peerDevice) beforeResync(name string, goOn func()) {
	v, c, p := pd.v, pd.v.c, pd.p
	if !c.awaits(name) {
		c.notify(name, pd)
		goOn()
		return
	}
	if pd.beforeHook {
		return
	}
	pd.beforeHook = true
	v.gates++
	met, conn := p.met, pd.conn
	c.call(name, pd, func(code int) {
		still := p.alive() && p.met == met
		if still {
			pd.beforeHook = false
		}
		v.gates--
		switch {
		case !still || pd.conn != conn:
		case code == 0 || code == 3 && name == HandlerBeforeResyncSource:
			goOn()
		default:
			p.refuse(fmt.Errorf("%w: %s returned %d", ErrHandler, name, code))
		}
		v.gateOpened()
	})
}

func (pd *peerDevice) resyncTick() { pd.pump() }

// pump asks for more blocks while there is room, and notices the end.
func (pd *peerDevice) pump() {
	r := &pd.resync
	if !r.running || pd.bm == nil {
		return
	}
	r.note()
	if !r.ready || r.ending || pd.conn != protocol.SyncTarget {
		return
	}
	r.ration()
	window := uint64(pd.v.c.cfg.Net.MaxBuffers/2) * 8
	// Not as soon as a block comes back: what is asked for in small pieces stays so.
	room := min(max(window/8, 8), pd.largestRequest(), leastRequest)
	for r.inFlight+room <= window && r.budget > 0 {
		sector, size, ok := pd.nextRequest(min(window-r.inFlight, uint64(r.budget)))
		if !ok {
			break
		}
		r.asked = append(r.asked, span{sector: sector, size: size})
		r.inFlight += uint64(size) / 512
		r.speed.asked(uint64(size) / 512)
		if r.limited {
			r.budget -= int64(size) / 512
		}
		pd.rsPending++
		if r.csums.Size() > 0 {
			pd.sumForRequest(sector, size)
			continue
		}
		pd.requestBlocks(sector, size)
	}
	if len(r.asked) == 0 {
		pd.endOfPass()
	}
	if r.limited || len(r.asked) == 0 && !r.ending {
		r.timer.arm(max(r.nextStep, pd.v.c.now+1))
	}
}

// leastRequest is the room in the window that a request waits for, in sectors.
const leastRequest = 128

// largestRequest is in sectors.
func (pd *peerDevice) largestRequest() uint64 {
	largest := uint64(protocol.MaxDataBytes(pd.p.session.Version)) / 512
	if pd.resync.csums.Size() > 0 {
		largest = min(largest, csumBytes/512)
	}
	return largest
}

// nextRequest picks the next run of out-of-sync blocks: at most limit sectors, not across a resync extent, not in use by an own writer.
func (pd *peerDevice) nextRequest(limit uint64) (sector uint64, size uint32, ok bool) {
	r := &pd.resync
	largest := min(pd.largestRequest(), max(limit, 8))
	thin := pd.thinSectors()
	for {
		b, found := pd.bm.NextSet(r.cursor)
		if !found {
			r.cursor = pd.bm.Len()
			return 0, 0, false
		}
		n := uint64(1)
		for n*8 < largest && (b*8)/resyncExtent == ((b+n)*8)/resyncExtent && (b*8)/thin == ((b+n)*8)/thin && pd.bm.Test(b+n) {
			n++
		}
		r.cursor = b + n
		sector, end := b*8, min((b+n)*8, pd.v.size)
		if pd.busy(sector, end) {
			r.cursor, r.skipped = b+1, true
			continue
		}
		return sector, uint32(end-sector) * 512, true
	}
}

// busy reports whether an own writer uses the range: its data may not have reached
// the source, which would answer with older blocks.
func (pd *peerDevice) busy(from, to uint64) bool {
	v := pd.v
	if v.role != protocol.Primary || v.al.log == nil {
		return false
	}
	for _, r := range v.c.requests.live() {
		if r.v == v && r.writes(from, to) {
			return true
		}
	}
	return v.active.overlapsWrite(from, to)
}

// endOfPass: everything that was marked has been asked for and is here.
func (pd *peerDevice) endOfPass() {
	r := &pd.resync
	left := pd.bm.Count()
	switch {
	case r.cursor < pd.bm.Len():
		if _, more := pd.bm.NextSet(r.cursor); more {
			return // held back by the rate
		}
		fallthrough
	default:
		if left <= r.failed && !r.skipped {
			pd.finishTarget()
			return
		}
		r.cursor, r.failed, r.skipped = 0, 0, false // another pass, at the next tick
	}
}

// finishTarget ends a resync here (spec: wire 8.3 step 9): data durable, all acks
// seen by the source, identifiers and state durable, then the source is told. First
// the mirrored writes that are held for their turn: a block of the resync may be of a
// later write than they are.
func (pd *peerDevice) finishTarget() {
	r := &pd.resync
	r.ending = true
	round := r.round
	pd.p.rx.settle(func(err error) {
		if err == nil && r.ending && r.round == round {
			pd.flushTarget(round)
		}
	})
}

func (pd *peerDevice) flushTarget(round uint64) {
	r, v := &pd.resync, pd.v
	// Not while the disk leaves: the source has agreed to that, and has given the resync
	// up. It may have been asked, and have gone on without this disk before it answers.
	still := func() bool {
		return r.running && r.ending && r.round == round && pd.conn == protocol.SyncTarget && !v.leaving && !pd.asksDetach()
	}
	notNow := func() {
		if r.round != round {
			return // the flush was of a resync that was cut off: the present one may be ending, too
		}
		r.ending = false
		if r.running && pd.asksDetach() {
			r.timer.arm(v.c.now + 100*time.Millisecond)
		}
	}
	if !still() {
		notNow()
		return
	}
	v.flushData(func(err error) {
		if err != nil && still() { // and the disk stays, by on-io-error pass-on: all over again, not at once
			r.ending, r.cursor, r.failed, r.skipped = false, 0, 0, false
			r.timer.arm(v.c.now + time.Second)
			return
		}
		if err != nil || !still() {
			notNow()
			return
		}
		pd.p.ping(func(err error) {
			if err != nil || !still() {
				notNow()
				return
			}
			if pd.bm.Count() > r.failed {
				r.ending = false // new marks have come in the meantime
				pd.pump()
				return
			}
			pd.concludeTarget()
		})
	})
}

func (pd *peerDevice) concludeTarget() {
	r, v := &pd.resync, pd.v
	failed, total, gen := r.failed, r.total, pd.p.gen
	disk := protocol.UpToDate
	if failed > 0 {
		disk = protocol.Inconsistent
	} else {
		v.setIDs(v.ids.FinishAsTarget(pd.ids, v.role == protocol.Primary))
		pd.ids = v.ids
	}
	v.c.change(pd, fact, func(s *protocol.State) { s.Conn, s.Disk = protocol.Connected, disk })
	v.c.event(Event{Kind: EventResyncDone, Volume: v.idx, Peer: pd.p.idx, Blocks: total, Failed: failed})
	v.logf(LogInfo, "resync done: %d blocks, %d failed", total, failed)
	r.logSame()
	v.c.notify(HandlerAfterResyncTarget, pd)
	v.syncSuper(func(err error) {
		if err == nil && pd.p.gen == gen {
			pd.sendState()
		}
	})
}

// peerSaysDone: the target reports Connected and UpToDate (spec: wire 8.3 step 10), or,
// below version 96, nothing is left to copy.
func (pd *peerDevice) peerSaysDone() {
	r := &pd.resync
	if !r.running || r.ending {
		return
	}
	r.ending = true
	pd.feed = metadata.FeedStarted(pd.v.ids, pd.v.ids) // whatever is marked here, it has our generation now
	gen := pd.p.gen
	running := func() bool { return r.running && pd.p.gen == gen && pd.conn >= protocol.SyncSource }
	conclude := func() {
		switch {
		case !running():
		case pd.bm.Count() > r.failed:
			pd.v.logf(LogWarn, "the peer ended the resync, but %d blocks are out of sync: connecting anew", pd.bm.Count())
			pd.p.lose(protocol.BrokenPipe)
		default:
			pd.concludeSource()
		}
	}
	pd.p.ping(func(err error) {
		if err == nil {
			// The peer has written blocks that the own disk has yet to write.
			pd.v.c.when(func() bool { return !running() || pd.lacking() <= r.failed == (pd.bm.Count() <= r.failed) }, conclude)
		}
	})
}

// lacking is how many blocks the target lacks: those that are marked, without those of
// writes that it has and the own disk has not yet.
func (pd *peerDevice) lacking() uint64 {
	n := pd.oosBlocks()
	if n == 0 {
		return 0
	}
	for _, r := range pd.v.c.requests.live() {
		if r.v != pd.v || !r.cleared {
			continue
		}
		for b, to := pd.v.covered(r.sector, r.size); b < to; b++ {
			if pd.bm.Test(b) {
				n--
			}
		}
	}
	return n
}

func (pd *peerDevice) concludeSource() {
	r, v := &pd.resync, pd.v
	failed, total := min(r.failed, pd.bm.Count()), r.total
	disk := protocol.UpToDate
	if failed > 0 {
		disk = protocol.Inconsistent
	} else {
		v.setIDs(v.ids.FinishAsSource())
		pd.ids, pd.feed = v.ids, metadata.Feed{}
	}
	v.c.change(pd, fact, func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.Connected, disk })
	v.c.event(Event{Kind: EventResyncDone, Volume: v.idx, Peer: pd.p.idx, Blocks: total, Failed: failed})
	v.logf(LogInfo, "resync done: %d blocks, %d failed", total, failed)
	r.logSame()
	v.md.dirty = true
	pd.p.unfence()
}

// blockDone ends one request of the target: written (ok), or given up.
func (pd *peerDevice) blockDone(sector uint64, size uint32, ok bool) {
	r := &pd.resync
	for i := range r.asked {
		if r.asked[i].sector == sector && r.asked[i].size == size {
			if !r.asked[i].here {
				r.speed.arrived(uint64(size) / 512) // refused
			}
			r.asked[i] = r.asked[len(r.asked)-1]
			r.asked = r.asked[:len(r.asked)-1]
			r.inFlight -= uint64(size) / 512
			pd.rsPending--
			break
		}
	}
	if !ok {
		from, to := touched(sector, size)
		r.failed += to - from
	}
	pd.v.active.wake()
	pd.pump()
}

// expected finds the request that a reply answers.
func (r *resync) expected(sector uint64, size uint32) bool {
	for i := range r.asked {
		if a := &r.asked[i]; a.sector == sector && a.size == size && !a.here {
			a.here = true
			r.speed.arrived(uint64(size) / 512)
			return true
		}
	}
	return false
}

// note keeps a mark of the progress every three seconds.
func (r *resync) note() {
	now, left := r.pd.v.c.now, r.left()
	if last := r.marks[r.mark]; now-last.at >= markInterval && left != last.left && r.pausedAt == 0 {
		r.mark = (r.mark + 1) % len(r.marks)
		r.marks[r.mark] = mark{now, left}
	}
}

func (r *resync) left() uint64 {
	if r.blocksLeft != nil {
		return r.blocksLeft()
	}
	n := r.pd.oosBlocks()
	return n - min(n, r.failed)
}

// armLazy makes sure that changed bitmap pages reach the disk within two seconds.
func (pd *peerDevice) armLazy() {
	pd.v.bmw.flushFirst = true
	if !pd.resync.lazy.set {
		pd.resync.lazy.arm(pd.v.c.now + lazyInterval)
	}
}

func (pd *peerDevice) writeLazily() {
	if pd.v.metaUsable() {
		pd.v.writeBitmap(nil, func(error) {})
	}
}

// snapshot is the progress for Status.
func (r *resync) snapshot() *ResyncSnapshot {
	if !r.running {
		return nil
	}
	now := r.pd.v.c.now
	s := &ResyncSnapshot{Total: r.total, Left: min(r.left(), r.total), Failed: r.failed, SameCsum: r.same, Elapsed: now - r.began, Paused: r.paused}
	if r.pausedAt != 0 {
		s.Paused += now - r.pausedAt
	}
	old := r.marks[(r.mark+2)%len(r.marks)]
	for i, m := range []mark{r.marks[r.mark], old} {
		s.Recent[i] = Progress{Blocks: m.left - min(m.left, s.Left), Time: now - m.at}
	}
	s.Rate = perSecond(old.left-min(old.left, s.Left), now-old.at)
	s.Average = perSecond(r.total-s.Left, s.Elapsed-s.Paused)
	s.Stalled = now-old.at > 180*time.Second
	if s.Rate > 0 {
		s.Finish = time.Duration(s.Left*bitmap.BlockSize/1024/s.Rate) * time.Second
	}
	s.Want = r.speed.want
	return s
}
