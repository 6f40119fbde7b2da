// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "time"

// timer is one deadline. The zero value is off.
type timer struct {
	at  time.Duration
	set bool
}

func (t *timer) arm(at time.Duration) { t.at, t.set = at, true }
func (t *timer) stop()                { t.set = false }

// due reports whether t fires now, and turns it off if so.
func (t *timer) due(now time.Duration) bool {
	if !t.set || now < t.at {
		return false
	}
	t.set = false
	return true
}

// earliest keeps the smaller of two deadlines.
func (t timer) earliest(o timer) timer {
	if !t.set || (o.set && o.at < t.at) {
		return o
	}
	return t
}

// Deadline returns when Tick wants to be called next.
func (c *Core) Deadline() (at time.Duration, ok bool) {
	t := c.suspTimer.earliest(c.arbiterTimer)
	for _, p := range c.peers {
		t = t.earliest(p.handshakeTimer).earliest(p.pingTimer).earliest(p.requestTimer()).earliest(p.retryTimer).earliest(p.acksTimer)
	}
	for _, v := range c.vols {
		t = t.earliest(v.diskTimer())
		for _, pd := range v.pds {
			t = t.earliest(pd.resync.timer).earliest(pd.resync.lazy).earliest(pd.resync.delay).earliest(pd.aheadTimer).earliest(pd.verify.timer)
		}
	}
	return t.at, t.set
}

// Tick lets due timers fire. Call it when Deadline has passed, after Advance.
func (c *Core) Tick() {
	if c.suspTimer.due(c.now) {
		c.failSuspended(ErrSuspended)
	}
	if c.arbiterTimer.due(c.now) {
		c.askAgain()
	}
	for _, p := range c.peers {
		if p.handshakeTimer.due(c.now) {
			p.handshakeTimedOut()
		}
		if p.pingTimer.due(c.now) {
			p.pingDue()
		}
		if t := p.requestTimer(); t.set && c.now >= t.at {
			p.requestTimedOut()
		}
		if p.retryTimer.due(c.now) {
			p.retryConnect()
		}
		if p.acksTimer.due(c.now) {
			p.acksTimedOut()
		}
	}
	for _, v := range c.vols {
		v.checkDisk()
		for _, pd := range v.pds {
			if pd.resync.timer.due(c.now) {
				pd.resyncTick()
			}
			if pd.aheadTimer.due(c.now) {
				pd.fallBack()
			}
			if pd.resync.delay.due(c.now) {
				pd.serveDelayed()
			}
			if pd.resync.lazy.due(c.now) {
				pd.writeLazily()
			}
			if pd.verify.timer.due(c.now) {
				pd.verifyTick()
			}
		}
	}
	c.settle()
}
