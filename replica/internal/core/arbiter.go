// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Two nodes that lose each other cannot find out who is to go on: a third party, the
// arbiter, decides. It is asked before a Primary goes on alone, and before a node
// without its peer is promoted. The question names the data generation, which both
// nodes share when they lose each other: an arbiter that grants every generation to
// one node, for ever, lets exactly one go on. Whoever does begins another
// generation; so does a Primary that has asked and meets its peer again.

// quorum is what the arbiter has said since the peer was last seen.
type quorum struct {
	granted bool
	denied  bool
	lost    bool // the handler quorum-lost was called
	asking  *Call
	// The nodes have met and are about to meet again: a question now would use up
	// the generation that was just begun for that.
	notBefore time.Duration
	waiting   []func(error)
}

// arbiterRetry is the pause before an arbiter that gave no answer is asked again.
const arbiterRetry = time.Second

// The answers of the arbiter, as exit codes of its Call.
const (
	ArbiterGranted     = 0
	ArbiterDenied      = 1
	ArbiterUnreachable = 2
)

// Generation is the data of one volume in a question to the arbiter.
type Generation struct {
	Volume  uint16
	Current metadata.UUID // bit 0 is clear
}

// needsArbiter reports whether this node may not go on alone without being told so.
func (c *Core) needsArbiter() bool { return c.cfg.Arbiter && !c.quorum.granted }

// askArbiter asks whether this node may be the one, and tells done. A Primary
// (promoting false) is kept waiting until there is an answer, or the peer is back.
func (c *Core) askArbiter(p *peer, promoting bool, done func(error)) {
	if c.quorum.denied && !promoting {
		done(ErrNoQuorum)
		return
	}
	c.quorum.waiting = append(c.quorum.waiting, done)
	if c.quorum.asking != nil {
		return
	}
	for _, v := range c.vols {
		v.asked = true
	}
	var call *Call
	call = c.call(HandlerArbiter, p.pds[0], func(code int) {
		switch {
		case c.quorum.asking != call: // it was about a loss that is over
		case p.conn() >= protocol.WFReportParams:
			c.event(Event{Kind: EventQuorum, Volume: -1, Peer: p.idx, Text: "the answer comes late: the peer is back"})
			c.answerArbiter(ErrConnected)
		default:
			c.arbitrated(p, code)
		}
	})
	call.Promote = promoting
	c.quorum.asking = call
}

// arbitrated is the arbiter's answer.
func (c *Core) arbitrated(p *peer, code int) {
	switch code {
	case ArbiterGranted:
		c.quorum.granted, c.quorum.denied = true, false
		c.arbiterTimer.stop()
		c.event(Event{Kind: EventQuorum, Volume: -1, Peer: p.idx, Text: "granted: this node goes on alone"})
		c.answerArbiter(nil)
		return
	case ArbiterDenied:
		c.quorum.denied = true
		c.arbiterTimer.stop()
		c.event(Event{Kind: EventQuorum, Volume: -1, Peer: p.idx, Text: "denied: the other node goes on", Err: ErrNoQuorum})
		c.lostQuorum(p)
		c.answerArbiter(ErrNoQuorum)
		return
	}
	err := errors.Join(ErrNoQuorum, ErrArbiterUnreachable)
	c.event(Event{Kind: EventQuorum, Volume: -1, Peer: p.idx, Text: "no answer from the arbiter", Err: err})
	c.lostQuorum(p)
	c.answerArbiter(err)
	if c.suspFencing && c.anyPrimary() {
		c.arbiterTimer.arm(c.now + arbiterRetry)
	}
}

// answerArbiter tells those who wait for the answer.
func (c *Core) answerArbiter(err error) {
	waiting := c.quorum.waiting
	c.quorum.asking, c.quorum.waiting = nil, nil
	for _, done := range waiting {
		done(err)
	}
}

// lostQuorum: a Primary stays frozen. Once for each loss of the peer the handler is
// called, and requests begin to fail if that is the policy.
func (c *Core) lostQuorum(p *peer) {
	if !c.anyPrimary() || c.quorum.lost {
		return
	}
	c.quorum.lost = true
	c.notifyAll(HandlerQuorumLost, p)
	if c.cfg.QuorumLostIOError {
		c.failSuspended(ErrNoQuorum)
	}
}

// askAgain is due some time after the arbiter gave no answer.
func (c *Core) askAgain() {
	p := c.peers[0]
	if c.now < c.quorum.notBefore {
		c.arbiterTimer.arm(c.quorum.notBefore)
		return
	}
	if c.suspFencing && c.needsArbiter() && c.quorum.asking == nil && p.conn() < protocol.WFReportParams && !p.allFenced() {
		p.goOnAlone()
	}
}

// generations names the data of all volumes.
func (c *Core) generations() []Generation {
	var out []Generation
	for _, v := range c.vols {
		g := Generation{Volume: v.cfg.Number, Current: v.exposed}
		if v.hasDisk() {
			g.Current = v.ids.Current
		}
		g.Current = g.Current.WithPrimary(false)
		out = append(out, g)
	}
	return out
}
