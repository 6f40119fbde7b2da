// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// Fencing (spec: behaviour 8.1, 8.2): before a Primary that lost its peer, or a node that
// becomes Primary without it, trusts its own data, somebody makes sure that the
// peer does not do the same. Who, and how, is the handler's affair: its exit code says
// what became of the peer.

// Fencing is the disk option of this name.
type Fencing uint8

// The values of fencing.
const (
	FencingDontCare           Fencing = iota // nobody is asked
	FencingResourceOnly                      // the peer has to be outdated; I/O goes on meanwhile
	FencingResourceAndStonith                // I/O is frozen until the peer is outdated, or dead
)

// The exit codes of fence-peer (spec: behaviour 8.2).
const (
	FencePeerInconsistent = 3 // the peer's disk is Inconsistent
	FencePeerOutdated     = 4 // the peer's disk is Outdated, or was already
	FencePeerUnreachable  = 5 // the peer could not be reached: it is taken for down
	FencePeerPrimary      = 6 // the peer is Primary: the own disk is the older one
	FencePeerShot         = 7 // the peer's node was shot
)

// fencing is the volume's policy; without a disk it does not care.
func (v *volume) fencing() Fencing {
	if !v.hasDisk() {
		return FencingDontCare
	}
	return v.cfg.Fencing
}

// fencing is the strictest policy of the volumes whose data is worth it. good says
// whether there is any.
func (p *peer) fencing() (f Fencing, good bool) {
	for _, pd := range p.pds {
		if d := pd.v.disk; d >= protocol.Consistent {
			f, good = max(f, pd.v.cfg.Fencing), true
		}
	}
	return f, good
}

// lostPeer is the end of a connection: a Primary makes sure that it may go on alone.
func (p *peer) lostPeer() {
	if p.meeting {
		p.meeting = false // the nodes are about to meet again
		if p.c.quorum.notBefore > p.c.now {
			p.c.arbiterTimer.arm(p.c.quorum.notBefore)
		}
		return
	}
	if p.c.anyPrimary() && !p.allFenced() {
		p.goOnAlone()
	}
}

// goOnAlone asks the arbiter, then fences the peer.
func (p *peer) goOnAlone() {
	c := p.c
	if !c.needsArbiter() || !c.suspFencing {
		p.fence(func(bool) {})
		return
	}
	if c.now < c.quorum.notBefore {
		c.arbiterTimer.arm(c.quorum.notBefore)
		return
	}
	c.askArbiter(p, false, func(err error) {
		if err != nil || p.conn() >= protocol.WFReportParams {
			return
		}
		p.fence(func(bool) {})
		if f, _ := p.fencing(); f != FencingResourceAndStonith && c.suspFencing {
			c.releaseFenced()
		}
	})
}

// fence is the fence-peer procedure. done learns whether the peer is out of the way.
// One call of the handler is out at a time; who comes meanwhile gets its result.
func (p *peer) fence(done func(ok bool)) {
	c := p.c
	policy, good := p.fencing()
	switch {
	case p.conn() >= protocol.WFReportParams:
		done(false)
		return
	case !good:
		c.logf(LogWarn, -1, "not fencing the peer, the own data is not even Consistent")
		if c.suspFencing {
			c.unsuspend(func(s *protocol.State) { s.SuspFencing = false })
		}
		done(false)
		return
	case policy == FencingDontCare:
		done(true)
		return
	}
	p.fencers = append(p.fencers, done)
	if len(p.fencers) == 1 {
		p.callFencer()
	}
}

func (p *peer) callFencer() {
	c, met := p.c, p.met
	c.call(HandlerFencePeer, p.pds[0], func(code int) {
		back := p.conn() >= protocol.WFReportParams
		if !back && p.met != met {
			p.callFencer() // it was back in the meantime, and is lost again
			return
		}
		waiters := p.fencers
		p.fencers = nil
		if back {
			c.logf(LogInfo, -1, "ignoring the result of fence-peer (%d): the peer is back", code)
		} else {
			p.fenced(code)
		}
		for _, done := range waiters {
			done(!back && p.allFenced())
		}
	})
}

// fenced draws the consequences of the handler's exit code.
func (p *peer) fenced(code int) {
	c := p.c
	policy, _ := p.fencing()
	nested := c.settling
	c.settling = true // all volumes change before any consequence is drawn
	defer func() { c.settling = nested; c.drain() }()
	switch code {
	case FencePeerInconsistent:
		p.peerDisks(protocol.Inconsistent)
	case FencePeerOutdated:
		p.peerDisks(protocol.Outdated)
	case FencePeerUnreachable:
		for _, pd := range p.pds {
			if pd.v.disk == protocol.UpToDate {
				p.peerDisks(protocol.Outdated)
				return
			}
		}
		c.logf(LogWarn, -1, "fence-peer: the peer is unreachable, and no disk here is UpToDate")
	case FencePeerPrimary:
		c.logf(LogWarn, -1, "fence-peer: the peer is Primary, outdating this node's disks")
		for _, pd := range p.pds {
			if pd.v.disk > protocol.Outdated {
				c.change(pd, wish, func(s *protocol.State) { s.Disk = protocol.Outdated })
			}
		}
	case FencePeerShot:
		if policy != FencingResourceAndStonith {
			c.logf(LogWarn, -1, "fence-peer shot the peer, but fencing is not resource-and-stonith")
		}
		p.peerDisks(protocol.Outdated)
	default:
		c.logf(LogError, -1, "fence-peer is broken: it returned %d", code)
	}
}

// peerDisks says what is known of the peer's disks, where nothing is known.
func (p *peer) peerDisks(d protocol.DiskState) {
	for _, pd := range p.pds {
		if pd.disk > protocol.Outdated {
			p.c.change(pd, wish, func(s *protocol.State) { s.PeerDisk = d })
		}
	}
}

// unfence is due when the peer has all data again (spec: behaviour 6.2).
func (p *peer) unfence() {
	policy := FencingDontCare
	for _, pd := range p.pds {
		if pd.v.disk != protocol.UpToDate || pd.disk != protocol.UpToDate {
			return
		}
		policy = max(policy, pd.v.cfg.Fencing)
	}
	if policy != FencingDontCare {
		p.c.notifyAll(HandlerUnfencePeer, p)
	}
}
