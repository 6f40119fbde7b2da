// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

// Handlers are the users' programs, or callbacks, that DRBD calls by name (spec:
// behaviour 8.3). The core publishes an event for each. Where it needs the result the
// event carries a Call, which the shell hands back with HandlerDone.

// The handlers that the core calls; those of the sync handshake are in package metadata.
const (
	HandlerFencePeer          = "fence-peer"
	HandlerUnfencePeer        = "unfence-peer"
	HandlerBeforeResyncTarget = "before-resync-target"
	HandlerBeforeResyncSource = "before-resync-source"
	HandlerAfterResyncTarget  = "after-resync-target"
	HandlerPriOnInconDegr     = "pri-on-incon-degr"
	HandlerLocalIOError       = "local-io-error"
	HandlerOutOfSync          = "out-of-sync"
	HandlerQuorumLost         = "quorum-lost"

	// HandlerArbiter is a question to the arbiter, in an EventQuorum.
	HandlerArbiter = "arbiter"
)

// Call is a handler whose result the core waits for. The shell runs it, in bounded
// time, and calls HandlerDone, once.
type Call struct {
	Name        string
	Volume      int // index, -1 for the resource
	Generations []Generation
	Promote     bool // a question to the arbiter: this node is about to be promoted

	done     func(code int)
	finished bool
}

// HandlerDone reports the end of a call: the exit code of the handler, or for the
// arbiter one of the Arbiter constants.
func (c *Core) HandlerDone(call *Call, code int) {
	if call.finished {
		return
	}
	call.finished = true
	call.done(code)
	c.settle()
}

// awaits reports whether somebody runs this handler and says how it ended.
func (c *Core) awaits(name string) bool {
	switch name {
	case HandlerArbiter:
		return c.cfg.Arbiter
	case HandlerFencePeer:
		return c.cfg.Fencer
	}
	return c.cfg.Handlers
}

// call runs a handler whose result matters. The superblocks are durable before
// that: it may shoot this node. Without anybody to run it the result is 0.
func (c *Core) call(name string, pd *peerDevice, done func(code int)) *Call {
	ev := Event{Kind: EventHandler, Volume: pd.v.idx, Peer: pd.p.idx, Text: name}
	switch name {
	case HandlerFencePeer:
		ev.Volume = -1
	case HandlerArbiter:
		ev.Volume, ev.Kind, ev.Text = -1, EventQuorum, "asking the arbiter"
	}
	if !c.awaits(name) {
		c.event(ev)
		done(0)
		return nil
	}
	call := &Call{Name: name, Volume: ev.Volume, done: done}
	if name == HandlerArbiter {
		call.Generations = c.generations()
	}
	ev.Call = call
	left := 1
	ready := func(error) {
		if left--; left == 0 {
			c.event(ev)
		}
	}
	for _, v := range c.vols {
		if v.metaUsable() && (v.md.dirty || v.md.writing) {
			left++
			v.syncSuper(ready)
		}
	}
	ready(nil)
	return call
}

// notify publishes a handler of a volume whose result nobody waits for.
func (c *Core) notify(name string, pd *peerDevice) {
	c.event(Event{Kind: EventHandler, Volume: pd.v.idx, Peer: pd.p.idx, Text: name})
}

// notifyAll is notify for a handler of the resource.
func (c *Core) notifyAll(name string, p *peer) {
	c.event(Event{Kind: EventHandler, Volume: -1, Peer: p.idx, Text: name})
}
