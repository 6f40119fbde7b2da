// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// receiveAck is the peer's answer to one of our block requests (spec: wire 5.2).
func (pd *peerDevice) receiveAck(cmd protocol.Command, a protocol.BlockAck) error {
	if err := pd.v.inside(a.Sector, uint64(a.Size)); err != nil {
		return err
	}
	pd.acksSeen, pd.ackSeq = pd.acksSeen+1, a.Seq
	if pd.p.rx.held != nil {
		defer pd.p.releaseHeld()
	}
	switch {
	case cmd == protocol.CmdOVResult:
		return pd.receiveVerifyResult(a)
	case cmd == protocol.CmdRSIsInSync:
		return pd.receiveInSync(a) // whose ID the kernel leaves to chance
	case a.ID == protocol.IDSyncer:
		return pd.receiveSyncAck(cmd, a)
	}
	r := pd.v.c.requests.find(a.ID)
	if r == nil || r.v != pd.v || r.sector != a.Sector || r.net == partNone {
		if cmd == protocol.CmdNegAck {
			pd.peerLacks(a.Sector, a.Size)
			return nil
		}
		return fmt.Errorf("%w: it answers no request (id %x, sector %d)", protocol.ErrField, uint64(a.ID), a.Sector)
	}
	switch cmd {
	case protocol.CmdRecvAck:
		if r.wantRecv {
			r.answered(partOK)
		}
	case protocol.CmdWriteAck:
		r.answered(partOK)
	case protocol.CmdRSWriteAck:
		r.cleared = r.mayClear && r.epoch != nil
		r.bothWritten()
		r.answered(partOK)
	case protocol.CmdNegAck:
		pd.peerLacks(r.sector, r.size)
		if r.err == nil {
			r.err = fmt.Errorf("the peer could not write sector %d", r.sector)
		}
		r.answered(partFailed)
	case protocol.CmdNegDReply:
		if !r.remote {
			return errSequence
		}
		pd.pending--
		r.remoteReadFailed(fmt.Errorf("the peer could not read sector %d", r.sector))
	case protocol.CmdSuperseded, protocol.CmdRetryWrite:
		return r.conflictDecided(cmd)
	default:
		return errSequence
	}
	if e := pd.p.tx.first; e != nil && e.withdrawn > 0 {
		pd.p.coverConflicts()
	}
	return nil
}

// peerLacks: the peer could not do a write. Its disk, should it stay by on-io-error
// pass_on, is not good from here on, whatever it says: were the own one to fail now, it
// would be the source of the next resync.
func (pd *peerDevice) peerLacks(sector uint64, size uint32) {
	pd.setOutOfSync(sector, size)
	if pd.conn == protocol.Connected && pd.disk == protocol.UpToDate && pd.v.disk == protocol.UpToDate {
		pd.v.c.change(pd, fact, func(s *protocol.State) { s.PeerDisk = protocol.Inconsistent })
	}
}

// answered ends the peer's part of a write. A later, contradicting answer (protocol
// A and B may still be told of a failed write) has no effect but its marks.
func (r *request) answered(s partState) {
	r.landed()
	if r.net != partPending {
		return
	}
	r.net = s
	r.v.c.maybeComplete(r)
}

// landed: the peer has answered, or never will.
func (r *request) landed() {
	if r.flying {
		r.flying = false
		r.pd.inFlight--
		r.pd.flew(uint64(r.size) / 512)
	}
}

// bothWritten clears the blocks of a write that both nodes have, if it was sent
// while a resync ran (spec: behaviour 5.4).
func (r *request) bothWritten() {
	if r.cleared && r.local == partOK {
		r.cleared = false
		if r.pd.conn == protocol.Ahead {
			r.pd.keepMarks(r.sector, r.size)
			return
		}
		r.pd.setInSync(r.sector, r.size)
	}
}

// keepAllMarks: from now on writes are marked, and do not reach the peer. What it says
// about those before them clears no mark: it may be that of a later one.
func (pd *peerDevice) keepAllMarks() {
	for _, r := range pd.v.c.requests.live() {
		if r.pd == pd {
			r.mayClear, r.cleared = false, false
		}
	}
}

// copied clears the marks of blocks that the target has got from here, but for those of a
// write that failed here, by on-io-error pass-on, and that the target has yet to do.
func (pd *peerDevice) copied(sector uint64, size uint32) {
	pd.setInSync(sector, size)
	if pd.v.cfg.DetachOnIO != IOPassOn {
		return
	}
	for _, r := range pd.v.c.requests.live() {
		if r.pd == pd && r.local == partFailed && r.flying && r.writes(sector, sector+uint64(size)/512) {
			pd.setOutOfSync(r.sector, r.size)
		}
	}
}

// receiveSyncAck answers resync traffic.
func (pd *peerDevice) receiveSyncAck(cmd protocol.Command, a protocol.BlockAck) error {
	r := &pd.resync
	from, to := touched(a.Sector, a.Size)
	switch cmd {
	case protocol.CmdRecvAck, protocol.CmdWriteAck, protocol.CmdRSWriteAck:
		if pd.conn == protocol.Ahead {
			pd.rsPending = max(pd.rsPending-1, 0)
			pd.keepMarks(a.Sector, a.Size)
			return nil
		}
		if !r.running {
			if pd.lateAcks > 0 {
				pd.lateAcks-- // of a resync that was cut off: the blocks stay marked
				return nil
			}
			// Nobody asked for it. Clearing bits on such a word would destroy
			// redundancy silently; the kernel does (spec: wire trap 22).
			return errSequence
		}
		pd.copied(a.Sector, a.Size)
		pd.rsPending = max(pd.rsPending-1, 0)
		r.note()
		pd.sourceMayBeDone()
	case protocol.CmdNegAck:
		if r.running {
			r.failed += to - from
		}
		pd.rsPending = max(pd.rsPending-1, 0)
	case protocol.CmdNegRSDReply:
		if verifies(pd.conn) || pd.verify.running {
			pd.verifyRefused(a)
			return nil
		}
		pd.blockDone(a.Sector, a.Size, false)
	case protocol.CmdRSCancel:
		r.skipped = true
		pd.blockDone(a.Sector, a.Size, true)
	default:
		return errSequence
	}
	return nil
}
