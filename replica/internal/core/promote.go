// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// promotion is Promote in progress: one volume after the other (spec: behaviour 2.7).
type promotion struct {
	cmd     *Command
	force   bool
	next    int
	retried bool
	crossed int // times that a wish of the peer was under way
	began   time.Duration
	forced  []bool // per volume: its disk was declared UpToDate
	good    []bool // its Consistent disk is UpToDate, since the peer's is not
	split   []bool // force: the peer's disk is taken for Outdated, although nobody has fenced it
	fences  int    // calls of fence-peer so far
	done    []bool
	was     []bool // it is a Primary without good data, which force declares good
}

// maxCrossings bounds how often a promotion steps back for one of the peer's. Its wish
// is on the data stream, which may be slower than our pings on the other: it has some
// time, too.
const maxCrossings = 16

// stepsBack reports whether the promotion may wait for a wish of the peer once more.
func (p *promotion) stepsBack(c *Core) bool {
	return p.crossed < maxCrossings || c.now-p.began < 4*c.cfg.Net.PingTimeout
}

// Promote makes every volume Primary. With force it declares the own data of volumes good
// for which none is reachable; where they are Primary already, only if the peer is there,
// and has nothing good either.
func (c *Core) Promote(cmd *Command, force bool) {
	defer c.settle()
	if c.promoting != nil {
		c.finish(cmd, fmt.Errorf("promote: %w: another promotion is under way", ErrRefused))
		return
	}
	p := &promotion{cmd: cmd, force: force, began: c.now, forced: make([]bool, len(c.vols)), done: make([]bool, len(c.vols)),
		good: make([]bool, len(c.vols)), split: make([]bool, len(c.vols)), was: make([]bool, len(c.vols))}
	c.promoting = p
	if pr := c.peers[0]; pr.phase == phaseUp {
		pr.ping(func(error) { c.promoteOn(p) }) // a dead peer is noticed now, not at the first write
		return
	}
	c.promoteNext()
}

// promoteOn goes on with a promotion, unless it was given up in the meantime.
func (c *Core) promoteOn(p *promotion) {
	if c.promoting == p {
		c.promoteNext()
	}
}

// promoteSoon is promoteOn at the end of this event.
func (c *Core) promoteSoon(p *promotion) {
	c.when(func() bool { return true }, func() { c.promoteOn(p) })
}

// givenUp tells of a promotion that it is not under way any more.
func (c *Core) givenUp(p *promotion) func() bool {
	return func() bool { return c.promoting != p }
}

// promoteNext goes on with the next volume.
func (c *Core) promoteNext() {
	p := c.promoting
	for p.next < len(c.vols) && c.vols[p.next].role == protocol.Primary && (p.done[p.next] || !p.force || !c.vols[p.next].nothingGood()) {
		p.next++
	}
	if p.next == len(c.vols) {
		c.promoted()
		return
	}
	v := c.vols[p.next]
	pd := v.pds[0]
	if v.role == protocol.Primary {
		p.was[p.next], p.forced[p.next] = true, true
	}
	req := p.request()
	code := c.allowed(pd, func(s *protocol.State) { *s = req.Apply(*s) })
	if v.older && code.Success() && !p.forced[p.next] {
		code = protocol.CodeNoUpToDateDisk
	}
	switch {
	case code == protocol.CodeInTransientState:
		c.promoteLater()
	case c.promotesAlone(pd, code):
		c.promoteIfGranted(pd)
	case code == protocol.CodeNoUpToDateDisk && p.force && !p.forced[p.next] &&
		v.disk >= protocol.Inconsistent && (v.disk < protocol.UpToDate || v.older) && v.disk != protocol.DUnknown:
		p.forced[p.next] = true
		c.promoteNext()
	case (code == protocol.CodeTwoPrimaries || code == protocol.CodeOtherVolumePeerPrimary) && !p.retried &&
		pd.conn >= protocol.Connected && pd.p.phase == phaseUp:
		p.retried = true
		c.promoteAfterPeer(pd, req)
	case pd.conn < protocol.Connected && p.fences < promoteTries && (code == protocol.CodePeerNotOutdated ||
		code == protocol.CodeNoUpToDateDisk && v.disk == protocol.Consistent && !p.good[p.next]):
		c.promoteFencing(pd, code)
	case !code.Success():
		c.promoteFailed(refused("promote", code, false))
	case pd.conn >= protocol.Connected && pd.p.phase == phaseUp:
		pd.p.queueCluster(&clusterRequest{pd: pd, req: req, over: c.givenUp(p), done: func(code protocol.Code) {
			switch {
			case code == protocol.CodeKeepWaiting: // the connection is gone: ask the rules again
				c.promoteSoon(p)
			case code == protocol.CodeInTransientState:
				c.promoteLater()
			case !code.Success() && p.split[p.next]:
				p.split[p.next] = false // the peer is here, and does not agree
				c.promoteNext()
			case code == protocol.CodeConcurrentStateChange && p.stepsBack(c):
				p.crossed++ // the peer's own wish goes first; after that ours is judged anew
				pd.p.ping(func(error) { c.promoteOn(p) })
			case !code.Success():
				c.promoteFailed(refused("promote", code, true))
			default:
				p.done[p.next] = true
				c.promoteNext()
			}
		}})
	default:
		if p.force && c.cfg.Arbiter {
			c.quorum.granted = true // by the operator
		}
		c.change(pd, wish, func(s *protocol.State) { *s = req.Apply(*s) })
		p.done[p.next] = true
		c.promoteNext()
	}
}

// nothingGood reports whether neither node has good data of a volume: both disks have
// passed on an error. Where the peer's disk is not there, or nothing is known of it, that
// is the better one, and a Primary stays what it is.
func (v *volume) nothingGood() bool {
	pd := v.pds[0]
	return v.disk == protocol.Inconsistent && pd.conn == protocol.Connected && pd.disk == protocol.Inconsistent
}

// promoteAfterPeer asks a peer that is Primary as far as this node knows. It may have
// demoted itself, and its P_STATE, on the data stream, may be slower than all that
// travels on the other one; it knows better. If it consents, its P_STATE is under way.
func (c *Core) promoteAfterPeer(pd *peerDevice, req protocol.StateRequest) {
	p, gen := c.promoting, pd.p.gen
	pd.p.queueCluster(&clusterRequest{pd: pd, req: req, ask: true, over: c.givenUp(p), done: func(code protocol.Code) {
		switch {
		case code == protocol.CodeKeepWaiting:
			c.promoteSoon(p)
		case code == protocol.CodeInTransientState, code == protocol.CodeConcurrentStateChange && p.stepsBack(c):
			p.crossed, p.retried = p.crossed+1, false
			pd.p.ping(func(error) { c.promoteOn(p) })
		case !code.Success():
			c.promoteFailed(refused("promote", code, true))
		default:
			told := func() bool { return c.promoting != p || pd.p.gen != gen || !pd.p.alive() || !pd.p.primary() }
			c.when(told, func() {
				if c.promoting == p {
					p.retried = false // who demotes may promote again
					c.promoteNext()
				}
			})
		}
	}})
}

// primary reports whether the peer is Primary, as far as it has told.
func (p *peer) primary() bool {
	for _, pd := range p.pds {
		if pd.role == protocol.Primary {
			return true
		}
	}
	return false
}

// request is what is asked for the next volume.
func (p *promotion) request() protocol.StateRequest {
	req := protocol.StateRequest{}.WithRole(protocol.Primary)
	if p.forced[p.next] || p.good[p.next] {
		req = req.WithDisk(protocol.UpToDate)
	}
	if p.split[p.next] {
		req = req.WithPeerDisk(protocol.Outdated)
	}
	return req
}

// promoteTries bounds the calls of fence-peer of one promotion (spec: behaviour 2.7).
const promoteTries = 4

// promotesAlone reports whether the arbiter has to be asked: nothing but its consent,
// or the fencing of the peer, is in the way, and the peer may be as good.
func (c *Core) promotesAlone(pd *peerDevice, code protocol.Code) bool {
	p := c.promoting
	return pd.conn < protocol.Connected && !p.force && c.needsArbiter() && pd.disk > protocol.Outdated && pd.v.disk >= protocol.Consistent &&
		(code.Success() || code == protocol.CodePeerNotOutdated || code == protocol.CodeNoUpToDateDisk)
}

// promoteIfGranted asks the arbiter first.
func (c *Core) promoteIfGranted(pd *peerDevice) {
	if pd.conn == protocol.WFReportParams {
		c.promoteLater() // the peer is about to say
		return
	}
	p := c.promoting
	c.askArbiter(pd.p, true, func(err error) {
		switch {
		case c.promoting != p:
		case err == nil || errors.Is(err, ErrConnected):
			c.promoteSoon(p)
		default:
			c.promoteFailed(fmt.Errorf("promote: %w", err))
		}
	})
}

// promoteFencing has the peer fenced, and tries again (spec: behaviour 2.7).
func (c *Core) promoteFencing(pd *peerDevice, code protocol.Code) {
	p, i := c.promoting, c.promoting.next
	p.fences++
	pd.p.fence(func(ok bool) {
		if c.promoting != p {
			return
		}
		back := pd.conn >= protocol.WFReportParams
		switch {
		case back:
		case code == protocol.CodeNoUpToDateDisk && pd.disk <= protocol.Outdated && pd.v.disk == protocol.Consistent:
			p.good[i] = true
		case code == protocol.CodePeerNotOutdated && (ok || pd.disk <= protocol.Outdated):
		case code == protocol.CodePeerNotOutdated && p.force:
			pd.v.logf(LogWarn, "forced into split brain: the peer is not fenced")
			p.split[i] = true
		default:
			c.promoteFailed(refused("promote", code, false))
			return
		}
		c.promoteSoon(p)
	})
}

// promoteLater asks again after the next state change (spec: behaviour 2.3).
func (c *Core) promoteLater() {
	p, changes := c.promoting, c.changes
	c.when(func() bool { return c.changes != changes || c.promoting != p }, func() { c.promoteOn(p) })
}

// promoteFailed takes back what was reached.
func (c *Core) promoteFailed(err error) {
	p := c.promoting
	c.promoting = nil
	for i, v := range c.vols {
		if p.done[i] && !p.was[i] && v.role == protocol.Primary {
			c.change(v.pds[0], fact, func(s *protocol.State) { s.Role = protocol.Secondary })
			v.pds[0].sendState()
		}
	}
	c.finish(p.cmd, err)
}

// promoted: every volume is Primary. What that means for the generations is durable
// before the command is done.
func (c *Core) promoted() {
	p := c.promoting
	left := 1
	done := func() {
		if left--; left == 0 {
			c.finish(p.cmd, nil)
		}
	}
	for i, v := range c.vols {
		pd := v.pds[0]
		pd.discardMyData = false
		pd.p.opt.DiscardMyData = false
		if !p.done[i] {
			continue
		}
		birth := metadata.NoBirth
		if v.metaUsable() {
			birth = v.ids.BirthOnPromotion(p.forced[i], pd.conn >= protocol.Connected, metadata.DiskState(pd.disk), pd.feed.PeerMayShare())
			if birth != metadata.NoBirth && v.disk == protocol.UpToDate {
				v.beginGeneration(birth)
			}
			v.setIDs(v.ids.SetPrimary(true))
		}
		if pd.conn >= protocol.Connected {
			if p.forced[i] || birth != metadata.NoBirth {
				pd.sendUUIDs(0) // before the state: it makes the peer compare, or know what it may attach
			}
			pd.sendState()
		}
		left++
		v.syncSuper(func(error) { done() })
	}
	done()
	c.promoting = nil
	c.stateAdmits()
}

// notYet reports whether a volume is Primary, and the promotion that made it so has not
// ended: others of its volumes may have to wait, or fail, and the generation that is due
// for this one begins with theirs.
func (v *volume) notYet() bool {
	p := v.c.promoting
	return p != nil && p.done[v.idx]
}

// Demote makes every volume Secondary, after all writes are acknowledged.
func (c *Core) Demote(cmd *Command) {
	defer c.settle()
	if !c.anyPrimary() {
		c.finish(cmd, nil)
		return
	}
	for _, v := range c.vols {
		v.freezing++
	}
	for _, p := range c.peers {
		p.closeEpoch()
	}
	thaw := func() {
		for _, v := range c.vols {
			v.freezing--
		}
		c.stateAdmits()
	}
	c.when(func() bool { return c.drained() || cmd.finished }, func() {
		if cmd.finished {
			thaw()
			return
		}
		allowed := func() protocol.Code {
			code := protocol.CodeSuccess
			for _, v := range c.vols {
				if cd := c.allowed(v.pds[0], func(s *protocol.State) { s.Role = protocol.Secondary }); !cd.Success() {
					code = cd
				}
			}
			return code
		}
		c.patiently(cmd, allowed, func(protocol.Code) {
			if !cmd.finished {
				c.demoteNow(cmd)
			}
			thaw()
		})
	})
}

// drained reports that no application request is in progress, here or unflushed at
// a connected peer.
func (c *Core) drained() bool {
	for _, v := range c.vols {
		if v.appPending > 0 {
			return false
		}
	}
	for _, p := range c.peers {
		if p.tx.first != nil {
			return false
		}
	}
	return true
}

func (c *Core) demoteNow(cmd *Command) {
	left := 1
	done := func() {
		if left--; left == 0 {
			c.finish(cmd, nil)
		}
	}
	for _, v := range c.vols {
		if v.role != protocol.Primary {
			continue
		}
		pd := v.pds[0]
		if v.postponed && pd.oosBlocks() > 0 {
			// In the peer's generation, and not as the peer is: what a crash leaves.
			v.crashedPrimary = true
		}
		v.postponed = false
		if code := c.change(pd, wish, func(s *protocol.State) { s.Role = protocol.Secondary }); !code.Success() {
			c.finish(cmd, refused("demote", code, false))
			return
		}
		pd.leavesAhead()
		v.setIDs(v.ids.SetPrimary(false))
		if pd.conn >= protocol.Connected {
			pd.sendState()
		}
		left++
		v.syncSuper(func(error) { done() })
	}
	c.quorum.granted = false
	done()
}

// leavesAhead begins the generation of what a demoted node, Ahead, has written without the
// peer. A Primary does so when it loses the peer; now nobody would, and the nodes would
// take each other's disks for equal. DRBD begins none.
func (pd *peerDevice) leavesAhead() {
	v := pd.v
	if pd.conn != protocol.Ahead || pd.oosBlocks() == 0 {
		return
	}
	if b := v.ids.BirthOnPromotion(false, false, metadata.DiskUnknown, pd.feed.PeerMayShare()); b != metadata.NoBirth {
		v.beginGeneration(b)
		pd.sendUUIDs(0)
	}
}

// Abandon gives up a command: the caller does not wait for it any longer. What it
// has changed so far stays.
func (c *Core) Abandon(cmd *Command, err error) {
	if p := c.promoting; p != nil && p.cmd == cmd && !cmd.finished {
		c.promoteFailed(err)
	}
	c.finish(cmd, err)
	c.settle()
}
