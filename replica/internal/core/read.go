// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Reads are served by the own disk if it is UpToDate, or Inconsistent and the
// blocks are in sync; else by the peer, if its disk is UpToDate (spec: behaviour 5.7).

func (r *request) startRead() {
	local, remote := r.localCan(), r.remoteCan()
	switch {
	case local && !(remote && r.goesToPeer()):
		r.readLocal()
	case remote:
		if !r.iv.linked && r.behindOwnWrite() {
			return
		}
		r.readRemote(r.v.pds[0])
	default:
		r.v.c.maybeComplete(r)
	}
}

// behindOwnWrite has a read for the peer wait for the own writes to its blocks, if there
// are some. What the peer has already the own disk may not have yet, and a later, smaller
// read, served here, would see less than this one.
func (r *request) behindOwnWrite() bool {
	v := r.v
	from, to := r.sector, r.sector+uint64(r.size)/512
	if !v.hasDisk() || !v.unstable(from, to) {
		return false
	}
	r.iv.from, r.iv.to, r.iv.req, r.iv.run = from, to, r, runRequest
	return !v.active.add(&r.iv)
}

// localCan reports whether the own disk has what the request wants. Until the peer's
// bitmap is here nobody knows what an Inconsistent one lacks: a read that was admitted
// before may find it so, if the disk was attached while it waited for its turn.
func (r *request) localCan() bool {
	v, pd := r.v, r.v.pds[0]
	return r.local != partFailed && (v.disk == protocol.UpToDate ||
		v.disk == protocol.Inconsistent && pd.disk == protocol.UpToDate && pd.conn != protocol.WFBitMapT && !pd.outOfSync(r.sector, r.size))
}

// remoteCan reports whether the peer's disk has it.
func (r *request) remoteCan() bool {
	pd := r.v.pds[0]
	return r.net != partFailed && pd.disk == protocol.UpToDate && pd.conn >= protocol.Connected && pd.p.phase == phaseUp
}

func (r *request) readLocal() {
	v, c := r.v, r.v.c
	r.local = partPending
	v.localPending++
	v.read += uint64(r.size) / 512
	o := c.op()
	o.Kind, o.Volume, o.vol, o.Off, o.Len, o.Buf = OpRead, v.idx, v, int64(r.sector)*512, int64(r.size), r.buf
	o.req, o.IO, o.done = r, r.io, localReadDone
	c.issue(o)
}

func localReadDone(c *Core, o *Op) {
	r, v := o.req, o.vol
	v.localPending--
	if o.Err == nil {
		r.local = partOK
		c.maybeComplete(r)
		return
	}
	// The block is marked, and thereby repaired by the next resync.
	r.local, r.err = partFailed, o.Err
	v.pds[0].setOutOfSync(r.sector, r.size)
	v.diskFailed(causeRead, "read", o.Err)
	r.startRead()
}

// readRemote asks the peer. Own writes of this or an earlier epoch come first: the
// barrier in front of the request sees to that.
func (r *request) readRemote(pd *peerDevice) {
	r.split(protocol.MaxDataBytes(pd.p.session.Version))
	pd.p.closeEpoch()
	r.pd, r.remote, r.net, r.since = pd, true, partPending, pd.v.c.now
	pd.pending++
	send(pd.p, protocol.DataStream, protocol.CmdDataRequest, r.v.cfg.Number,
		protocol.BlockRequest{Sector: r.sector, ID: r.id, Size: r.size})
	r.v.active.remove(&r.iv) // it takes its turn over there; here nothing of the peer's may wait for the peer
}

// remoteReadFailed: the peer could not, or is gone; perhaps the own disk can by now.
func (r *request) remoteReadFailed(err error) {
	r.net = partFailed
	if r.err == nil {
		r.err = err
	}
	r.startRead()
}

// receiveReply is data that was asked for: by an application, or by the resync.
func (pd *peerDevice) receiveReply(h protocol.Header, body []byte, payload *Buffer) error {
	var d protocol.Data
	if err := d.DecodeAs(h.Command, body, &pd.p.session); err != nil {
		payload.Release()
		return err
	}
	if err := pd.p.checkDigest(h, body, payload); err != nil {
		payload.Release()
		return err
	}
	if h.Command == protocol.CmdRSDataReply {
		return pd.receiveResyncData(d, payload)
	}
	defer payload.Release()
	r := pd.v.c.requests.find(d.ID)
	if r == nil || !r.remote || r.net != partPending || r.sector != d.Sector || payload == nil || len(payload.Data) != int(r.size) {
		return fmt.Errorf("%w: it answers no request (id %x, sector %d)", protocol.ErrField, uint64(d.ID), d.Sector)
	}
	copy(r.buf, payload.Data)
	pd.pending--
	pd.received += uint64(r.size) / 512
	r.net = partOK
	pd.v.c.maybeComplete(r)
	return nil
}

// checkDigest verifies the data-integrity digest of a packet, if the peer sends them.
func (p *peer) checkDigest(h protocol.Header, body []byte, payload *Buffer) error {
	if payload == nil || p.peerAlg.Size() == 0 {
		return nil
	}
	return p.peerAlg.Verify(payload.Data, p.session.DigestIn(h, body))
}
