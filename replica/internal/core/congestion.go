// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// What a Primary with protocol A does when the link is too slow for it (spec:
// behaviour 5.12, wire 8.14): wait, leave, or pull ahead. Ahead it writes alone and
// only says which blocks; when everything sent before has been answered, a resync
// follows, and both need no bitmap exchange, as both have the marks.
//
//	Connected ─ congested ─► Ahead ── P_STATE, P_BARRIER ──► Behind (Outdated)
//	                           │  ─── P_OUT_OF_SYNC … ─────►   marks
//	     all barriers acked,   │
//	     all answers here: 1 s ▼
//	                       SyncSource ── P_SYNC_UUID ──────► SyncTarget
//	                           └─ congested again ─► Ahead: P_RS_CANCEL for what is asked
//
// An answer to resync data that comes while the node is Ahead clears no mark: the
// application may have written the block since. The peer, which has cleared it,
// is told to set it again. SyncSource waits for all answers, so that none of an earlier
// round can clear a mark of this one.

// OnCongestion says what to do about a congested link.
type OnCongestion uint8

// The values of on-congestion.
const (
	CongestionBlock OnCongestion = iota
	CongestionPullAhead
	CongestionDisconnect
)

// aheadRest is how long the link has to be empty before the resync begins, and
// aheadRetry the time between two looks at what is still missing.
const (
	aheadRest  = time.Second
	aheadRetry = 100 * time.Millisecond
)

// congested reports whether a write must not be mirrored.
func (pd *peerDevice) congested() bool {
	net := &pd.v.c.cfg.Net
	if net.OnCongestion == CongestionBlock || pd.p.protocol != protocol.ProtocolA ||
		pd.p.session.Version < 96 || pd.v.disk != protocol.UpToDate {
		return false
	}
	switch pd.conn {
	case protocol.Connected, protocol.SyncSource, protocol.PausedSyncS:
	default:
		return false
	}
	return net.CongestionFill > 0 && pd.flight >= net.CongestionFill ||
		net.CongestionExtents > 0 && pd.v.al.log != nil && pd.v.al.log.Referenced() >= net.CongestionExtents
}

// relieve does what is configured about a congested link.
func (pd *peerDevice) relieve() {
	c, p := pd.v.c, pd.p
	if c.cfg.Net.OnCongestion == CongestionDisconnect {
		if !p.givingUp {
			p.givingUp = true
			c.when(func() bool { return true }, func() {
				p.givingUp = false
				p.refuse(fmt.Errorf("%w: %d KiB are under way", ErrCongested, pd.flight/2))
			})
		}
		return
	}
	nested := c.settling
	c.settling = true
	code := c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.Ahead })
	c.settling = nested
	if !code.Success() {
		return
	}
	pd.v.logf(LogInfo, "the link is congested: pulling ahead")
	// In this order: when the barrier is acknowledged, the peer has been Behind.
	pd.sendState()
	p.closeEpoch()
	if pd.flight == 0 {
		pd.aheadTimer.arm(c.now + aheadRest)
	}
	// What follows from the change is drawn at the end of the event.
}

// flew: a write is not under way any more.
func (pd *peerDevice) flew(sectors uint64) {
	pd.flight -= sectors
	if pd.flight == 0 && pd.conn == protocol.Ahead {
		pd.aheadTimer.arm(pd.v.c.now + aheadRest)
	}
}

// keepMarks: the peer has cleared marks that this node, Ahead, does not.
func (pd *peerDevice) keepMarks(sector uint64, size uint32) {
	if pd.outOfSync(sector, size) {
		pd.sendOutOfSync(sector, size)
	}
}

// fallBack ends Ahead, if every answer is here.
func (pd *peerDevice) fallBack() {
	c := pd.v.c
	if pd.conn != protocol.Ahead || pd.flight > 0 {
		return // the last answer arms the timer again
	}
	if pd.unacked+pd.pending+pd.rsPending > 0 {
		pd.aheadTimer.arm(c.now + aheadRetry)
		return
	}
	c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.SyncSource })
}

// congestionAfter follows a step into or out of Ahead and Behind.
func (pd *peerDevice) congestionAfter(o, n protocol.ConnState) {
	if n == protocol.Ahead || n == protocol.Behind {
		pd.pulled = true
	}
	if o == protocol.Ahead {
		pd.aheadTimer.stop()
	}
}

// isResyncRequest reports whether the answer to a request goes to a resync.
func isResyncRequest(cmd protocol.Command) bool {
	return cmd == protocol.CmdRSDataRequest || cmd == protocol.CmdRSThinReq || cmd == protocol.CmdCsumRSRequest
}

// cancels reports whether a request of the resync is refused because this node has
// pulled ahead: its data may be old before it arrives.
func (pd *peerDevice) cancels(cmd protocol.Command) bool {
	return pd.conn == protocol.Ahead && isResyncRequest(cmd)
}
