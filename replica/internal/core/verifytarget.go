// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// The side of an online verify that is asked.

// receiveVerifyRequest is a block whose digest VerifyS wants.
func (pd *peerDevice) receiveVerifyRequest(b protocol.BlockRequest) error {
	o, v := &pd.verify, pd.v
	if err := v.inside(b.Sector, uint64(b.Size)); err != nil {
		return err
	}
	if !o.runs(false) || v.disk != protocol.UpToDate {
		// It was interrupted here, of which the peer has not heard.
		pd.refuseRead(protocol.CmdOVRequest, b.Sector, b.ID, b.Size)
		return nil
	}
	if len(o.items)-o.head >= maxVerifyItems {
		return fmt.Errorf("%w: %d verify requests at one time", protocol.ErrField, maxVerifyItems)
	}
	if o.total == bitmap.BitsFor(v.size) && o.left == o.total && len(o.items) == 0 && pd.p.session.Version >= 90 {
		// The first request tells where it begins (spec: wire 8.9).
		o.next = b.Sector / 8
		o.left -= min(o.next, o.left)
		o.total = o.left
		o.found.From, o.found.To = int64(b.Sector)*512, int64(b.Sector)*512
		o.meter.start(o.total)
	}
	o.doubt = false
	q := v.c.newPeerReq(pd, protocol.CmdOVRequest, b.Sector, b.Size, b.ID)
	pd.unacked++
	o.items = append(o.items, verifyItem{q: q, sector: b.Sector, size: b.Size})
	q.iv = interval{from: q.sector, to: q.sector + uint64(q.size)/512, hold: v.role == protocol.Primary, peer: q, run: runVerify}
	if v.active.add(&q.iv) {
		pd.verifyPump()
	}
	return nil
}

// verifyRead sends the digest of a block that VerifyS asked for: zeroes if it could
// not be read.
func (q *peerReq) verifyRead(failed bool) {
	pd := q.pd
	o := &pd.verify
	it := o.itemOf(q)
	if q.gone || it == nil {
		q.drop()
		return
	}
	var zeroes [protocol.MaxDigestBytes]byte
	digest := q.sum
	if failed {
		digest = zeroes[:o.alg.Size()]
	}
	pd.unacked--
	pd.rsPending++
	it.state = verifyReplied
	q.buf.Release()
	q.buf = nil
	switch {
	case q.iv.hold:
	case pd.v.role == protocol.Primary:
		q.iv.hold = true // it has become Primary in the meantime
	default:
		pd.v.active.remove(&q.iv)
	}
	send(pd.p, protocol.DataStream, protocol.CmdOVReply, pd.v.cfg.Number,
		protocol.BlockRequest{Sector: q.sector, ID: q.id, Size: q.size, Digest: digest})
}

// receiveVerifyResult ends one block on VerifyT. One that nobody waits for any more
// may add marks, never take any away.
func (pd *peerDevice) receiveVerifyResult(a protocol.BlockAck) error {
	if a.ID != protocol.IDInSync && a.ID != protocol.IDOutOfSync {
		return fmt.Errorf("%w: verify result %d", protocol.ErrField, uint64(a.ID))
	}
	o := &pd.verify
	differs := a.ID == protocol.IDOutOfSync
	it := o.find(a.Sector, a.Size, verifyReplied)
	if !o.runs(false) || it == nil {
		if differs {
			pd.setOutOfSync(a.Sector, a.Size)
			pd.armLazy()
		}
		return nil
	}
	pd.rsPending--
	if it.differs = differs; differs {
		pd.markDifferent(it)
	}
	q := it.q
	it.state, it.q = verifyDone, nil
	q.drop()
	o.retire()
	if o.left == 0 && len(o.items) == o.head && !verifyEndsByState(pd.p.session.Version) {
		pd.concludeVerify()
	}
	return nil
}

// verifyRefused: VerifyT could not read the block that we asked for.
func (pd *peerDevice) verifyRefused(a protocol.BlockAck) {
	o := &pd.verify
	if !o.runs(true) {
		return
	}
	it := o.find(a.Sector, a.Size, verifyAsked)
	if it == nil {
		return
	}
	o.meter.speed.arrived(uint64(it.size) / 512)
	pd.rsPending--
	it.unknown = true
	q := it.q
	it.state, it.q = verifyDone, nil
	q.drop()
	o.retire()
	pd.verifyPump()
}

// verifyEnds reports whether the peer's P_STATE is the end of a verify: VerifyS has
// left it (spec: wire 8.4), or a disk that is not UpToDate any more cannot be compared.
func (pd *peerDevice) verifyEnds(own, ps protocol.State, disk protocol.DiskState) bool {
	switch {
	case own.Conn == protocol.VerifyT && ps.Conn == protocol.Connected && disk == protocol.UpToDate && pd.verify.untouched():
		// Most likely it says something else, as another role, and left before our
		// consent arrived. If nothing is asked for it was the end.
		pd.verify.doubt = true
		pd.verify.timer.arm(pd.v.c.now + 4*pd.v.c.cfg.Net.PingTimeout)
		return false
	case own.Conn == protocol.VerifyT && ps.Conn == protocol.Connected:
	case verifies(own.Conn) && disk <= protocol.Inconsistent:
		pd.endVerify(fmt.Errorf("verify: %w: the peer's disk is %v", ErrIO, disk))
		return true
	default:
		return false
	}
	pd.endVerify(nil)
	return true
}

// untouched reports whether VerifyS has asked for nothing yet.
func (o *verifier) untouched() bool { return o.left == o.total && o.head == len(o.items) }

// verifyTick: blocks may go on, or a verify that never began is over.
func (pd *peerDevice) verifyTick() {
	o := &pd.verify
	if o.runs(false) && o.doubt && o.untouched() {
		pd.concludeVerify()
		return
	}
	pd.verifyPump()
}
