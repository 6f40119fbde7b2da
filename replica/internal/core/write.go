// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// startWrite: nothing overlapping is in flight. The next step is the activity log.
func (r *request) startWrite() {
	v := r.v
	if r.al.log != v.al.log {
		r.al.log = nil // of a write that goes out once more, and the disk has been changed
	}
	r.al.req, r.al.ready = r, alReadyWrite
	if v.logs() && !v.alBegin(&r.al, r.sector, r.size) {
		return
	}
	r.issue()
}

// alReadyWrite: the extents are hot. What the peer sent in the meantime goes first.
func alReadyWrite(_ *Core, h *alHold) {
	r := h.req
	if r.v.active.blocked(&r.iv) {
		r.stepBack()
		return
	}
	r.issue()
}

// stepBack puts a write that may not go out now back to those that wait. Its extents
// may be needed by others, unless part of it is on a disk already.
func (r *request) stepBack() {
	if !r.postponed {
		r.v.alEnd(&r.al)
	}
	r.v.active.wait(&r.iv)
}

// issue sends the write to the peer and to the own disk. What the state is now
// decides who gets it; from here on it is in flight.
func (r *request) issue() {
	v, c := r.v, r.v.c
	if v.stopped() {
		// A new generation or a flag has become due since admission, or I/O was
		// suspended. What is frozen then is what was in flight.
		r.stepBack()
		return
	}
	r.issued = true
	if c.suspended() {
		r.err = c.suspErr
		c.maybeComplete(r)
		return
	}
	pd := v.pds[0]
	s := pd.state()
	if mirrors(s) && pd.congested() {
		pd.relieve()
		s = pd.state()
	}
	canLocal := v.hasDisk()
	switch {
	case mirrors(s) && pd.p.phase == phaseUp:
		r.split(r.largest(pd))
		r.send(pd, s)
	case canLocal:
		// Marked at once: a bitmap exchange may begin while the write is on its way.
		changed := pd.setOutOfSync(r.sector, r.size)
		if s.Conn == protocol.Ahead || noticesOnly(s) && changed > 0 {
			// Ahead always: the peer may have cleared a mark that is still set here.
			pd.sendOutOfSync(r.sector, r.size)
		}
	}
	good := s.Disk == protocol.UpToDate && !v.leaving || mirrors(s) && s.PeerDisk == protocol.UpToDate
	if canLocal && good {
		r.writeLocal()
	}
	if r.local == partNone && r.net == partNone {
		r.err = ErrNoUpToDateData
	}
	c.maybeComplete(r)
}

// largest is how much of a request one packet to this peer takes, in bytes. Old
// protocols have small packets (spec: wire 9.3), and zeroes may have to travel as data.
func (r *request) largest(pd *peerDevice) uint32 {
	cmd := protocol.CmdData
	switch r.kind {
	case IODiscard:
		cmd = protocol.CmdTrim
	case IOZero:
		cmd = protocol.CmdZeroes
	}
	s := &pd.p.session
	if cmd == protocol.CmdData || !s.CanSend(cmd) || cmd == protocol.CmdZeroes && pd.p.digest.Size() > 0 {
		return protocol.MaxDataBytes(s.Version)
	}
	return MaxDiscardBytes
}

// split shortens a request to limit and makes requests of their own of the rest. The
// IO completes with the last of them.
func (r *request) split(limit uint32) {
	if r.size <= limit {
		return
	}
	rest := r.size - limit
	n := r.v.c.newRequest()
	n.io, n.v, n.kind, n.fua, n.unmap = r.io, r.v, r.kind, r.fua, r.unmap
	n.sector, n.size = r.sector+uint64(limit)/512, rest
	if r.buf != nil {
		n.buf, r.buf = r.buf[limit:], r.buf[:limit]
	}
	r.size = limit
	r.io.left++
	r.v.appPending++
	if r.kind == IORead {
		n.startRead()
		return
	}
	r.iv.to = n.sector
	n.iv.from, n.iv.to, n.iv.write, n.iv.req, n.iv.run = n.sector, n.sector+uint64(n.size)/512, true, n, runRequest
	r.v.active.follow(&r.iv, &n.iv)
	n.startWrite()
}

// writeLocal asks for the local part.
func (r *request) writeLocal() {
	v, c := r.v, r.v.c
	r.local = partPending
	v.localPending++
	v.written += uint64(r.size) / 512
	o := c.op()
	o.Volume, o.vol, o.Off, o.Len, o.req, o.IO, o.done = v.idx, v, int64(r.sector)*512, int64(r.size), r, r.io, localWriteDone
	switch r.kind {
	case IOWrite:
		o.Kind, o.Buf, o.FUA = OpWrite, r.buf, r.fua
	case IODiscard:
		v.discard(o)
	default:
		o.Kind, o.MayUnmap = OpZero, r.unmap
	}
	c.issue(o)
}

func localWriteDone(c *Core, o *Op) {
	r := o.req
	v := o.vol
	if v.zeroInstead(o) {
		return
	}
	v.localPending--
	if o.Err == nil && v.disk > protocol.Failed {
		r.local = partOK
		r.bothWritten()
	} else {
		r.localFailed(o.Err) // or written to a disk that has been given up meanwhile
		if o.Err != nil {
			v.diskFailed(causeWrite, "write", o.Err)
		}
	}
	c.maybeComplete(r)
	v.active.wake() // reads for the peer wait for the own disk only
}

// localFailed: the own disk does not have the write, or has gone with it.
func (r *request) localFailed(err error) {
	pd := r.v.pds[0]
	r.local, r.err = partFailed, err
	// Protocol A and B count what was only sent, or only received. Now the
	// peer's copy is the only one.
	r.stable = r.stable || r.net != partNone && !r.wantAck
	if r.net == partOK && (pd.conn < protocol.Connected || pd.p.phase != phaseUp) {
		// The peer, which has it, went before it could be told that its copy is the
		// only one; this disk may have begun a generation since.
		r.net = partFailed
		if r.err == nil {
			r.err = ErrConnectionLost
		}
	}
	pd.setOutOfSync(r.sector, r.size)
}

// disownWrites: the disk has failed, perhaps with what it had written. What has not been
// acknowledged yet counts on the peer alone.
func (v *volume) disownWrites() {
	for _, r := range v.c.requests.live() {
		if r.v == v && r.kind != IORead && r.io != nil && r.local == partOK {
			r.localFailed(r.err)
		}
	}
}

// send makes the write part of the current epoch and queues its packet.
func (r *request) send(pd *peerDevice, s protocol.State) {
	p, c := pd.p, pd.p.c
	cmd, flags := r.packet(pd)
	if inSyncRange(s.Conn) {
		flags |= protocol.DPMaySetInSync
		r.mayClear = true
	}
	wire := p.protocol
	if r.v.disk != protocol.UpToDate && p.session.Version >= 100 {
		// The peer's is the only copy, or the one that a resync will copy from: A
		// and B of DRBD complete such a write before it is on any disk.
		wire = protocol.ProtocolC
	}
	// If all copies may be lost for a while, and writes are to be sent again then,
	// those that have completed must not be missing (spec: behaviour 5.10).
	r.stable = c.cfg.NoData == NoDataSuspendIO && r.v.disk != protocol.UpToDate
	r.wantRecv = wire == protocol.ProtocolB
	r.wantAck = wire == protocol.ProtocolC
	ackFlags := protocol.DataFlags(0)
	if r.wantRecv {
		ackFlags |= protocol.DPSendReceiveAck
	}
	if r.wantAck || r.mayClear {
		ackFlags |= protocol.DPSendWriteAck
	}
	flags |= ackFlags
	r.pd, r.net, r.since = pd, partPending, c.now
	r.peerGood = s.PeerDisk == protocol.UpToDate
	r.mayRetry = c.cfg.Net.AllowTwoPrimary && !p.resolver
	if !r.wantRecv && !r.wantAck {
		r.net = partOK // protocol A: sent is enough; the pin on the buffer says when
	}
	p.tx.add(p, r)
	pd.inFlight++
	pd.flight += uint64(r.size) / 512
	r.flying = true
	pd.sent += uint64(r.size) / 512
	d := protocol.Data{Sector: r.sector, ID: r.id, Seq: pd.nextSeq(), Flags: flags.Usable(p.session.Version), Size: r.size}
	if cmd == protocol.CmdData {
		p.sendData(cmd, r.v.cfg.Number, d, r.buf, r, nil)
		return
	}
	send(p, protocol.DataStream, cmd, r.v.cfg.Number, d)
}

// packet chooses how a request travels. Where the peer cannot take a discard or
// write-zeroes packet, or would break the connection over it (spec: wire 4.8), the
// zeroes travel as data.
func (r *request) packet(pd *peerDevice) (protocol.Command, protocol.DataFlags) {
	s := &pd.p.session
	var flags protocol.DataFlags
	if r.fua {
		flags |= protocol.DPFUA
	}
	switch r.kind {
	case IODiscard:
		if s.CanSend(protocol.CmdTrim) {
			return protocol.CmdTrim, flags | protocol.DPDiscard
		}
	case IOZero:
		if s.CanSend(protocol.CmdZeroes) && pd.p.digest.Size() == 0 {
			flags |= protocol.DPZeroes
			if r.unmap {
				flags |= protocol.DPDiscard
			}
			return protocol.CmdZeroes, flags
		}
	default:
		return protocol.CmdData, flags
	}
	r.buf = make([]byte, r.size) // rare: an old peer, or a digest
	return protocol.CmdData, flags
}

func (pd *peerDevice) sendOutOfSync(sector uint64, size uint32) {
	if pd.p.session.CanSend(protocol.CmdOutOfSync) {
		send(pd.p, protocol.DataStream, protocol.CmdOutOfSync, pd.v.cfg.Number,
			protocol.BlockDescription{Sector: sector, Size: size})
	}
}

// maybeComplete completes a request to the application if both parts allow it
// (spec: behaviour 5.2), and forgets it if nothing refers to it any more.
func (c *Core) maybeComplete(r *request) {
	if r.v == nil || r.local == partPending || r.net == partPending {
		return
	}
	if r.lost {
		r.postpone()
		return
	}
	if r.io != nil && r.kind != IORead && !r.issued {
		return // it lost a conflict and waits for its turn
	}
	if r.io != nil {
		if r.pins > 0 {
			return // the buffer is still being sent
		}
		if r.v.gates > 0 && r.kind != IORead || c.suspended() && c.suspErr == nil {
			r.frozen = true
			return
		}
		if r.stable && r.epoch != nil && r.net == partOK {
			if r.pd.p.tx.current == r.epoch {
				r.pd.p.closeEpoch()
			}
			return
		}
		if r.v.untold && r.onlyThere() {
			return
		}
		if c.suspended() {
			r.io.Err = c.suspErr
		} else if r.again() {
			if r.frozen = r.v.blocks(r.kind); !r.frozen {
				r.restart()
			}
			return
		}
		c.completeRequest(r)
	}
	if r.epoch == nil && r.pins == 0 {
		r.forget()
	}
}

// completeRequest answers the application.
func (c *Core) completeRequest(r *request) {
	io := r.io
	r.io = nil
	if !r.succeeded() && io.Err == nil {
		io.Err = r.failure()
	}
	r.v.appPending--
	r.frozen = false
	switch {
	case r.kind == IORead || !r.succeeded():
	case r.local == partOK && r.net != partOK:
		r.v.wroteAlone()
	case r.local != partOK && r.net == partOK:
		r.v.missed = r.v.exposed
	}
	r.v.active.remove(&r.iv)
	if r.epoch != nil && r.pd.p.tx.current == r.epoch {
		r.pd.p.closeEpoch() // what comes now may depend on this write
	}
	if io.left--; io.left == 0 {
		c.complete(io, io.Err)
	}
}

func (r *request) failure() error {
	switch {
	case r.err == nil:
		return ErrNoUpToDateData
	case r.local == partFailed || r.net == partFailed:
		return fmt.Errorf("%w: %w", ErrIO, r.err)
	}
	return r.err
}

// forget releases what a finished request held.
func (r *request) forget() {
	v := r.v
	v.alEnd(&r.al)
	v.c.freeRequest(r)
}

// completeFrozen completes what a gate or suspended I/O held back.
func (v *volume) completeFrozen() {
	c := v.c
	if v.gates > 0 || c.suspended() && c.suspErr == nil || v.appPending == 0 {
		return
	}
	for _, r := range c.requests.live() {
		if r.v == v && r.frozen {
			c.maybeComplete(r)
		}
	}
}
