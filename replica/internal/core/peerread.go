// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// receiveRequest is a read on behalf of the peer: of an application there, or of the
// resync (spec: wire 4.7).
func (pd *peerDevice) receiveRequest(cmd protocol.Command, b protocol.BlockRequest) error {
	v := pd.v
	if err := v.inside(b.Sector, uint64(b.Size)); err != nil {
		return err
	}
	if cmd == protocol.CmdCsumRSRequest && (len(b.Digest) != pd.p.csumsAlg.Size() || len(b.Digest) == 0) {
		return fmt.Errorf("%w: a digest of %d bytes, csums-alg is %q here", protocol.ErrField, len(b.Digest), pd.p.csumsAlg.Name())
	}
	if v.disk != protocol.UpToDate || pd.cancels(cmd) {
		pd.refuseRead(cmd, b.Sector, b.ID, b.Size)
		return nil
	}
	q := v.c.newPeerReq(pd, cmd, b.Sector, b.Size, b.ID)
	q.round = pd.resync.round
	if cmd == protocol.CmdCsumRSRequest {
		q.digest, q.want = pd.p.csumsAlg, append([]byte(nil), b.Digest...)
	}
	pd.unacked++
	if !pd.delayed(q) {
		pd.p.rx.startRead(q)
	}
	return nil
}

// reads reports whether the peer wants data.
func (q *peerReq) reads() bool {
	return q.cmd == protocol.CmdDataRequest || q.cmd == protocol.CmdRSDataRequest || q.cmd == protocol.CmdRSThinReq
}

// admitRead gives a read its place among the data writes of the volume.
func (q *peerReq) admitRead() {
	v := q.pd.v
	q.iv.from, q.iv.to, q.iv.peer, q.iv.run = q.sector, q.sector+uint64(q.size)/512, q, runPeerRead
	if v.active.add(&q.iv) {
		runPeerRead(v.c, &q.iv)
	}
}

func (pd *peerDevice) refuseRead(cmd protocol.Command, sector uint64, id protocol.BlockID, size uint32) {
	neg := protocol.CmdNegRSDReply
	switch {
	case cmd == protocol.CmdDataRequest:
		neg = protocol.CmdNegDReply
	case pd.cancels(cmd):
		neg = protocol.CmdRSCancel
	}
	pd.ack(neg, sector, id, size)
}

// runPeerRead: no write to the blocks is in flight. The next thing needed is memory.
func runPeerRead(_ *Core, i *interval) { queueRead(i.peer) }

// queueRead reads as soon as there is memory for it, in order.
func queueRead(q *peerReq) {
	p := q.pd.p
	if len(p.readQueue) > 0 || !q.read() {
		p.readQueue = append(p.readQueue, q)
	}
}

// read asks the disk; it reports false if there is no buffer.
func (q *peerReq) read() bool {
	v, c := q.pd.v, q.pd.v.c
	if !q.pd.p.alive() || v.disk != protocol.UpToDate && (q.cmd != csumOfTarget || !v.hasDisk()) {
		q.readDone(true)
		return true
	}
	if c.cfg.Buffers == nil {
		q.buf = &Buffer{Data: make([]byte, q.size)}
	} else if q.buf = c.cfg.Buffers.Get(int(q.size)); q.buf == nil {
		return false
	}
	v.localPending++
	v.read += uint64(q.size) / 512
	if q.cmd != protocol.CmdDataRequest {
		v.resyncIO += uint64(q.size) / 512
	}
	o := c.op()
	o.Kind, o.Volume, o.vol, o.Off, o.Len, o.Buf = OpRead, v.idx, v, int64(q.sector)*512, int64(q.size), q.buf.Data
	o.peer, o.done = q, peerReadDone
	o.Digest, o.ZeroCheck = q.digest, q.cmd == protocol.CmdRSThinReq
	c.issue(o)
	return true
}

// retryPeerReads goes on with reads that waited for memory.
func (c *Core) retryPeerReads(p *peer) {
	for len(p.readQueue) > 0 {
		q := p.readQueue[0] // off the queue first: one that fails may let others go on
		p.readQueue = p.readQueue[:copy(p.readQueue, p.readQueue[1:])]
		if !q.read() {
			p.readQueue = slices.Insert(p.readQueue, 0, q)
			return
		}
	}
}

// abandonReads drops the reads that wait for memory.
func (p *peer) abandonReads() {
	queue := p.readQueue
	p.readQueue = nil
	for _, q := range queue {
		q.readDone(true)
	}
}

func peerReadDone(c *Core, o *Op) {
	q, v, p := o.peer, o.vol, o.peer.pd.p
	v.localPending--
	if o.Err != nil {
		v.logf(LogError, "read for the peer at sector %d: %v", q.sector, o.Err)
		q.pd.setOutOfSync(q.sector, q.size)
		v.diskFailed(causeRead, "read for the peer", o.Err)
	}
	q.sum, q.zero = o.sum, o.allZero
	q.readDone(o.Err != nil)
	c.retryPeerReads(p) // its memory may be free by now, without anything that is sent
}

// late reports whether the resync that wants this was given up: nobody waits for it.
func (q *peerReq) late() bool {
	pd := q.pd
	return isResyncRequest(q.cmd) && !pd.cancels(q.cmd) && (!pd.resync.running || q.round != pd.resync.round)
}

// readDone sends the data. The blocks are given free only then: a write that comes
// now goes out after it.
func (q *peerReq) readDone(failed bool) {
	pd, v := q.pd, q.pd.v
	switch q.cmd {
	case protocol.CmdOVReply:
		q.compared(failed)
		return
	case protocol.CmdOVRequest:
		q.verifyRead(failed)
		return
	case csumOfTarget:
		q.summed(failed)
		return
	}
	pd.unacked--
	buf := q.buf
	q.buf = nil
	switch {
	case !pd.p.alive():
		buf.Release()
	case q.late():
		buf.Release()
	case failed || pd.cancels(q.cmd):
		buf.Release()
		pd.refuseRead(q.cmd, q.sector, q.id, q.size)
	case q.cmd == protocol.CmdCsumRSRequest && bytes.Equal(q.sum, q.want):
		buf.Release()
		pd.foundInSync(q.sector, q.size)
	case q.cmd == protocol.CmdRSThinReq && q.zero:
		buf.Release()
		pd.rsPending++
		send(pd.p, protocol.DataStream, protocol.CmdRSDeallocated, v.cfg.Number,
			protocol.BlockDescription{Sector: q.sector, Size: q.size})
	default:
		pd.sent += uint64(q.size) / 512
		cmd := protocol.CmdRSDataReply
		if q.cmd == protocol.CmdDataRequest {
			cmd = protocol.CmdDataReply
		} else {
			pd.rsPending++ // the target's P_RS_WRITE_ACK is due
		}
		pd.p.sendData(cmd, v.cfg.Number, protocol.Data{Sector: q.sector, ID: q.id}, buf.Data, nil, buf)
	}
	v.active.remove(&q.iv)
	q.release()
}
