// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Core is the state machine of one resource. Its methods are the events; Take
// and TakeOut give the effects. It is not safe for concurrent use.
type Core struct {
	cfg   Config
	now   time.Duration
	eff   Effects
	vols  []*volume
	peers []*peer

	susp, suspNoData, suspFencing bool   // spec: behaviour 1.5, resource wide
	suspErr                       error  // set: what is suspended fails with it instead of waiting
	era                           uint64 // counts the beginnings of susp_nod
	suspTimer, arbiterTimer       timer
	quorum                        quorum
	closing                       bool // Shutdown is under way

	// Transitions wait here for their after-work, in order.
	after    []transition
	settling bool

	changes   uint64 // state changes so far
	promoting *promotion
	waiting   []waiter // commands that wait for a condition, looked at after every event

	requests requestTable
	freeReq  *request
	freeOp   *Op
	freePeer *peerReq
	copies   memory
}

// transition is one state change whose consequences are still to be drawn.
type transition struct {
	pd       *peerDevice
	old, new protocol.State
}

// waiter is a command that finishes when ready reports true.
type waiter struct {
	ready func() bool
	run   func()
}

// New returns the core of a resource: StandAlone, Diskless, Secondary. It
// returns an error that says which field of cfg cannot be.
func New(cfg Config) (*Core, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Core{cfg: cfg}
	for i := range cfg.Peers {
		c.peers = append(c.peers, newPeer(c, i))
	}
	for i := range cfg.Volumes {
		c.vols = append(c.vols, newVolume(c, i))
	}
	return c, nil
}

// Advance tells the time; it never goes back.
func (c *Core) Advance(now time.Duration) {
	if now > c.now {
		c.now = now
	}
}

// Take moves the pending effects into e, which must be Reset.
func (c *Core) Take(e *Effects) { c.eff, *e = *e, c.eff }

// Idle reports whether nothing waits to be taken: a cheap check for the hot path.
func (c *Core) Idle() bool { return c.eff.Empty() }

// settle draws the consequences of state changes until there are none, then
// looks at what waits for a condition. Every event ends with it.
func (c *Core) settle() {
	if c.settling {
		return
	}
	c.drain()
	c.checkWaiting()
	for _, v := range c.vols {
		v.writeDirtySuper()
	}
}

// checkWaiting runs the commands whose condition holds now.
func (c *Core) checkWaiting() {
	for again := true; again; {
		again = false
		for i, w := range c.waiting {
			if w.ready() {
				c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
				w.run()
				again = true
				break
			}
		}
	}
}

// when runs fn as soon as ready holds: now, or at the end of a later event.
func (c *Core) when(ready func() bool, fn func()) {
	c.waiting = append(c.waiting, waiter{ready, fn})
}

// patiently asks for a change until the answer is not "in a transient state": a
// handshake that is under way ends soon, one way or the other (spec: behaviour 2.3).
func (c *Core) patiently(cmd *Command, ask func() protocol.Code, done func(protocol.Code)) {
	code := protocol.CodeInTransientState
	if !cmd.finished { // who gave up does not want it any more
		code = ask()
	}
	if code != protocol.CodeInTransientState || cmd.finished {
		done(code)
		return
	}
	changes := c.changes
	c.when(func() bool { return c.changes != changes || cmd.finished }, func() { c.patiently(cmd, ask, done) })
}

// finish hands a command back to the shell, once.
func (c *Core) finish(cmd *Command, err error) {
	if cmd == nil || cmd.finished {
		return
	}
	cmd.finished, cmd.Err = true, err
	if !cmd.internal {
		c.eff.Commands = append(c.eff.Commands, cmd)
	}
}

func (c *Core) logf(level LogLevel, vol int, format string, args ...any) {
	c.eff.Logs = append(c.eff.Logs, LogRecord{Level: level, Volume: vol, Text: fmt.Sprintf(format, args...)})
}

func (v *volume) logf(level LogLevel, format string, args ...any) {
	v.c.logf(level, v.idx, format, args...)
}

func (c *Core) event(e Event) { c.eff.Events = append(c.eff.Events, e) }

// op returns an empty operation from the free list.
func (c *Core) op() *Op {
	o := c.freeOp
	if o == nil {
		return &Op{}
	}
	c.freeOp = o.next
	*o = Op{}
	return o
}

// issue asks the shell for a disk operation.
func (c *Core) issue(o *Op) {
	v := o.vol
	o.since = c.now
	v.opsPending++
	v.ops.add(o)
	if v.cfg.DiskTimeout > 0 {
		v.limit(o)
	}
	c.eff.Ops = append(c.eff.Ops, o)
}

// OpDone reports the end of a disk operation; op.Err says how.
func (c *Core) OpDone(o *Op) {
	if o.abandoned {
		c.reclaim(o)
		c.settle()
		return
	}
	v := o.vol
	v.opsPending--
	v.ops.remove(o)
	v.unlimit(o)
	o.Sum() // if the shell has not
	c.conclude(o)
	c.settle()
}

// conclude lets whoever asked for an operation go on.
func (c *Core) conclude(o *Op) {
	done, fn := o.done, o.fn
	switch {
	case done != nil:
		done(c, o)
	case fn != nil:
		fn(o.Err)
	}
	c.recycle(o)
}

func (c *Core) recycle(o *Op) {
	o.done, o.fn, o.req, o.peer, o.epoch, o.from, o.Buf, o.IO, o.User = nil, nil, nil, nil, nil, nil, nil, nil, nil
	o.next, c.freeOp = c.freeOp, o
}
