// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"time"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// alarm wakes the core at its deadlines, and when the ResyncOrder says so, with one timer and one goroutine.
type alarm struct {
	timer *time.Timer
	at    time.Duration // guarded by Resource.mu, as armed
	armed bool
	done  chan struct{}
	kick  chan struct{} // the ResyncOrder has decided something else
}

func (a *alarm) start(r *Resource) {
	a.timer = time.NewTimer(time.Hour)
	a.timer.Stop()
	a.done = make(chan struct{})
	a.kick = make(chan struct{}, 1)
	r.wg.Go(func() { a.run(r) })
}

// set arms the timer if the core's next deadline is earlier than what it is armed
// for. A deadline that moved later costs one needless wake-up instead of a
// timer operation for every request. It is called under the lock.
func (a *alarm) set(c *core.Core, r *Resource) {
	at, ok := c.Deadline()
	if !ok || a.armed && a.at <= at {
		return
	}
	a.at, a.armed = at, true
	a.timer.Reset(max(at-r.now(), 0))
}

// off disarms the timer. It is called under the lock.
func (a *alarm) off() {
	a.armed = false
	a.timer.Stop()
}

// stop ends the goroutine.
func (a *alarm) stop() { close(a.done) }

func (a *alarm) run(r *Resource) {
	w := newWork()
	for {
		select {
		case <-a.done:
			return
		case <-a.kick:
			r.visit(w, r.obeyOrder)
			w.loop(r)
			continue
		case <-a.timer.C:
		}
		r.visit(w, func(c *core.Core) {
			a.armed = false
			if at, ok := c.Deadline(); ok && at <= r.now() {
				c.Advance(r.now())
				c.Tick()
			}
		})
		w.loop(r)
	}
}
