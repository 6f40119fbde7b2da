// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// How a state changes (spec: behaviour 2.1): sanitize, check, store, and queue
// the consequences, which afterchange.go draws.

// force says whether a change is a wish or a fact.
type force bool

const (
	wish force = false // may be refused
	fact force = true  // the environment has decided: only T-rules apply
)

func (c *Core) ruleEnv(pd *peerDevice) *ruleEnv {
	e := &ruleEnv{twoPrimaries: c.cfg.Net.AllowTwoPrimary, version: pd.p.version(), verifyAlg: pd.p.verifyAlg.Size() > 0, fencing: pd.v.fencing() >= FencingResourceOnly}
	for _, o := range pd.p.pds {
		if o != pd && o.role == protocol.Primary {
			e.otherPrimary = true
		}
		if o.stateSent && o.conn == protocol.WFReportParams {
			e.handshaking = true
		}
	}
	return e
}

// prepare sanitizes a wished state (S-rules, with S4).
func (pd *peerDevice) prepare(s protocol.State) (out protocol.State, abort bool) {
	if s.Conn < protocol.Connected && s.Disk == protocol.Negotiating { // S4
		if v := pd.v; s.Role != protocol.Primary || v.exposed.Equal(v.ids.Current) && !v.peerBears && !v.lacks(v.ids.Current) {
			s.Disk = pd.v.negotiated
			if s.Role != protocol.Primary && pd.peerWentOn() {
				s.Disk = min(s.Disk, protocol.Outdated)
			}
		} else {
			// A Primary has shown other data to its users. DRBD drops the disk of
			// a Secondary, too; there it would only cost an attach.
			s.Disk, s.PeerDisk = protocol.Failed, protocol.DUnknown
		}
	}
	if s.Role == protocol.Primary && s.Conn < protocol.Connected && targets(pd.conn) && s.Disk == protocol.Outdated {
		// Writes that were under way may be on it alone, and by the identifiers it may be
		// the peer's equal: Outdated it would be good again.
		s.Disk = protocol.Inconsistent
	}
	s, abort = sanitize(pd.staysOld(s))
	if abort && pd.resync.newPart && pd.conn == protocol.WFSyncUUID && s.Disk == protocol.Inconsistent {
		s.Disk = protocol.UpToDate // what the other node has had since it was Connected is here, too
	}
	return suspendIfNew(pd.state(), s, pd.suspendEnv()), abort // S8, S9
}

// judge says whether the change old -> s is allowed; s is what prepare makes of want.
func (c *Core) judge(pd *peerDevice, old, want, s protocol.State, f force) (string, protocol.Code) {
	env := c.ruleEnv(pd)
	if rule, code, bad := refusedHard(old, s, env); bad {
		return rule, code
	}
	if f == fact {
		return "", protocol.CodeSuccess
	}
	if (old.Disk == protocol.Attaching || old.Disk == protocol.Negotiating) &&
		(want.Disk == protocol.Outdated || want.Conn > protocol.Connected && old.Conn == protocol.Connected) {
		// What the disk is is about to come out. A verify or resync by command would
		// take it for good.
		return "attaching", protocol.CodeInTransientState
	}
	if old.Conn == protocol.WFReportParams && want.Conn > protocol.Connected && s.Conn == protocol.Connected {
		// S3 leaves of a verify or resync by command that the nodes are connected: without
		// a handshake.
		return "handshake", protocol.CodeInTransientState
	}
	if want.Disk == protocol.Outdated && old.Disk < protocol.Outdated {
		// Connected, S5 would make UpToDate of it: of a disk that has failed or
		// lacks blocks, too.
		return "X5", protocol.CodeLowerThanOutdated
	}
	if rule, code, bad := invalid(s, env); bad {
		// A state that was bad already for the same reason may stay so.
		if _, was, wasBad := invalid(old, env); !wasBad || was != code {
			return rule, code
		}
	}
	if rule, code, bad := refusedSoft(old, s, env); bad {
		return rule, code
	}
	return "", protocol.CodeSuccess
}

// change makes set's change to a volume's state, or says why not.
func (c *Core) change(pd *peerDevice, f force, set func(*protocol.State)) protocol.Code {
	old := pd.state()
	want := old
	set(&want)
	s, abort := pd.prepare(want)
	if s == old {
		return protocol.CodeNothingToDo
	}
	if rule, code := c.judge(pd, old, want, s, f); !code.Success() {
		pd.v.logf(LogDebug, "state change %s refused by %s: %s", diff(old, s), rule, code)
		return code
	}
	if abort {
		pd.v.logf(LogWarn, "resync or verify aborted: a disk is gone")
	}
	c.commit(pd, old, s)
	return protocol.CodeSuccess
}

// allowed is change without making it.
func (c *Core) allowed(pd *peerDevice, set func(*protocol.State)) protocol.Code {
	old := pd.state()
	want := old
	set(&want)
	s, _ := pd.prepare(want)
	if s == old {
		return protocol.CodeNothingToDo
	}
	_, code := c.judge(pd, old, want, s, wish)
	return code
}

// changeAll makes the same change on every volume of a connection, or on none.
func (c *Core) changeAll(p *peer, f force, set func(*protocol.State)) protocol.Code {
	code := protocol.CodeNothingToDo
	for _, pd := range p.pds {
		old := pd.state()
		want := old
		set(&want)
		s, _ := pd.prepare(want)
		if s == old {
			continue
		}
		if _, cd := c.judge(pd, old, want, s, f); !cd.Success() {
			if f == fact {
				continue // a fact holds where it is possible
			}
			return cd
		}
		code = protocol.CodeSuccess
	}
	if code != protocol.CodeSuccess {
		return code
	}
	nested := c.settling
	c.settling = true // all volumes change before any consequence is drawn
	for _, pd := range p.pds {
		c.change(pd, f, set)
	}
	c.settling = nested
	c.drain()
	return code
}

// commit stores a checked state and queues its consequences.
func (c *Core) commit(pd *peerDevice, old, s protocol.State) {
	if mirrors(old) != mirrors(s) && s.Conn != protocol.Ahead { // which has its own order: relieve
		pd.p.closeEpoch() // one epoch never mixes mirrored and unmirrored writes
	}
	if s.Conn != protocol.Ahead && !mirrors(s) && (mirrors(old) || old.Conn == protocol.Ahead) {
		pd.keepAllMarks()
	}
	pd.store(s)
	pd.raised(old, s)
	if old.Role != protocol.Primary && s.Role == protocol.Primary {
		pd.holdAllVerified()
	}
	c.changes++
	pd.v.logf(LogInfo, "%s", diff(old, s))
	c.event(Event{Kind: EventState, Volume: pd.v.idx, Peer: pd.p.idx, Old: old, New: s})
	pd.v.updateFlags()
	c.after = append(c.after, transition{pd, old, s})
	c.drain()
}

// drain draws consequences unless that is going on already.
func (c *Core) drain() {
	if c.settling {
		return
	}
	c.settling = true
	for len(c.after) > 0 {
		t := c.after[0]
		c.after = c.after[1:]
		c.afterChange(t)
	}
	c.settling = false
}

// diff writes a change as DRBD logs it: "conn( A -> B ) disk( C -> D )".
func diff(o, n protocol.State) string {
	var b strings.Builder
	add := func(name string, changed bool, from, to string) {
		if changed {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(name + "( " + from + " -> " + to + " )")
		}
	}
	bit := func(on bool) string {
		if on {
			return "1"
		}
		return "0"
	}
	add("peer", o.Peer != n.Peer, o.Peer.String(), n.Peer.String())
	add("role", o.Role != n.Role, o.Role.String(), n.Role.String())
	add("conn", o.Conn != n.Conn, o.Conn.String(), n.Conn.String())
	add("disk", o.Disk != n.Disk, o.Disk.String(), n.Disk.String())
	add("pdsk", o.PeerDisk != n.PeerDisk, o.PeerDisk.String(), n.PeerDisk.String())
	add("susp", o.Susp != n.Susp, bit(o.Susp), bit(n.Susp))
	add("susp_nod", o.SuspNoData != n.SuspNoData, bit(o.SuspNoData), bit(n.SuspNoData))
	add("susp_fen", o.SuspFencing != n.SuspFencing, bit(o.SuspFencing), bit(n.SuspFencing))
	add("aftr_isp", o.AftrISP != n.AftrISP, bit(o.AftrISP), bit(n.AftrISP))
	add("peer_isp", o.PeerISP != n.PeerISP, bit(o.PeerISP), bit(n.PeerISP))
	add("user_isp", o.UserISP != n.UserISP, bit(o.UserISP), bit(n.UserISP))
	return b.String()
}

// usesOurDisk reports whether the peer, Primary, has no disk but this one. A peer that was
// allowed to detach its own has that until it says so: up to then it is the better one
// after a crash of both, for this may lack what protocol A and B have acknowledged.
func (pd *peerDevice) usesOurDisk(s protocol.State) bool {
	return s.PeerDisk < protocol.Inconsistent && s.Peer == protocol.Primary && !pd.departing
}

// updateFlags recomputes the flag word from the state (spec: behaviour 7.1).
func (v *volume) updateFlags() {
	if !v.hasDisk() || v.closing {
		return
	}
	s := v.pds[0].state()
	f := v.sb.Flags &^ (metadata.Consistent | metadata.PrimaryInd | metadata.ConnectedInd | metadata.WasUpToDate |
		metadata.PeerOutdated | metadata.CrashedPrimary | metadata.ALClean)
	set := func(on bool, bit metadata.Flags) {
		if on {
			f |= bit
		}
	}
	set(s.Disk > protocol.Inconsistent, metadata.Consistent)
	set(s.Role == protocol.Primary || v.pds[0].usesOurDisk(s) ||
		v.onlyCopies > 0, // the peer has a disk again, and the activity log still stands in for marks
		metadata.PrimaryInd)
	set(s.Conn > protocol.WFReportParams, metadata.ConnectedInd)
	set(s.Disk > protocol.Outdated && !v.older, metadata.WasUpToDate)
	set(s.PeerDisk >= protocol.Inconsistent && s.PeerDisk <= protocol.Outdated, metadata.PeerOutdated)
	set(v.crashedPrimary, metadata.CrashedPrimary)
	if f != v.sb.Flags {
		if f&metadata.PrimaryInd != 0 && v.sb.Flags&metadata.PrimaryInd == 0 {
			// Without it on disk a crash would not apply the activity log:
			// no data is written before it is durable.
			v.gateSuper()
		}
		v.sb.Flags = f
		v.md.dirty = true
	}
}
