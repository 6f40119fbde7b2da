// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Two Primaries (spec: behaviour 5.6, wire 8.13). Each node writes its own disk and
// sends the write to the other at the same time; where two such writes meet, the
// disks would end up different. The resolver (the node that accepted the meta
// connection) decides, and its own write comes last:
//
//	  resolver                                  the other node
//	  W1 0..8 ──────────── P_DATA ───────────►  waits: W2 is under way here
//	          ◄─────────── P_DATA ────────────  W2 2..4
//	  W2 lies inside W1 ── P_SUPERSEDED ─────►  W2 is complete: W1 overwrites it
//	                                            now W1 is written, and acknowledged
//	  W2 reaches out of W1: P_RETRY_WRITE ───►  W1 is written first, then W2 is sent again
//
// A write that the other node sent after it had acknowledged ours is no rival: it
// comes later. The ack travels on the other stream and may be slower, so the
// resolver first waits for every ack that was sent before that write.

// acksDue reports whether a write, before its turn comes, has to wait for acks that
// the peer sent before it: one of them may answer the very write that it meets.
func (q *peerReq) acksDue() bool {
	pd, p := q.pd, q.pd.p
	if !p.c.cfg.Net.AllowTwoPrimary || !p.resolver ||
		int32(pd.acksSeen-q.acks) >= 0 || int32(pd.ackSeq-q.seq) > 0 {
		return false
	}
	if meets, _ := pd.v.active.rival(q.sector, q.sector+uint64(q.size)/512); !meets {
		return false
	}
	if q.since == 0 {
		q.since = max(p.c.now, 1)
		p.acksTimer.arm(q.since + p.c.cfg.Net.PingTimeout)
	}
	return true
}

// acksTimedOut: the acks did not come within ping-timeout.
func (p *peer) acksTimedOut() {
	if q := p.rx.held; q != nil && q.since != 0 && p.c.now >= q.since+p.c.cfg.Net.PingTimeout && q.acksDue() {
		p.c.logf(LogWarn, -1, "acks that the peer numbered before its write to sector %d did not come", q.sector)
		p.lose(protocol.Timeout)
	}
}

// losesConflict decides, as the resolver, about a write that meets own ones which
// the peer has not acknowledged, and reports whether it is dropped.
func (q *peerReq) losesConflict() bool {
	pd, p := q.pd, q.pd.p
	if q.epoch == nil || !p.resolver || !p.c.cfg.Net.AllowTwoPrimary {
		return false
	}
	meets, inside := pd.v.active.rival(q.iv.from, q.iv.to)
	if !meets {
		return false
	}
	cmd := protocol.CmdSuperseded
	if !inside && p.session.CanSend(protocol.CmdRetryWrite) {
		cmd = protocol.CmdRetryWrite
	}
	pd.v.logf(LogDebug, "concurrent writes: sector %d, %d bytes: %v", q.sector, q.size, cmd)
	pd.unacked--
	pd.conflicts++
	pd.ack(cmd, q.sector, q.id, q.size)
	e := q.epoch
	e.count--
	e.pending--
	e.decided = true
	q.release()
	p.rx.advance(p)
	return true
}

// conflictDecided is the resolver's answer: our write is dropped in favour of its own
// one that contains it, or is to be sent again after that.
func (r *request) conflictDecided(cmd protocol.Command) error {
	p := r.pd.p
	if !p.c.cfg.Net.AllowTwoPrimary || p.resolver || r.net != partPending || r.epoch == nil {
		return errSequence
	}
	r.pd.conflicts++
	p.withdraw(r)
	if cmd == protocol.CmdSuperseded && p.session.Version >= 100 {
		r.answered(partOK)
	} else {
		// Below version 100 P_SUPERSEDED also stands for P_RETRY_WRITE.
		r.landed()
		r.net, r.lost = partNone, true
		p.c.maybeComplete(r)
	}
	p.coverConflicts()
	return nil
}

// postpone lets a write that lost a conflict wait for its turn once more. It keeps its
// extents: until it is written again the disks may differ there.
func (r *request) postpone() {
	l := &r.v.active
	r.lost, r.postponed, r.issued, r.mayClear, r.cleared = false, true, false, false, false
	r.local, r.net, r.err = partNone, partNone, nil
	l.wait(&r.iv)
	l.wake()
}

// withdraw takes a write that lost a conflict out of its epoch, and ends that: a
// kernel never acknowledges such an epoch.
func (p *peer) withdraw(r *request) {
	e := r.epoch
	if p.tx.current == e {
		p.closeEpoch()
	}
	var before *request
	for o := e.head; o != r; o = o.next {
		before = o
	}
	if before == nil {
		e.head = r.next
	} else {
		before.next = r.next
	}
	if e.tail == r {
		e.tail = before
	}
	e.count--
	e.withdrawn++
	r.epoch, r.next = nil, nil
	p.dropEmptyEpochs()
}

// dropEmptyEpochs forgets the oldest epochs as long as every write of them lost a
// conflict: nobody acknowledges those.
func (p *peer) dropEmptyEpochs() {
	for e := p.tx.first; e != nil && e != p.tx.current && e.count == 0; e = p.tx.first {
		p.epochStable(e)
	}
}

// barrierAckPast is the ack of a later epoch than the oldest: it covers epochs with
// conflicts, which a kernel does not acknowledge.
func (p *peer) barrierAckPast(a protocol.BarrierAck) error {
	e := p.tx.first
	for ; e != nil && e.withdrawn > 0 && e.number != a.Number; e = e.next {
		for r := e.head; r != nil; r = r.next {
			if r.net == partPending {
				return fmt.Errorf("%w: barrier ack for epoch %d before the ack of sector %d", protocol.ErrField, a.Number, r.sector)
			}
		}
	}
	if e == nil || e.number != a.Number {
		return fmt.Errorf("%w: barrier ack for epoch %d, which is unknown", protocol.ErrField, a.Number)
	}
	for p.tx.first != e {
		p.epochStable(p.tx.first)
	}
	return p.receiveBarrierAck(a)
}

// coverConflicts makes sure that an epoch with conflicts is acknowledged in the end,
// though a kernel does not do so: if nothing follows, an empty write with a
// flush does, and the ack of its epoch stands for both (spec: wire 4.8, 8.13).
func (p *peer) coverConflicts() {
	e := p.tx.first
	if e == nil || e != p.tx.last || e == p.tx.current || e.withdrawn == 0 || p.phase != phaseUp {
		return
	}
	for r := e.head; r != nil; r = r.next {
		if r.net == partPending {
			return
		}
	}
	pd := e.head.pd
	r := p.c.newRequest()
	r.v, r.pd, r.kind = pd.v, pd, IOFlush
	r.net, r.wantAck, r.since = partPending, true, p.c.now
	p.tx.add(p, r)
	flags := protocol.DPFlush | protocol.DPSendWriteAck
	p.sendData(protocol.CmdData, pd.v.cfg.Number,
		protocol.Data{ID: r.id, Seq: pd.nextSeq(), Flags: flags.Usable(p.session.Version)}, nil, r, nil)
	p.closeEpoch()
}

// adoptTwoPrimaries takes over what the peer's administrator decided. While both
// nodes are Primary their writes have to be put in order, whatever is allowed.
func (c *Core) adoptTwoPrimaries(on bool) {
	for _, v := range c.vols {
		if !on && v.role == protocol.Primary && v.pds[0].role == protocol.Primary {
			c.logf(LogWarn, v.idx, "the peer forbids two Primaries; both nodes are Primary: ignored")
			return
		}
	}
	c.cfg.Net.AllowTwoPrimary = on
}
