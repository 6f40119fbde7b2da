// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// Write epochs as the receiver sees them (spec: behaviour 5.6). All writes of an
// epoch are on stable storage before a write of a later one is given to the disk;
// then P_BARRIER_ACK tells the writer that it may forget them.
//
//	first                                     last
//	[3 writes, barrier: flushing] -> [2 writes held, barrier] -> [1 write held]

type rxEpoch struct {
	number  uint32
	count   uint32
	pending int
	barrier bool
	decided bool      // a write of it lost a conflict, and does not count
	vols    []*volume // that it has writes for
	good    []*volume // whose disk took one of them
	next    *rxEpoch
}

type rxEpochs struct {
	first, last *rxEpoch
	held        *peerReq // writes of later epochs, and reads behind them, in order
	heldTail    *peerReq
	flushing    int
	running     bool
	again       bool
	free        *rxEpoch

	opened, closed uint64 // epochs so far
	waiters        []rxWaiter
}

// rxWaiter waits for the writes of the first epochs, as many as were opened.
type rxWaiter struct {
	opened uint64
	fn     func(error)
}

func (x *rxEpochs) reset() {
	x.first, x.last, x.held, x.heldTail, x.flushing = nil, nil, nil, nil, 0
	x.closed = x.opened
	waiters := x.waiters
	x.waiters = nil
	for _, w := range waiters {
		w.fn(ErrConnectionLost)
	}
}

// settle calls fn when all that was received until now is written, though maybe not
// yet durable, or with ErrConnectionLost.
func (x *rxEpochs) settle(fn func(error)) {
	if x.written(x.opened) {
		fn(nil)
		return
	}
	x.waiters = append(x.waiters, rxWaiter{x.opened, fn})
}

// written reports whether the writes of the first n epochs are.
func (x *rxEpochs) written(n uint64) bool {
	return x.closed >= n || x.closed == n-1 && x.first.pending == 0
}

func (x *rxEpochs) wake() {
	for len(x.waiters) > 0 && x.written(x.waiters[0].opened) {
		w := x.waiters[0]
		x.waiters = x.waiters[1:]
		w.fn(nil)
	}
}

// current returns the epoch that is being received.
func (x *rxEpochs) current() *rxEpoch {
	if x.last == nil || x.last.barrier {
		e := x.free
		if e == nil {
			e = &rxEpoch{}
		} else {
			x.free = e.next
			*e = rxEpoch{vols: e.vols[:0], good: e.good[:0]}
		}
		if x.last == nil {
			x.first = e
		} else {
			x.last.next = e
		}
		x.last = e
		x.opened++
	}
	return x.last
}

// join counts a write into the current epoch.
func (x *rxEpochs) join(v *volume) *rxEpoch {
	e := x.current()
	e.count++
	e.pending++
	e.vols = withVolume(e.vols, v)
	return e
}

func withVolume(list []*volume, v *volume) []*volume {
	for _, o := range list {
		if o == v {
			return list
		}
	}
	return append(list, v)
}

// start begins a write, or holds it until its turn.
func (x *rxEpochs) start(p *peer, q *peerReq) {
	if x.held == nil && q.mayStart() {
		q.admitWrite()
		return
	}
	q.next = nil
	if x.held == nil {
		x.held = q
	} else {
		x.heldTail.next = q
	}
	x.heldTail = q
}

// mayStart reports whether the turn of a write has come.
func (q *peerReq) mayStart() bool {
	return q.epoch == q.pd.p.rx.first && q.pd.v.gates == 0 && q.pd.v.coming == 0 && !q.pd.v.sealed && !q.acksDue()
}

// startRead begins a read of the peer, or holds it behind a write to the same blocks
// that is held: the peer sent that first, and with protocol A and B may have told its
// application that it is done.
func (x *rxEpochs) startRead(q *peerReq) {
	for h := x.held; h != nil; h = h.next {
		if !h.reads() && h.pd == q.pd && h.sector < q.sector+uint64(q.size)/512 && q.sector < h.sector+uint64(h.size)/512 {
			q.next = nil
			x.heldTail.next = q
			x.heldTail = q
			return
		}
	}
	q.admitRead()
}

// releaseHeld begins what is held and whose turn has come.
func (p *peer) releaseHeld() {
	x := &p.rx
	for q := x.held; q != nil && (q.reads() || q.mayStart()); q = x.held {
		x.held = q.next
		if x.held == nil {
			x.heldTail = nil
		}
		q.next = nil
		if q.reads() {
			q.admitRead()
		} else {
			q.admitWrite()
		}
	}
}

// receiveBarrier ends the current epoch.
func (p *peer) receiveBarrier(number uint32) {
	e := p.rx.current()
	e.barrier, e.number = true, number
	p.rx.advance(p)
}

// advance makes the oldest epoch stable if all of it is written, acknowledges it,
// and goes on with the next.
func (x *rxEpochs) advance(p *peer) {
	if x.running {
		x.again = true
		return
	}
	x.running = true
	for x.again = true; x.again; {
		x.again = false
		e := x.first
		if e == nil || !e.barrier || e.pending > 0 || x.flushing > 0 {
			break
		}
		if p.flushEpoch(e) {
			break
		}
		x.done(p, e)
		x.again = true
	}
	x.running = false
	x.wake()
}

// flushEpoch begins to flush what the epoch wrote to, and reports whether there is
// anything to wait for.
func (p *peer) flushEpoch(e *rxEpoch) bool {
	for _, v := range e.good {
		if v.lostCache && v.cfg.DiskFlushes {
			// The disk took the write and then failed: nobody can make it durable
			// any more. Without an ack the peer marks it when the connection ends.
			p.c.logf(LogWarn, -1, "the disk failed with writes of the peer in its cache: connecting anew")
			p.lose(protocol.BrokenPipe)
			return true
		}
	}
	for _, v := range e.vols {
		if !v.cfg.DiskFlushes || !v.hasDisk() {
			continue
		}
		p.rx.flushing++
		o := p.c.op()
		o.Kind, o.Volume, o.vol, o.from, o.epoch, o.done = OpFlush, v.idx, v, p, e, epochFlushed
		p.c.issue(o)
	}
	return p.rx.flushing > 0
}

func epochFlushed(_ *Core, o *Op) {
	p, x, e := o.from, &o.from.rx, o.epoch
	if o.Err != nil {
		o.vol.diskFailed(causeFlush, "flush", o.Err)
	}
	if x.first != e {
		return // the connection has ended in the meantime
	}
	x.flushing--
	if o.Err != nil {
		// What is lost now the peer still has in its transfer log: without an ack
		// it marks these blocks, which is what is needed.
		p.lose(protocol.BrokenPipe)
		return
	}
	if x.flushing == 0 {
		x.done(p, e)
		x.advance(p)
	}
}

// done acknowledges the oldest epoch.
func (x *rxEpochs) done(p *peer, e *rxEpoch) {
	if e.count > 0 || !e.decided { // spec: wire 8.13: no ack for an epoch that lost all its writes
		send(p, protocol.MetaStream, protocol.CmdBarrierAck, 0, protocol.BarrierAck{Number: e.number, SetSize: e.count})
	}
	x.first = e.next
	x.closed++
	if x.first == nil {
		x.last = nil
	}
	e.next, x.free = x.free, e
	p.releaseHeld()
}

// abandon drops what was held when the connection ends: it was not acknowledged, so
// the peer has marked it. What the disk is writing already finishes.
func (x *rxEpochs) abandon(p *peer) {
	q := x.held
	x.reset()
	for q != nil {
		next := q.next
		q.pd.unacked--
		q.release()
		q = next
	}
}
