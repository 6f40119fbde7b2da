// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Submit begins an application request. The way of a write:
//
//	Submit -> admission -> no overlapping write in flight -> extents hot
//	       -> issue: P_DATA to the peer and OpWrite to the disk, in parallel
//	       -> local part done, peer's part done -> complete to the application
//	       -> P_BARRIER_ACK: forgotten, extents released
func (c *Core) Submit(io *IO) {
	io.Err, io.next, io.left = nil, nil, 0
	v := c.vols[io.Volume]
	if err := v.checkIO(io); err != nil {
		c.complete(io, err)
		return
	}
	if io.Kind != IOFlush && io.Len == 0 {
		c.complete(io, nil)
		return
	}
	if c.suspErr != nil && c.suspended() {
		c.complete(io, c.suspErr)
		return
	}
	if v.held.head != nil || v.blocks(io.Kind) {
		v.held.push(io)
		return
	}
	v.begin(io)
	if len(c.after) > 0 || len(c.waiting) > 0 {
		c.settle()
	}
	if v.md.dirty {
		v.writeDirtySuper()
	}
}

func (c *Core) complete(io *IO, err error) {
	io.Err, io.req = err, nil
	c.eff.Done = append(c.eff.Done, io)
}

// checkIO refuses what can never work.
func (v *volume) checkIO(io *IO) error {
	switch {
	case v.role != protocol.Primary:
		return ErrNotPrimary
	case io.Kind == IOFlush:
		return nil
	case io.Off%512 != 0 || io.Len%512 != 0 || io.Off < 0 || io.Len < 0:
		return fmt.Errorf("%w: offset %d and length %d must be multiples of 512", ErrRange, io.Off, io.Len)
	case uint64(io.Off+io.Len)/512 > v.size:
		return fmt.Errorf("%w: offset %d, length %d, volume of %d bytes", ErrRange, io.Off, io.Len, v.size*512)
	case (io.Kind == IORead || io.Kind == IOWrite) && (io.Len > MaxIOBytes || int64(len(io.Buf)) != io.Len):
		return fmt.Errorf("%w: length %d, buffer %d, at most %d", ErrRange, io.Len, len(io.Buf), MaxIOBytes)
	case io.Len > MaxDiscardBytes:
		return fmt.Errorf("%w: length %d, at most %d", ErrRange, io.Len, MaxDiscardBytes)
	}
	return nil
}

// blocks reports whether a new request has to wait (spec: behaviour 5.1).
func (v *volume) blocks(kind IOKind) bool {
	c := v.c
	if c.suspended() || v.freezing > 0 ||
		v.disk == protocol.Attaching || v.disk == protocol.Negotiating || v.disk == protocol.Failed {
		return true
	}
	if kind != IORead && (v.gates > 0 || v.lettingGo() || v.notYet()) {
		return true
	}
	return v.exchanging()
}

// exchanging reports whether bitmaps are on their way, and a write would be missing from
// them: the target does not know yet what it lacks, and below version 96 the source
// cannot tell what it writes meanwhile.
func (v *volume) exchanging() bool {
	for _, pd := range v.pds {
		if pd.conn == protocol.WFBitMapT || pd.conn == protocol.WFSyncUUID ||
			pd.conn == protocol.WFBitMapS && pd.p.session.Version < 96 {
			return true
		}
	}
	return false
}

// admitHeld lets in what waited, in order.
func (v *volume) admitHeld() {
	for io := v.held.head; io != nil; io = v.held.head {
		if v.blocks(io.Kind) {
			return
		}
		v.held.remove(io)
		if err := v.checkIO(io); err != nil {
			v.c.complete(io, err)
			continue
		}
		v.begin(io)
	}
}

// Cancel withdraws a request that is still waiting for admission (suspended I/O,
// a state that blocks I/O): it completes with err. It reports false, and
// does nothing, if the request has begun.
func (c *Core) Cancel(io *IO, err error) bool {
	if !c.vols[io.Volume].held.remove(io) {
		return false
	}
	c.complete(io, err)
	return true
}

// failHeld completes everything that waits for admission with err.
func (v *volume) failHeld(err error) {
	for io := v.held.head; io != nil; io = v.held.head {
		v.held.remove(io)
		v.c.complete(io, err)
	}
}

// begin turns an admitted IO into a request.
func (v *volume) begin(io *IO) {
	c := v.c
	if io.Kind == IOFlush {
		v.beginFlush(io)
		return
	}
	r := c.newRequest()
	io.left = 1
	r.io, r.v, r.kind, r.buf, r.era = io, v, io.Kind, io.Buf, c.era
	r.sector, r.size, r.fua, r.unmap = uint64(io.Off)/512, uint32(io.Len), io.FUA, io.MayUnmap
	io.req = r
	v.appPending++
	if io.Kind == IORead && !c.cfg.Net.AllowTwoPrimary {
		r.startRead()
		return
	}
	r.iv.from, r.iv.to, r.iv.write, r.iv.req, r.iv.run = r.sector, r.sector+uint64(r.size)/512, io.Kind != IORead, r, runRequest
	if v.active.add(&r.iv) {
		runRequest(c, &r.iv)
	}
}

// runRequest: the blocks are free. Where two nodes read and write, a read takes
// its turn too: what it sees was written on both nodes, and what is being written
// waits until it has seen.
func runRequest(_ *Core, i *interval) {
	if i.req.kind == IORead {
		i.req.startRead()
		return
	}
	i.req.startWrite()
}

// beginFlush: an application flush ends the epoch, and flushes the own disk. It is
// not delayed until the peer has flushed too, as in DRBD; only a node without a disk, or
// with one that is being filled, waits for the peer, who has the only good copy (spec:
// behaviour 5.6).
func (v *volume) beginFlush(io *IO) {
	c := v.c
	for _, pd := range v.pds {
		pd.p.closeEpoch()
	}
	if v.lostWrites {
		v.lostWrites = false
		c.complete(io, fmt.Errorf("%w: the disk failed, and what it had not flushed may be gone", ErrIO))
		return
	}
	v.appPending++
	if v.hasDisk() {
		o := c.op()
		o.Kind, o.Volume, o.vol, o.IO, o.done = OpFlush, v.idx, v, io, flushDone
		c.issue(o)
		return
	}
	v.flushAtPeer(io, ErrNoUpToDateData)
	c.settle()
}

// flushAtPeer ends a flush when the peer has made durable what was written so far. err
// is the answer if the peer has not got it.
func (v *volume) flushAtPeer(io *IO, err error) {
	c, pd := v.c, v.pds[0]
	if !mirrors(pd.state()) {
		v.appPending--
		c.complete(io, err)
		return
	}
	gen := pd.p.gen
	want, denials := pd.p.tx.closed, v.denials
	c.when(func() bool { return pd.p.gen != gen || !pd.p.alive() || pd.p.tx.acked-want < 1<<31 && !v.untold }, func() {
		v.appPending--
		switch {
		case pd.p.gen == gen && v.denials != denials:
			c.complete(io, err)
		case pd.p.gen == gen && pd.p.alive():
			c.complete(io, nil)
		case c.suspNoData && c.suspErr == nil:
			v.held.push(io) // writes that had no answer come before it then
		default:
			c.complete(io, ErrConnectionLost)
		}
	})
}

func flushDone(c *Core, o *Op) {
	v, io, err := o.vol, o.IO, o.Err
	if err != nil {
		// What the disk had in its cache may be lost. The peer has all of it, but
		// perhaps in a cache, too.
		v.diskFailed(causeFlush, "flush", err)
		v.flushAtPeer(io, fmt.Errorf("%w: flush: %w", ErrIO, err))
		return
	}
	if v.disk < protocol.UpToDate {
		v.flushAtPeer(io, ErrNoUpToDateData)
		return
	}
	v.appPending--
	c.complete(io, nil)
}
