// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// peerReq is something that this node does on behalf of its peer: a mirrored write,
// a block of a resync, a read.
type peerReq struct {
	pd       *peerDevice
	cmd      protocol.Command
	sector   uint64
	size     uint32
	id       protocol.BlockID
	flags    protocol.DataFlags
	buf      *Buffer
	epoch    *rxEpoch
	seq      uint32        // spec: wire 3.2
	acks     uint32        // how many acks the peer had sent before it
	since    time.Duration // it waits for them; 0 if it does not
	iv       interval
	al       alHold
	failed   bool
	onlyCopy bool // the peer has no disk for it
	gone     bool // nobody wants the result any more

	digest protocol.Digest // what to sum a read with
	sum    []byte          // of the data read; valid until the disk operation is returned
	round  uint64          // number of the resync that it belongs to
	zero   bool            // the data read is all zero
	want   []byte          // the peer's digest of the same blocks
	next   *peerReq
}

func (c *Core) newPeerReq(pd *peerDevice, cmd protocol.Command, sector uint64, size uint32, id protocol.BlockID) *peerReq {
	q := c.freePeer
	if q == nil {
		q = &peerReq{}
	} else {
		c.freePeer = q.next
		*q = peerReq{}
	}
	q.pd, q.cmd, q.sector, q.size, q.id = pd, cmd, sector, size, id
	pd.p.peerReqs++
	return q
}

// resyncs reports whether it brings a block that this node, as sync target, asked for.
func (q *peerReq) resyncs() bool {
	return q.cmd == protocol.CmdRSDataReply || q.cmd == protocol.CmdRSDeallocated
}

// release ends a request of the peer.
func (q *peerReq) release() {
	p, c := q.pd.p, q.pd.v.c
	q.buf.Release()
	q.pd.v.alEnd(&q.al)
	if v := q.pd.v; q.onlyCopy {
		if v.onlyCopies--; v.onlyCopies == 0 {
			v.updateFlags()
		}
	}
	*q = peerReq{next: c.freePeer}
	c.freePeer = q
	p.peerReqs--
	if p.closedWait {
		p.cleanup()
	}
}

// receiveWrite is a mirrored write (spec: wire 8.5).
func (pd *peerDevice) receiveWrite(h protocol.Header, body []byte, payload *Buffer) error {
	v, p := pd.v, pd.p
	var d protocol.Data
	err := d.DecodeAs(h.Command, body, &p.session)
	if err == nil {
		err = p.checkDigest(h, body, payload)
	}
	size := d.Size
	if h.Command == protocol.CmdData {
		size = 0
		if payload != nil {
			size = uint32(len(payload.Data))
		}
	}
	if err == nil {
		err = v.inside(d.Sector, uint64(size))
	}
	if err == nil && h.Command == protocol.CmdWSame {
		payload, err = repeat(payload, size)
	}
	if err != nil {
		payload.Release()
		return err
	}
	q := v.c.newPeerReq(pd, h.Command, d.Sector, size, d.ID)
	q.flags, q.buf, q.round = d.Flags, payload, pd.resync.round
	if !inSyncRange(pd.conn) {
		q.flags &^= protocol.DPMaySetInSync // of a resync that is over: what is marked for the next one stays so
	}
	q.seq, q.acks = d.Seq, d.Seq-1-pd.writesSeen
	pd.writesSeen++
	if pd.disk < protocol.Inconsistent {
		// Marked at once: before the write's turn comes the peer may attach its disk,
		// and compare bitmaps.
		if q.onlyCopy = !pd.departing; q.onlyCopy {
			v.onlyCopies++
		}
		pd.setOutOfSync(q.sector, q.size)
	}
	pd.unacked++
	pd.received += uint64(size) / 512
	q.epoch = p.rx.join(v)
	if p.wants(d.Flags, protocol.DPSendReceiveAck, protocol.ProtocolB) {
		pd.ack(protocol.CmdRecvAck, d.Sector, d.ID, size)
	}
	p.rx.start(p, q)
	return nil
}

// wants reports whether a kind of ack is due: by flags from version 100 on, before
// that by the protocol.
func (p *peer) wants(f, flag protocol.DataFlags, old protocol.ReplicationProtocol) bool {
	if p.session.Version >= 100 {
		return f.Has(flag)
	}
	return p.protocol == old
}

// repeat makes the data of a P_WSAME: one block over the whole range.
func repeat(block *Buffer, size uint32) (*Buffer, error) {
	if block == nil || len(block.Data) == 0 || size%uint32(len(block.Data)) != 0 || size > protocol.MaxBlockBytes {
		return block, fmt.Errorf("%w: P_WSAME of %d bytes", protocol.ErrField, size)
	}
	out := &Buffer{Data: make([]byte, 0, size)}
	for uint32(len(out.Data)) < size {
		out.Data = append(out.Data, block.Data...)
	}
	block.Release()
	return out, nil
}

// admitWrite: the epochs before it are stable. Now the blocks must be free.
func (q *peerReq) admitWrite() {
	if !q.pd.v.hasDisk() || q.size == 0 {
		q.failed = q.size != 0
		q.writeDone()
		return
	}
	q.iv.from, q.iv.to, q.iv.write, q.iv.peer = q.sector, q.sector+uint64(q.size)/512, true, q
	q.iv.run = runPeerWrite
	if q.losesConflict() {
		return
	}
	if q.pd.v.active.add(&q.iv) {
		runPeerWrite(q.pd.v.c, &q.iv)
	}
}

// runPeerWrite: the blocks are free. A node that holds the only copy of what a
// diskless Primary writes keeps an activity log and a bitmap for it (spec: behaviour 5.5).
func runPeerWrite(_ *Core, i *interval) {
	q := i.peer
	v := q.pd.v
	if q.onlyCopy && v.al.log != nil {
		q.pd.setOutOfSync(q.sector, q.size)
		q.al.peer, q.al.ready = q, alReadyPeer
		if v.logs() && !v.alBegin(&q.al, q.sector, q.size) {
			return
		}
	}
	q.write()
}

func alReadyPeer(_ *Core, h *alHold) { h.peer.write() }

// write asks the disk.
func (q *peerReq) write() {
	v, c := q.pd.v, q.pd.v.c
	if !v.hasDisk() {
		q.failed = true
		q.writeDone()
		return
	}
	v.localPending++
	v.written += uint64(q.size) / 512
	o := c.op()
	o.Volume, o.vol, o.Off, o.Len, o.peer, o.done = v.idx, v, int64(q.sector)*512, int64(q.size), q, peerWriteDone
	o.FUA, o.PreFlush = q.flags.Has(protocol.DPFUA), q.flags.Has(protocol.DPFlush)
	switch q.cmd {
	case protocol.CmdTrim:
		// From a peer without P_ZEROES it may mean "zero".
		o.Kind, o.MayUnmap = OpZero, true
		if q.pd.p.session.Features.Has(protocol.FeatureWZeroes) {
			v.discard(o)
		}
	case protocol.CmdZeroes:
		o.Kind, o.MayUnmap = OpZero, q.flags.Has(protocol.DPDiscard)
	case protocol.CmdRSDeallocated:
		v.resyncIO += uint64(q.size) / 512
		o.Kind, o.MayUnmap = OpZero, true
	case protocol.CmdRSDataReply:
		v.resyncIO += uint64(q.size) / 512
		o.Kind, o.Buf = OpWrite, q.buf.Data
	default:
		o.Kind, o.Buf = OpWrite, q.buf.Data
	}
	c.issue(o)
}

func peerWriteDone(_ *Core, o *Op) {
	q, v := o.peer, o.vol
	if v.zeroInstead(o) {
		return
	}
	v.localPending--
	if o.Err != nil {
		q.failed = true
		v.diskFailed(causeWrite, "write for the peer", o.Err)
		if q.pd.resync.running && targets(q.pd.conn) && !q.resyncs() && v.metaUsable() {
			q.markDurably()
			return
		}
	}
	q.writeDone()
}

// markDurably: the disk, which stays, could not do a mirrored write. The resync copies its
// blocks, and the source clears its mark when they are written, perhaps to a cache. So
// the mark here, which is younger than those of beginTarget, is on the disk before they are.
func (q *peerReq) markDurably() {
	v := q.pd.v
	q.pd.setOutOfSync(q.sector, q.size)
	v.writeBitmap(nil, func(error) {
		v.syncSuper(func(error) { q.writeDone() })
	})
}

// writeDone answers the peer, and gives the blocks free. In this order: an own write
// to them that has waited gets a higher number than the ack, and so the resolver
// knows that it comes later.
func (q *peerReq) writeDone() {
	pd, v := q.pd, q.pd.v
	if q.resyncs() {
		q.resyncWriteDone()
		return
	}
	pd.unacked--
	if q.epoch != nil && !q.failed && q.size > 0 {
		q.epoch.good = withVolume(q.epoch.good, v)
	}
	live := pd.p.alive() && q.epoch != nil
	switch {
	case q.failed:
		pd.setOutOfSync(q.sector, q.size)
		if live {
			pd.ack(protocol.CmdNegAck, q.sector, q.id, q.size)
		}
	case !live:
	case q.flags.Has(protocol.DPMaySetInSync) && inSyncRange(pd.conn) && q.round == pd.resync.round &&
		!pd.resync.requested(q.sector, q.sector+uint64(q.size)/512):
		// Blocks that are about to come in the resync, too, stay marked until then: they
		// are written once more, and the power may fail while they are.
		pd.setInSync(q.sector, q.size)
		if q.wantsWriteAck() {
			pd.ack(protocol.CmdRSWriteAck, q.sector, q.id, q.size)
		}
	case q.wantsWriteAck():
		pd.ack(protocol.CmdWriteAck, q.sector, q.id, q.size)
	}
	e, p := q.epoch, pd.p
	v.active.remove(&q.iv)
	q.release()
	if e != nil {
		e.pending--
		p.rx.advance(p)
	}
}

func (q *peerReq) wantsWriteAck() bool {
	return q.pd.p.wants(q.flags, protocol.DPSendWriteAck, protocol.ProtocolC)
}

// receiveResyncData is a block that this node, as sync target, has asked for. It is
// written in its place among the mirrored writes of the stream.
func (pd *peerDevice) receiveResyncData(d protocol.Data, payload *Buffer) error {
	if !pd.resync.running {
		payload.Release() // the resync was cut off, as by a detach; the blocks stay marked
		return nil
	}
	if payload == nil {
		return fmt.Errorf("%w: no data", protocol.ErrLength)
	}
	if size := uint32(len(payload.Data)); !pd.resync.expected(d.Sector, size) {
		if !pd.pulled {
			payload.Release()
			return fmt.Errorf("%w: resync data for sector %d was not asked for", protocol.ErrField, d.Sector)
		}
		// An answer to a request from before the source had pulled ahead. Its data
		// is as good as any other if a resync runs.
		if !pd.resync.running {
			payload.Release()
			pd.ack(protocol.CmdNegAck, d.Sector, protocol.IDSyncer, size)
			return nil
		}
		if err := pd.v.inside(d.Sector, uint64(size)); err != nil {
			payload.Release()
			return err
		}
	}
	q := pd.v.c.newPeerReq(pd, protocol.CmdRSDataReply, d.Sector, uint32(len(payload.Data)), protocol.IDSyncer)
	q.buf = payload
	pd.received += uint64(q.size) / 512
	q.admitWrite()
	return nil
}

// receiveDeallocated is the answer "all zero" to P_RS_THIN_REQ.
func (pd *peerDevice) receiveDeallocated(b protocol.BlockDescription) error {
	if !pd.resync.running {
		return nil
	}
	if !pd.resync.expected(b.Sector, b.Size) {
		return fmt.Errorf("%w: sector %d was not asked for", protocol.ErrField, b.Sector)
	}
	pd.v.c.newPeerReq(pd, protocol.CmdRSDeallocated, b.Sector, b.Size, protocol.IDSyncer).admitWrite()
	return nil
}

// resyncWriteDone: a block of the resync is on the disk, or is not.
func (q *peerReq) resyncWriteDone() {
	pd := q.pd
	sector, size, failed := q.sector, q.size, q.failed
	pd.v.active.remove(&q.iv)
	q.release()
	if !pd.resync.running {
		if pd.pulled && pd.p.alive() {
			// The source has pulled ahead, and waits for the answers; the blocks stay marked.
			pd.ack(protocol.CmdNegAck, sector, protocol.IDSyncer, size)
		}
		return // the resync was cut off; the blocks stay marked and are fetched again
	}
	if failed {
		pd.ack(protocol.CmdNegAck, sector, protocol.IDSyncer, size)
	} else {
		pd.setInSync(sector, size)
		pd.ack(protocol.CmdRSWriteAck, sector, protocol.IDSyncer, size)
	}
	pd.blockDone(sector, size, !failed)
}
