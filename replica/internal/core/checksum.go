// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"math/bits"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Ways to copy less in a resync.
//
// With csums-alg the target sends the digest of what it has, and the source answers
// with data only where its own differs (spec: behaviour 6.3, wire 8.8):
//
//	target reads -- P_CSUM_RS_REQUEST --> source reads, compares
//	             <-- P_RS_IS_IN_SYNC ---  equal: both clear the marks
//	             <-- P_RS_DATA_REPLY ---  different: as in any resync
//
// With rs-discard-granularity the target asks for whole granules by P_RS_THIN_REQ,
// and the source answers P_RS_DEALLOCATED for one that is all zero: holes stay holes.

// csumBytes is the largest range under one checksum: a single block that differs
// costs that much data. A kernel as target uses up to 1 MiB.
const csumBytes = 32 << 10

// csumOfTarget is the command that marks the target's own read for its checksum. It
// is never sent under that number.
const csumOfTarget = protocol.CmdRSIsInSync

// checksums returns what this node, as target, compares with; none to copy everything.
func (pd *peerDevice) checksums() protocol.Digest {
	p, none := pd.p, protocol.Digest{}
	crashed := pd.v.crashedPrimary || pd.uuidFlags&metadata.FlagCrashedPrimary != 0
	switch {
	case !p.session.CanSend(protocol.CmdCsumRSRequest), weakChecksum(p.csumsAlg):
		return none
	case p.c.cfg.Net.CSumsAfterCrashOnly && !crashed:
		return none
	case pd.pulled:
		// The source has pulled ahead on this connection. A "same" from before that
		// may still come, about blocks that it has written since.
		return none
	}
	return p.csumsAlg
}

// sumForRequest reads the own blocks before the source is asked about them. They are
// on the list of what was asked for by now, so that an own writer stays away. Writes
// of the peer may come in between: they reach both disks, whatever the answer is.
func (pd *peerDevice) sumForRequest(sector uint64, size uint32) {
	v := pd.v
	q := v.c.newPeerReq(pd, csumOfTarget, sector, size, protocol.IDSyncer)
	q.digest, q.round = pd.resync.csums, pd.resync.round
	q.iv = interval{from: sector, to: sector + uint64(size)/512, peer: q, run: runPeerRead}
	if v.active.add(&q.iv) {
		queueRead(q)
	}
}

// summed asks the source. What cannot be read is copied.
func (q *peerReq) summed(failed bool) {
	pd := q.pd
	r := &pd.resync
	sector, size := q.sector, q.size
	live := pd.p.alive() && r.running && r.round == q.round && !failed
	again := failed && r.running && r.round == q.round && pd.p.alive()
	if live {
		send(pd.p, protocol.DataStream, protocol.CmdCsumRSRequest, pd.v.cfg.Number,
			protocol.BlockRequest{Sector: sector, ID: protocol.IDSyncer, Size: size, Digest: q.sum})
	}
	q.drop()
	if again {
		pd.requestBlocks(sector, size)
	}
}

// foundInSync is the source's answer that its blocks are equal.
func (pd *peerDevice) foundInSync(sector uint64, size uint32) {
	r := &pd.resync
	if !r.running {
		pd.refuseRead(protocol.CmdCsumRSRequest, sector, protocol.IDSyncer, size)
		return
	}
	r.countSame(sector, size)
	pd.copied(sector, size)
	pd.ack(protocol.CmdRSIsInSync, sector, protocol.IDSyncer, size)
	pd.sourceMayBeDone()
}

// receiveInSync: the source has the same blocks. Marks are cleared only for what was
// asked, as such a word destroys redundancy silently (spec: wire trap 22).
func (pd *peerDevice) receiveInSync(a protocol.BlockAck) error {
	r := &pd.resync
	if !r.running || r.csums.Size() == 0 || !r.expected(a.Sector, a.Size) {
		switch {
		case pd.pulled:
		case !r.running && pd.lateAcks > 0:
			pd.lateAcks-- // of a resync that was cut off: the blocks stay marked
		default:
			return errSequence
		}
		return nil
	}
	r.countSame(a.Sector, a.Size)
	pd.setInSync(a.Sector, a.Size)
	pd.blockDone(a.Sector, a.Size, true)
	return nil
}

func (r *resync) countSame(sector uint64, size uint32) {
	from, to := touched(sector, size)
	r.same += to - from
}

// logSame says what checksums were good for.
func (r *resync) logSame() {
	if r.same > 0 {
		r.pd.v.logf(LogInfo, "%d %% had equal checksums: %d blocks of %d were not copied", 100*r.same/max(r.total, 1), r.same, r.total)
	}
}

// sourceMayBeDone: below version 96 the source notices the end itself, by its last
// mark (spec: wire 8.3 step 10).
func (pd *peerDevice) sourceMayBeDone() {
	if pd.p.session.Version < 96 && pd.conn == protocol.SyncSource && pd.bm.Count() <= pd.resync.failed {
		pd.peerSaysDone()
	}
}

// thinSectors is the granularity of a thin resync; requests do not cross its borders.
// Without one it is as large as a resync extent.
func (pd *peerDevice) thinSectors() uint64 {
	n := uint64(pd.v.cfg.ThinBytes) / 512
	if n == 0 || !pd.p.session.CanSend(protocol.CmdRSThinReq) || pd.resync.csums.Size() > 0 || n*512 > uint64(protocol.MaxDataBytes(pd.p.session.Version)) {
		return resyncExtent
	}
	return n
}

// requestBlocks asks the source for data; for one whole granule, by a thin request.
func (pd *peerDevice) requestBlocks(sector uint64, size uint32) {
	cmd := protocol.CmdRSDataRequest
	if n := pd.thinSectors(); n != resyncExtent && uint64(size) == n*512 && sector%n == 0 {
		cmd = protocol.CmdRSThinReq
	}
	send(pd.p, protocol.DataStream, cmd, pd.v.cfg.Number,
		protocol.BlockRequest{Sector: sector, ID: protocol.IDSyncer, Size: size})
}

// validThin reports whether n is a granularity: 0, or a power of two from a block to
// the largest request.
func validThin(n uint32) bool {
	return n == 0 || bits.OnesCount32(n) == 1 && n >= 4096 && n <= protocol.MaxBlockBytes
}
