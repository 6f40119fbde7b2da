// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"fmt"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Online verify: one node (VerifyS) asks the other (VerifyT) for the digest of every
// block and compares it with its own (spec: behaviour 6.8, wire 8.9).
//
//	VerifyS                                    VerifyT
//	         ---------- P_OV_REQUEST ------->  reads the block
//	reads    <--------- P_OV_REPLY (digest) -
//	compares ---------- P_OV_RESULT -------->  both mark a block that differs
//
// Both nodes have to read the block in the same state, while the Primary goes on.
// So the Primary, whichever side it is on, holds its own writes to a block from
// before it is read until the result is known, and begins only when every earlier
// write to it is stable on the peer.

// verifier is one online verify, on either side.
type verifier struct {
	pd      *peerDevice
	running bool
	source  bool // VerifyS
	ending  bool // everything has been compared, the last ping is out

	cursor, to uint64       // VerifyS: next block to ask for, and where to stop
	items      []verifyItem // under way, in the order of the requests; from head on
	head       int
	asked      int  // VerifyS: items before this one have been sent
	doubt      bool // VerifyT: the peer has announced Connected before it asked for anything
	next       uint64
	left       uint64 // blocks without a result
	total      uint64

	found  VerifyReport
	open   ByteRange // the last run of differing blocks, which may still grow
	meter  resync    // rate limit and progress
	timer  timer
	alg    protocol.Digest
	cmd    *Command
	plan   *verifyPlan
	resume uint64 // block at which the next verify without a start goes on
}

// reach returns the range that is compared. Only VerifyS was told its end: VerifyT
// counts what is left.
func (o *verifier) reach() *VerifyRange {
	to := o.found.To + int64(o.left)*bitmap.BlockSize
	if o.source {
		to = int64(o.to) * bitmap.BlockSize
	}
	return &VerifyRange{From: o.found.From, To: min(to, int64(o.pd.v.size)*512), At: o.found.To}
}

// verifyPlan is what a command asked for, until the peer has agreed.
type verifyPlan struct {
	cmd      *Command
	from, to uint64 // blocks
}

// verifyState is how far one block has come.
type verifyState uint8

const (
	verifyWaits   verifyState = iota // for earlier writes to the block
	verifyAsked                      // VerifyS: the request is out
	verifyCompare                    // VerifyS: the reply is here, the own block can be read as soon as it is free
	verifyReads
	verifyReplied // VerifyT: the result is due
	verifyDone
)

type verifyItem struct {
	q                *peerReq // nil once done
	sector           uint64
	size             uint32
	state            verifyState
	differs, unknown bool
}

// ByteRange is a range of a volume, in bytes.
type ByteRange struct{ Off, Len int64 }

// VerifyReport is what an online verify found.
type VerifyReport struct {
	From, To  int64       // bytes that were compared: [From, To)
	Different int64       // bytes that differ, in whole blocks
	Unknown   int64       // bytes that the peer could not read
	Ranges    []ByteRange // the first MaxVerifyRanges that differ, merged, in ascending order
	More      bool        // there are more
	Complete  bool        // everything that was asked for has been compared
}

// MaxVerifyRanges is how many ranges a VerifyReport lists. All are marked in the bitmap.
const MaxVerifyRanges = 4096

// maxVerifyItems bounds what a peer may ask for at one time: half of the largest
// max-buffers, which is what a kernel allows itself.
const maxVerifyItems = 1 << 16

// VerifyOptions say which part of a volume is compared. Offsets are bytes, rounded
// outwards to blocks.
type VerifyOptions struct {
	Resume bool  // go on where an interrupted verify stopped; Start does not count
	Start  int64 // 0..size
	Stop   int64 // 0 for the end
}

// runs reports whether a verify of the given side is under way.
func (o *verifier) runs(source bool) bool { return o.running && o.source == source }

// verifyEndsByState: VerifyS says when it is over, and may therefore stop early;
// otherwise VerifyT counts (spec: wire 8.9).
func verifyEndsByState(v protocol.Version) bool { return v >= 97 && v != 100 }

// Verify compares the volume with the peer's copy. It finishes at the end, with
// cmd.Verified filled in as far as it came. Errors: ErrRefused, ErrConnectionLost, ErrRange.
func (c *Core) Verify(cmd *Command, vol int, opt VerifyOptions) {
	v := c.vols[vol]
	pd := v.pds[0]
	defer c.settle()
	req := protocol.StateRequest{}.WithConn(protocol.VerifyS)
	allowed := func() protocol.Code {
		switch {
		case pd.verify.runs(false) && pd.verify.left == 0:
			return protocol.CodeInTransientState // the peer's, of which only its last word is missing
		case verifies(pd.conn):
			return protocol.CodeResyncRunning
		case pd.conn >= protocol.Connected && v.disk < protocol.Inconsistent:
			return protocol.CodeNoLocalDisk // where S3 would make nothing of the wish
		case pd.conn >= protocol.Connected && pd.disk < protocol.Inconsistent:
			return protocol.CodeNoRemoteDisk
		case pd.conn == protocol.Connected && (v.disk != protocol.UpToDate || pd.disk != protocol.UpToDate):
			return protocol.CodeNoUpToDateDisk
		}
		return c.allowed(pd, func(s *protocol.State) { *s = req.Apply(*s) })
	}
	c.patiently(cmd, allowed, func(code protocol.Code) {
		if cmd.finished {
			return
		}
		if !code.Success() {
			c.finish(cmd, refused("verify", code, false))
			return
		}
		plan, err := pd.planVerify(cmd, opt)
		if err != nil {
			c.finish(cmd, err)
			return
		}
		pd.p.queueCluster(&clusterRequest{pd: pd, req: req, ask: true, done: func(code protocol.Code) {
			switch {
			case code == protocol.CodeKeepWaiting:
				c.finish(cmd, fmt.Errorf("verify: %w", ErrConnectionLost))
				return
			case !code.Success():
				c.finish(cmd, refused("verify", code, true))
				return
			}
			if verifies(pd.conn) { // another command was faster
				c.finish(cmd, refused("verify", protocol.CodeResyncRunning, false))
				return
			}
			if cmd.finished && verifyEndsByState(pd.p.session.Version) {
				plan.to = min(plan.from+1, plan.to) // the peer has begun already
			}
			pd.verify.plan = plan
			code = c.change(pd, wish, func(s *protocol.State) { *s = req.Apply(*s) })
			if pd.conn == protocol.VerifyS {
				return
			}
			if code.Success() { // sanitized away: a disk has gone
				code = protocol.CodeNoUpToDateDisk
			}
			pd.verify.plan = nil
			pd.sendState() // the peer has begun already
			c.finish(cmd, refused("verify", code, false))
		}})
	})
}

// planVerify turns the options into blocks.
func (pd *peerDevice) planVerify(cmd *Command, opt VerifyOptions) (*verifyPlan, error) {
	v, version := pd.v, pd.p.session.Version
	size := int64(v.size) * 512
	if opt.Start < 0 || opt.Stop < 0 || opt.Start > size || opt.Stop > size || opt.Stop != 0 && opt.Stop < opt.Start {
		return nil, fmt.Errorf("verify: %w: from %d to %d of %d bytes", ErrRange, opt.Start, opt.Stop, size)
	}
	end := bitmap.BitsFor(v.size)
	plan := &verifyPlan{cmd: cmd, from: uint64(opt.Start) / bitmap.BlockSize, to: end}
	if opt.Resume {
		if plan.from = pd.verify.resume; plan.from >= end {
			plan.from = 0
		}
	}
	if opt.Stop != 0 {
		if !verifyEndsByState(version) {
			return nil, fmt.Errorf("verify: %w: a stop sector, with protocol version %d", refused("verify", protocol.CodeNotSupported, false), version)
		}
		plan.to = (uint64(opt.Stop) + bitmap.BlockSize - 1) / bitmap.BlockSize
	}
	if version < 90 {
		plan.from = 0 // the peer counts from the beginning
	}
	if plan.from >= plan.to {
		return nil, fmt.Errorf("verify: %w: nothing lies between %d and %d", ErrRange, opt.Start, opt.Stop)
	}
	return plan, nil
}

// StopVerify ends the verify that of has begun as soon as what is under way has been
// compared; one that has not begun yet does not begin. The next one with Resume goes on
// there. It finishes at once. Errors: ErrRefused if the peer's version does not allow it.
func (c *Core) StopVerify(cmd *Command, vol int, of *Command) {
	pd := c.vols[vol].pds[0]
	o := &pd.verify
	defer c.settle()
	switch {
	case of.finished:
	case !o.runs(true) || o.cmd != of:
		c.finish(of, fmt.Errorf("verify: %w", ErrInterrupted))
	case !verifyEndsByState(pd.p.session.Version):
		c.finish(cmd, refused("stop the verify", protocol.CodeNotSupported, false))
		return
	default:
		o.to = o.cursor
		pd.verifyPump()
	}
	c.finish(cmd, nil)
}

// verifyAfter starts and ends the machinery as the connection state demands.
func (pd *peerDevice) verifyAfter(o, n protocol.ConnState) {
	switch {
	case verifies(n) && !verifies(o):
		pd.startVerify(n == protocol.VerifyS)
	case verifies(o) && !verifies(n):
		pd.endVerify(fmt.Errorf("verify: %w", ErrConnectionLost))
	}
}

func (pd *peerDevice) startVerify(source bool) {
	o, v := &pd.verify, pd.v
	end := bitmap.BitsFor(v.size)
	plan := o.plan
	if plan == nil {
		plan = &verifyPlan{to: end}
	}
	*o = verifier{pd: pd, running: true, source: source, cursor: plan.from, to: plan.to, cmd: plan.cmd, next: plan.from,
		alg: pd.p.verifyAlg, items: o.items[:0], resume: o.resume, left: plan.to - min(plan.from, plan.to)}
	o.total = o.left
	o.found.From, o.found.To = int64(plan.from)*bitmap.BlockSize, int64(plan.from)*bitmap.BlockSize
	o.meter.pd, o.meter.blocksLeft = pd, func() uint64 { return o.left }
	o.meter.start(o.total)
	v.c.event(Event{Kind: EventVerifyStart, Volume: v.idx, Peer: pd.p.idx, Blocks: o.total})
	pd.verifyPump()
}

// verifyPump asks for more blocks while there is room, and notices the end.
func (pd *peerDevice) verifyPump() {
	o := &pd.verify
	if !o.running {
		return
	}
	m := &o.meter
	m.note()
	waits := pd.startWaiting()
	if !o.source {
		if waits {
			o.timer.arm(pd.v.c.now + resyncStep)
		}
		return
	}
	if o.ending {
		return
	}
	m.ration()
	window := max(pd.v.c.cfg.Net.MaxBuffers/2, 1)
	for len(o.items)-o.head < window && o.cursor < o.to && m.budget > 0 {
		sector := o.cursor * 8
		size := uint32(min(8, pd.v.size-sector)) * 512
		o.cursor++
		if m.limited {
			m.budget -= int64(size) / 512
		}
		q := pd.v.c.newPeerReq(pd, protocol.CmdOVReply, sector, size, protocol.IDSyncer)
		o.items = append(o.items, verifyItem{q: q, sector: sector, size: size})
		pd.holdVerified(q)
		waits = pd.startWaiting() || waits
	}
	switch {
	case o.cursor >= o.to && o.head == len(o.items):
		pd.finishVerify()
	case waits || m.limited:
		o.timer.arm(max(m.nextStep, pd.v.c.now+1))
	}
}

// holdVerified keeps a Primary's own writes off a block until the result is known.
func (pd *peerDevice) holdVerified(q *peerReq) {
	if pd.v.role != protocol.Primary || q.iv.linked {
		return
	}
	q.iv = interval{from: q.sector, to: q.sector + uint64(q.size)/512, hold: true, peer: q, run: runVerify}
	pd.v.active.add(&q.iv)
}

// holdAllVerified is for a node that becomes Primary in the middle: it has not
// written yet, so that it is early enough for the blocks under way.
func (pd *peerDevice) holdAllVerified() {
	o := &pd.verify
	for i := o.head; i < len(o.items); i++ {
		if q := o.items[i].q; q != nil {
			pd.holdVerified(q)
		}
	}
}

// runVerify: no earlier write to the block is in flight here.
func runVerify(_ *Core, i *interval) {
	pd := i.peer.pd
	it := pd.verify.itemOf(i.peer)
	switch {
	case it == nil:
	case it.state == verifyCompare:
		pd.readVerified(it)
	case it.state == verifyWaits:
		pd.verifyPump()
	}
}

// startWaiting lets the blocks go on whose writes are stable by now, and reports
// whether others still wait. VerifyS asks in ascending order: an old VerifyT counts
// from the first block that it is asked for.
func (pd *peerDevice) startWaiting() (waits bool) {
	o := &pd.verify
	from := o.head
	if o.source {
		from = o.asked
	}
	for i := from; i < len(o.items); i++ {
		it := &o.items[i]
		if it.state != verifyWaits {
			continue
		}
		if it.q.iv.waiting || pd.v.unstable(it.sector, it.sector+uint64(it.size)/512) {
			pd.p.closeEpoch() // its barrier is what we wait for
			if o.source {
				return true
			}
			waits = true
			continue
		}
		if !o.source {
			pd.readVerified(it)
			continue
		}
		o.asked = i + 1
		it.state = verifyAsked
		pd.rsPending++
		o.meter.speed.asked(uint64(it.size) / 512)
		send(pd.p, protocol.DataStream, protocol.CmdOVRequest, pd.v.cfg.Number,
			protocol.BlockRequest{Sector: it.sector, ID: protocol.IDSyncer, Size: it.size})
	}
	return waits
}

// unstable reports whether an own write to the range has begun whose epoch the peer
// has not acknowledged.
func (v *volume) unstable(from, to uint64) bool {
	if v.appPending == 0 && v.pds[0].p.tx.first == nil {
		return false
	}
	for _, r := range v.c.requests.live() {
		if r.v == v && (r.issued || r.postponed) && r.writes(from, to) {
			return true
		}
	}
	return false
}

// find returns the block under way that a packet names, in one of these states.
func (o *verifier) find(sector uint64, size uint32, state verifyState) *verifyItem {
	for i := o.head; i < len(o.items); i++ {
		if it := &o.items[i]; it.sector == sector && it.size == size && it.state == state {
			return it
		}
	}
	return nil
}

func (o *verifier) itemOf(q *peerReq) *verifyItem {
	for i := o.head; i < len(o.items); i++ {
		if o.items[i].q == q {
			return &o.items[i]
		}
	}
	return nil
}

// readVerified reads the own block.
func (pd *peerDevice) readVerified(it *verifyItem) {
	it.state = verifyReads
	it.q.digest = pd.verify.alg
	queueRead(it.q)
}

// receiveVerifyReply is the peer's digest of a block.
func (pd *peerDevice) receiveVerifyReply(b protocol.BlockRequest) error {
	o := &pd.verify
	if !o.runs(true) {
		return nil // it was interrupted
	}
	it := o.find(b.Sector, b.Size, verifyAsked)
	if it == nil || len(b.Digest) != o.alg.Size() {
		return fmt.Errorf("%w: sector %d was not asked for, or has another digest than %s", protocol.ErrField, b.Sector, o.alg.Name())
	}
	q := it.q
	q.want = append([]byte(nil), b.Digest...)
	o.meter.speed.arrived(uint64(it.size) / 512)
	pd.rsPending--
	pd.unacked++
	it.state = verifyCompare
	switch {
	case !q.iv.linked:
		q.iv = interval{from: q.sector, to: q.sector + uint64(q.size)/512, peer: q, run: runVerify}
		if pd.v.active.add(&q.iv) {
			pd.readVerified(it)
		}
	case !q.iv.waiting:
		pd.readVerified(it)
	}
	return nil
}

// compared ends one block on VerifyS.
func (q *peerReq) compared(failed bool) {
	pd := q.pd
	o := &pd.verify
	it := o.itemOf(q)
	if q.gone || it == nil {
		q.drop()
		return
	}
	pd.unacked--
	it.differs = failed || !bytes.Equal(q.sum, q.want)
	id := protocol.IDInSync
	if it.differs {
		id = protocol.IDOutOfSync
		pd.markDifferent(it)
	}
	pd.ack(protocol.CmdOVResult, it.sector, id, it.size)
	it.state, it.q = verifyDone, nil
	q.drop()
	o.retire()
	pd.verifyPump()
}

// drop ends a request whose buffer and blocks are not needed any more.
func (q *peerReq) drop() {
	v := q.pd.v
	v.active.remove(&q.iv)
	q.release()
}

func (pd *peerDevice) markDifferent(it *verifyItem) {
	pd.setOutOfSync(it.sector, it.size)
	pd.armLazy()
}

// retire takes blocks off the front, so that what is found comes in order.
func (o *verifier) retire() {
	for o.head < len(o.items) && o.items[o.head].state == verifyDone {
		it := &o.items[o.head]
		o.head++
		from, to := touched(it.sector, it.size)
		o.next = to
		o.left -= min(o.left, to-from)
		o.note(it)
	}
	if o.head > len(o.items)/2 {
		o.items = o.items[:copy(o.items, o.items[o.head:])]
		o.asked -= min(o.asked, o.head)
		o.head = 0
	}
}

// note puts one compared block into the report.
func (o *verifier) note(it *verifyItem) {
	at, n := int64(it.sector)*512, int64(it.size)
	o.found.To = max(o.found.To, at+n)
	switch {
	case it.unknown:
		o.found.Unknown += n
	case it.differs && o.open.Len > 0 && o.open.Off+o.open.Len == at:
		o.found.Different += n
		o.open.Len += n
	case it.differs:
		o.closeRange()
		o.found.Different += n
		o.open = ByteRange{at, n}
	}
}

// closeRange reports a run of differing blocks.
func (o *verifier) closeRange() {
	if o.open.Len == 0 {
		return
	}
	v := o.pd.v
	v.logf(LogWarn, "out of sync: start=%d, size=%d (sectors)", o.open.Off/512, o.open.Len/512)
	v.c.event(Event{Kind: EventOutOfSync, Volume: v.idx, Peer: o.pd.p.idx, Off: o.open.Off, Bytes: o.open.Len})
	if len(o.found.Ranges) < MaxVerifyRanges {
		o.found.Ranges = append(o.found.Ranges, o.open)
	} else {
		o.found.More = true
	}
	o.open = ByteRange{}
}

// finishVerify: everything has been compared. When the ping is answered, the peer has
// every result.
func (pd *peerDevice) finishVerify() {
	o := &pd.verify
	o.ending = true
	gen := pd.p.gen
	pd.p.ping(func(err error) {
		if err != nil || pd.p.gen != gen || pd.conn != protocol.VerifyS {
			return // the end of the connection, or of the disk, ends it
		}
		pd.concludeVerify()
		if verifyEndsByState(pd.p.session.Version) {
			pd.sendState()
		}
	})
}

// concludeVerify is a regular end, on either side.
func (pd *peerDevice) concludeVerify() {
	pd.endVerify(nil)
	pd.v.c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.Connected })
}

// abortVerify stops a verify because this node needs its disk for something else.
func (pd *peerDevice) abortVerify(why error) {
	if !verifies(pd.conn) {
		return
	}
	pd.endVerify(fmt.Errorf("verify: %w", why))
	pd.v.c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.Connected })
	pd.sendState()
}

// endVerify stops the machinery. A nil err is a regular end; otherwise the place
// where it stopped is kept.
func (pd *peerDevice) endVerify(err error) {
	o, v := &pd.verify, pd.v
	if !o.running {
		return
	}
	o.running, o.meter.running = false, false
	o.timer.stop()
	for i := o.head; i < len(o.items); i++ {
		it := &o.items[i]
		switch it.state {
		case verifyReads:
			it.q.gone = true // dropped when the disk is done with its buffer
			pd.unacked = max(pd.unacked-1, 0)
			continue
		case verifyCompare:
			pd.unacked = max(pd.unacked-1, 0)
		case verifyAsked, verifyReplied:
			pd.rsPending = max(pd.rsPending-1, 0)
		case verifyWaits:
			if !o.source {
				pd.unacked = max(pd.unacked-1, 0)
			}
		}
		if q := it.q; q != nil {
			q.drop()
		}
	}
	o.items, o.head, o.asked = o.items[:0], 0, 0
	o.closeRange()
	end := bitmap.BitsFor(v.size)
	o.found.Complete = err == nil && o.left == 0 && o.found.Unknown == 0
	if o.source {
		if o.resume = o.next; o.resume >= end {
			o.resume = 0
		}
	}
	v.c.event(Event{Kind: EventVerifyDone, Volume: v.idx, Peer: pd.p.idx, Blocks: o.total - o.left,
		Failed: uint64(o.found.Different) / bitmap.BlockSize, Err: err})
	v.logf(LogInfo, "verify done: %d blocks compared, %d bytes differ, %d could not be read by the peer", o.total-o.left, o.found.Different, o.found.Unknown)
	if pd.oosBlocks() > 0 && err == nil {
		v.c.notify(HandlerOutOfSync, pd)
	}
	if cmd := o.cmd; cmd != nil {
		o.cmd = nil
		found := o.found
		cmd.Verified = &found
		v.c.finish(cmd, err)
	}
}
