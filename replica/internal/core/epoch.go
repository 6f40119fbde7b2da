// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Write epochs as the writer sees them (spec: behaviour 5.6, wire 8.6). An epoch is
// a set of writes of all volumes without an order among them. It is closed when one
// of its writes completes, because what the application does next may depend on
// that one; P_BARRIER follows at once. The list of unacknowledged epochs is DRBD's
// transfer log.

type txEpoch struct {
	number     uint32
	count      uint32
	withdrawn  uint32 // writes that lost a conflict (see conflict.go)
	head, tail *request
	next       *txEpoch
}

type txEpochs struct {
	number  uint32   // of the next epoch, over the life of the resource
	closed  uint32   // number of the last barrier sent
	acked   uint32   // number of the last barrier acknowledged
	current *txEpoch // open, has writes; nil if there is none
	first   *txEpoch // oldest unacknowledged
	last    *txEpoch
	n       int
	free    *txEpoch
}

// add puts a request that is about to be sent into the current epoch.
func (t *txEpochs) add(p *peer, r *request) {
	e := t.current
	if e == nil {
		if e = t.free; e == nil {
			e = &txEpoch{}
		} else {
			t.free = e.next
			*e = txEpoch{}
		}
		t.number++
		e.number = t.number
		if t.last == nil {
			t.first = e
		} else {
			t.last.next = e
		}
		t.last, t.current = e, e
		t.n++
	} else if int(e.count) >= p.c.cfg.Net.MaxEpochSize {
		p.closeEpoch()
		t.add(p, r)
		return
	}
	r.epoch, r.next = e, nil
	if e.tail == nil {
		e.head = r
	} else {
		e.tail.next = r
	}
	e.tail = r
	e.count++
}

// closeEpoch ends the current epoch, if it has writes.
func (p *peer) closeEpoch() {
	e := p.tx.current
	if e == nil {
		return
	}
	p.tx.current = nil
	p.tx.closed = e.number
	send(p, protocol.DataStream, protocol.CmdBarrier, 0, protocol.Barrier{Number: e.number})
}

// receiveBarrierAck: the writes of the oldest epoch are stable on the peer's disk.
// It must name that epoch and the exact number of its writes.
func (p *peer) receiveBarrierAck(a protocol.BarrierAck) error {
	e := p.tx.first
	if e != nil && e.withdrawn > 0 && e.number != a.Number {
		return p.barrierAckPast(a)
	}
	if e == nil || e == p.tx.current || e.number != a.Number || a.SetSize < e.count || a.SetSize > e.count+e.withdrawn {
		return fmt.Errorf("%w: barrier ack for epoch %d with %d writes is not that of the oldest epoch", protocol.ErrField, a.Number, a.SetSize)
	}
	for r := e.head; r != nil; r = r.next {
		if r.net == partPending {
			return fmt.Errorf("%w: barrier ack for epoch %d before the ack of sector %d", protocol.ErrField, a.Number, r.sector)
		}
	}
	p.epochStable(e)
	p.dropEmptyEpochs()
	return nil
}

// epochStable releases the oldest epoch's writes: they are on the peer's disk for good.
func (p *peer) epochStable(e *txEpoch) {
	p.tx.pop()
	p.tx.acked = e.number
	for r := e.head; r != nil; {
		next := r.next
		r.landed()
		r.epoch, r.next = nil, nil
		p.c.maybeComplete(r)
		r = next
	}
	p.tx.recycle(e)
	for _, pd := range p.pds {
		if pd.verify.running {
			pd.verifyPump() // blocks may have waited for this
		}
	}
}

func (t *txEpochs) pop() *txEpoch {
	e := t.first
	t.first = e.next
	if t.first == nil {
		t.last = nil
	}
	if t.current == e {
		t.current = nil
	}
	t.n--
	return e
}

func (t *txEpochs) recycle(e *txEpoch) {
	*e = txEpoch{next: t.free}
	t.free = e
}

// abandonRequests is the end of the connection for everything that was sent: what
// was not barrier-acknowledged counts as not mirrored, and completes by its local
// result (spec: behaviour 2.6).
func (p *peer) abandonRequests() {
	for p.tx.first != nil {
		e := p.tx.pop()
		for r := e.head; r != nil; {
			next := r.next
			r.pd.setOutOfSync(r.sector, r.size)
			r.landed()
			if r.net == partPending || (r.stable || !r.wantAck || r.v.disk != protocol.UpToDate) && r.io != nil {
				// With protocol A and B all that is known is that it was sent, or
				// received: now the own disk has to take it. And if that is not good, the
				// peer's was all that counted: its cache may be lost.
				r.net = partFailed
			}
			if r.io == nil && !r.wantAck && r.local == partOK {
				r.v.wroteAlone() // users have seen it, and the peer may not have it
			}
			if r.err == nil {
				r.err = ErrConnectionLost
			}
			r.epoch, r.next, r.cleared = nil, nil, false
			p.c.maybeComplete(r)
			r = next
		}
		p.tx.recycle(e)
	}
	p.tx.closed, p.tx.acked = p.tx.number, p.tx.number
	for _, r := range p.c.requests.live() {
		if r.remote && r.net == partPending {
			r.remoteReadFailed(ErrConnectionLost)
		}
	}
}

// requestTimer is when the oldest request has waited too long for its answers.
func (p *peer) requestTimer() timer {
	net := &p.c.cfg.Net
	if p.tx.first == nil || net.KoCount == 0 || p.phase != phaseUp {
		return timer{}
	}
	return timer{at: p.tx.first.head.since + net.Timeout*time.Duration(net.KoCount), set: true}
}

func (p *peer) requestTimedOut() {
	p.c.logf(LogWarn, -1, "the peer failed to finish a request in %v", p.c.cfg.Net.Timeout*time.Duration(p.c.cfg.Net.KoCount))
	p.lose(protocol.Timeout)
}
