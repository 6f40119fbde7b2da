// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// What a node does with the peer's P_STATE, and the sync handshake that it may
// lead to (spec: behaviour 2.9, 3.6; wire 8.4).

func (pd *peerDevice) receiveState(ps protocol.State) {
	own := pd.state()
	real := ps.Disk
	if real == protocol.Negotiating { // rule: Negotiating stands for what it will be
		real = protocol.Consistent
		if pd.uuidFlags&metadata.FlagInconsistent != 0 {
			real = protocol.Inconsistent
		}
	}
	if own.Disk == protocol.UpToDate && own.Conn > protocol.Connected && real == protocol.UpToDate &&
		(pd.disk == protocol.Inconsistent || pd.disk == protocol.Consistent) {
		switch {
		case ps.Conn > protocol.Connected && ps.Conn < protocol.SyncSource:
			real = protocol.Inconsistent // still preparing
		case own.Conn >= protocol.SyncSource && ps.Conn == protocol.Connected:
			pd.resync.told = pd.resync.running
			pd.peerSaysDone()
			return
		}
	}
	if v := pd.v; ps.Disk != protocol.Negotiating && v.exposedWas != metadata.UUIDNone {
		if ps.Disk < protocol.Negotiating { // its attach has failed, and nobody has seen that disk
			v.exposed = v.exposedWas
		}
		v.exposedWas = metadata.UUIDNone
	}
	if own.Conn == protocol.Connected && pd.disk == protocol.UpToDate && real == protocol.Inconsistent && ps.Conn > protocol.SyncSource {
		real = protocol.UpToDate // stale
	}
	if pd.skipped = pd.skipped && ps.Disk == protocol.Inconsistent && ps.Conn <= protocol.Connected; pd.skipped {
		// From before the peer read that the initial sync is skipped. It will have
		// read it before any write that we mirror from now on.
		real = protocol.UpToDate
	}
	if own.Conn == protocol.Connected && ps.Conn <= protocol.Connected && own.Role == protocol.Primary &&
		own.Disk == protocol.UpToDate && (pd.disk == protocol.Inconsistent || pd.disk == protocol.Failed) && real == protocol.UpToDate && pd.oosBlocks() > 0 {
		// It lacks what was written here meanwhile, whatever it believes.
		pd.v.logf(LogWarn, "the peer says UpToDate, but %d blocks are out of sync: connecting anew", pd.oosBlocks())
		pd.p.lose(protocol.BrokenPipe)
		return
	}
	conn := own.Conn
	switch {
	case conn == protocol.WFReportParams:
		conn = protocol.Connected
	case pd.verifyEnds(own, ps, real):
		conn, own.Conn = protocol.Connected, protocol.Connected
	case ps.Conn == protocol.Ahead && conn >= protocol.Connected:
		conn = protocol.Behind
	}
	if pd.meetsAgain(own, ps) {
		return
	}
	decided := pd.decides(own, ps)
	if decided {
		d := pd.decide(own, ps)
		pd.lastDecision = &d
		conn, real = pd.obey(d, conn, real)
		if conn == protocol.Disconnecting {
			return
		}
	}
	if targets(ps.Conn) && conn == protocol.Connected && (real == protocol.Outdated || real == protocol.Consistent) {
		// A resync target that lost its source (our disk is gone): S5 must not
		// take its older data for UpToDate.
		real = protocol.Inconsistent
	}
	pd.considerResync = false
	defer func() {
		if pd.letGo && pd.conn >= protocol.Connected {
			pd.peerLetGo()
		}
		if pd.birthDue && ps.Conn >= protocol.Connected && ps.Disk < protocol.Negotiating && pd.conn >= protocol.Connected {
			pd.acceptedByDisklessPrimary()
		}
	}()
	if own.Disk == protocol.Negotiating && besideNone(ps) && pd.v.hasShownOther() {
		pd.v.abortStale() // what it was to be compared with has gone meanwhile
	}
	if ps.Disk <= protocol.Failed {
		if pd.departing {
			pd.departing = false
			pd.v.updateFlags()
		}
		pd.markUnsure() // not before: a peer that wishes to detach has its disk until it hears that it may
	}
	pd.adopt(own, ps, conn, real, decided)
	if (own.Conn == protocol.WFReportParams || decided) && pd.conn >= protocol.Connected {
		pd.syncGrown()
	}
}

// besideNone reports whether a peer has heard that a disk is attached here, and has none
// (any more): it will never compare anything with that.
func besideNone(ps protocol.State) bool {
	return ps.Disk < protocol.Negotiating && ps.PeerDisk >= protocol.Negotiating
}

// decides reports whether this P_STATE starts the sync handshake.
func (pd *peerDevice) decides(own, ps protocol.State) bool {
	if ps.Disk < protocol.Negotiating || own.Disk < protocol.Negotiating || !pd.idsValid {
		return false
	}
	return own.Conn < protocol.Connected ||
		own.Conn == protocol.Connected && (ps.Disk == protocol.Negotiating ||
			// A P_STATE from before the peer heard of our attach, or even of the
			// failure before that, says nothing about it.
			own.Disk == protocol.Negotiating && ps.PeerDisk >= protocol.Negotiating && !pd.idsDue) ||
		pd.considerResync && own.Conn == protocol.Connected || // else a resync by command is under way
		// The same, of a promotion that this node consented to before it was attached.
		own.Conn == protocol.Connected && own.Disk == protocol.Inconsistent && pd.disk == protocol.Inconsistent &&
			own.Peer == protocol.Secondary && ps.Role == protocol.Primary && ps.Disk == protocol.UpToDate ||
		own.Conn == protocol.Connected && ps.Conn >= protocol.StartingSyncS && ps.Conn <= protocol.WFBitMapT
}

// decide compares the two nodes.
func (pd *peerDevice) decide(own, ps protocol.State) metadata.Decision {
	v, net := pd.v, &pd.v.c.cfg.Net
	in := metadata.DecideInput{
		CompareInput: metadata.CompareInput{
			Own: metadata.Side{IDs: v.ids, BitmapBits: pd.sentBits, Primary: own.Role == protocol.Primary,
				CrashedPrimary: v.crashedPrimary},
			Peer:     metadata.Side{IDs: pd.ids, Flags: pd.uuidFlags, BitmapBits: pd.uuidBits, Primary: ps.Role == protocol.Primary},
			Resolver: pd.p.resolver, Version: int(pd.p.session.Version), Features: uint32(pd.p.session.Features),
		},
		OwnDisk: metadata.DiskState(own.Disk), KeptDisk: metadata.DiskState(v.negotiated),
		PeerDisk: metadata.DiskState(ps.Disk),
		Policies: metadata.Policies{
			AfterSB0Pri: metadata.SplitBrainPolicy(net.AfterSB0), AfterSB1Pri: metadata.SplitBrainPolicy(net.AfterSB1),
			AfterSB2Pri: metadata.SplitBrainPolicy(net.AfterSB2), AlwaysASBP: net.AlwaysASBP, RRConflict: net.RRConflict,
		},
		OwnDryRun: pd.p.opt.Tentative, PeerDryRun: pd.p.dryRun && !pd.p.opt.Tentative,
	}
	if pd.discardMyData {
		in.Own.Flags |= metadata.FlagDiscardMyData
	}
	return metadata.Decide(in)
}

// obey carries a decision out up to the new connection state.
func (pd *peerDevice) obey(d metadata.Decision, conn protocol.ConnState, real protocol.DiskState) (protocol.ConnState, protocol.DiskState) {
	v, c := pd.v, pd.v.c
	for _, line := range d.Log {
		v.logf(LogInfo, "%s", line)
	}
	for _, h := range d.Handlers {
		c.event(Event{Kind: EventHandler, Volume: v.idx, Peer: pd.p.idx, Text: string(h), Decision: &d})
	}
	v.setIDs(d.Verdict.CorrectedOwn)
	pd.ids = d.Verdict.CorrectedPeer
	c.event(Event{Kind: EventVerdict, Volume: v.idx, Peer: pd.p.idx, Text: d.Sentence(), Decision: &d})
	switch d.Action {
	case metadata.ActBecomeSource:
		conn = protocol.WFBitMapS
	case metadata.ActBecomeTarget:
		conn = protocol.WFBitMapT
	case metadata.ActConnected:
		conn = protocol.Connected
	case metadata.ActFailAttach:
		v.logf(LogError, "attach aborted: %s", d.Sentence())
		v.abortAttach(fmt.Errorf("%w: %s", ErrDataStale, d.Sentence()))
		return pd.conn, real
	case metadata.ActPeerAttachFail:
		// The peer has to come to the same verdict. DRBD leaves it in Negotiating.
		v.logf(LogWarn, "attach on the peer is refused: %s", d.Sentence())
		pd.sendUUIDs(0)
		answer := pd.state()
		answer.PeerDisk = protocol.Negotiating
		send(pd.p, protocol.DataStream, protocol.CmdState, v.cfg.Number, answer)
		return pd.conn, protocol.Diskless
	case metadata.ActReconnect:
		v.logf(LogWarn, "dry run: %s", d.Sentence())
		pd.p.lose(protocol.TearDown)
		return protocol.Disconnecting, real
	case metadata.ActStandAlone:
		pd.p.refuse(pd.refusal(d))
		return protocol.Disconnecting, real
	}
	if d.FullSync {
		v.setAllOutOfSync(pd)
	}
	return conn, real
}

// refusal is a refused decision as an error.
func (pd *peerDevice) refusal(d metadata.Decision) error {
	err := ErrUnrelated
	switch d.Refusal {
	case metadata.RefusedSplitBrain:
		err = ErrSplitBrain
		pd.v.c.event(Event{Kind: EventSplitBrain, Volume: pd.v.idx, Peer: pd.p.idx,
			Text: d.Explain(pd.v.c.cfg.Name), Decision: &d})
	case metadata.RefusedDryRun:
		err = errors.New("dry run")
	case metadata.RefusedPrimaryTarget, metadata.RefusedInconsistentSource:
		err = ErrNoUpToDateData
	}
	return fmt.Errorf("%w: %s", err, d.Sentence())
}

// adopt stores what the peer reports, and what this node makes of it. While
// connecting it is a wish that the rules may refuse; later it is a fact.
func (pd *peerDevice) adopt(own, ps protocol.State, conn protocol.ConnState, real protocol.DiskState, decided bool) {
	c, f := pd.v.c, fact
	if own.Conn == protocol.WFReportParams {
		f = wish
	}
	nested := c.settling
	c.settling = true // the state goes out before what follows from it, the bitmap above all
	code := c.change(pd, f, func(s *protocol.State) {
		s.Conn, s.Peer, s.PeerDisk = conn, ps.Role, real
		s.PeerISP = ps.AftrISP || ps.UserISP
		if (decided || besideNone(ps)) && s.Disk == protocol.Negotiating && (conn == protocol.Connected || conn == protocol.WFBitMapS) {
			s.Disk = pd.v.negotiated
		}
	})
	if !code.Success() {
		c.settling = nested
		pd.p.refuse(refused("connect", code, false))
		return
	}
	if own.Conn > protocol.WFReportParams && pd.conn > protocol.Connected &&
		ps.Conn <= protocol.Connected && ps.Disk != protocol.Negotiating {
		pd.sendUUIDs(0) // "I want a resync, decide again"
		pd.sendState()
	}
	pd.discardMyData = false
	pd.v.md.dirty = true
	c.settling = nested
	c.drain()
}
