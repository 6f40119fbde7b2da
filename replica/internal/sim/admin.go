// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Careful administrators never make a node Primary that lacks a write, or while the
// other may be one; they may cut, crash and detach what they like. Reckless ones
// do anything, at any time, on any node.

// promote makes a node the writer.
func (r *Run) promote(n *Node) {
	r.order(n, "promote", func(c *core.Command) { n.core.Promote(c, false) }, func(err error) {
		if err == nil && r.writer == nil {
			r.writer = n
		}
		r.gaveUp(n, err)
	})
}

// gaveUp looks at what a command has done nevertheless.
func (r *Run) gaveUp(n *Node, err error) {
	if err == nil {
		return
	}
	r.after(0, func() {
		if s, up := n.State(0); up && s.Role == protocol.Primary && r.pending.over() && r.writer == nil {
			r.writer = n
		}
	})
}

// giveUp lets the administrator of a node wait for the next command a short time only.
func (r *Run) giveUp(a *rand.Rand) {
	r.any(a).patience = 1 + time.Duration(a.Int64N(int64(20*time.Millisecond)))
}

// takeOver promotes a node that has every acknowledged write: what an operator who
// knows what happened would do.
func (r *Run) takeOver(a *rand.Rand) {
	first := a.IntN(2)
	for i := range 2 {
		n := r.Nodes[(first+i)%2]
		if r.writer != nil || !r.pending.over() || !r.complete(n) || r.diverged(n) || r.doomed(n) || a.IntN(4) == 0 {
			continue
		}
		r.fault("takeover")
		r.promote(n)
		return
	}
}

// doomed reports whether a disk of a node does not answer, and is about to be given up:
// what the Primary that has gone had flushed may be in its cache only.
func (r *Run) doomed(n *Node) bool {
	for i, d := range n.disks {
		if r.cfg.Volume.DiskTimeout > 0 && (d.Frozen || n.metas[i].Frozen) {
			return true
		}
	}
	return false
}

// hand gives the Primary's role to the other node, if it may have it then.
func (r *Run) hand(a *rand.Rand, may func(other *Node) bool) {
	n := r.writer
	if n == nil || r.other(n).core == nil || !r.pending.over() {
		return
	}
	other, straight := r.other(n), a.IntN(4) > 0
	r.writer = nil
	r.order(n, "demote", func(c *core.Command) { n.core.Demote(c) }, func(err error) {
		r.gaveUp(n, err)
		r.after(0, func() {
			if err == nil && straight && other.core != nil && may(other) && r.writer == nil {
				r.promote(other)
			}
		})
	})
}

func (r *Run) switchRoles(a *rand.Rand) {
	if r.writer != nil && r.conn(r.writer) == protocol.Connected {
		r.fault("switch")
		r.hand(a, func(other *Node) bool { return r.complete(other) && !r.diverged(other) })
	}
}

// switchEarly makes the target of a resync Primary. It needs its peer for what it
// lacks.
func (r *Run) switchEarly(a *rand.Rand) {
	n := r.writer
	if n == nil || r.conn(n) != protocol.SyncSource || r.cfg.Net.Protocol != protocol.ProtocolC {
		return
	}
	r.fault("switch early")
	r.hand(a, func(other *Node) bool {
		return r.conn(other) == protocol.SyncTarget && r.complete(n)
	})
}

func (r *Run) disconnect(a *rand.Rand) {
	n, force := r.any(a), a.IntN(3) == 0
	r.try(n, "disconnect", func(c *core.Command) { n.core.Disconnect(c, 0, force) })
}

func (r *Run) connect(a *rand.Rand) {
	n := r.any(a)
	r.try(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
}

func (r *Run) detach(a *rand.Rand) {
	n, force := r.any(a), a.IntN(4) == 0
	if n.core == nil {
		return
	}
	if force && !r.cfg.Reckless && !(r.complete(r.other(n)) && !r.diverged(r.other(n)) && r.other(n).healthy()) {
		force = false
	}
	vol := a.IntN(len(n.disks))
	detach := func(c *core.Command) { n.core.Detach(c, vol, force) }
	if r.cfg.Reckless {
		r.try(n, "detach", detach)
		return
	}
	r.order(n, "detach", detach, func(error) {}) // what is good is looked at again after that
}

// leftBehind reports whether a Primary is alone, and its peer has begun a generation
// that it has not. It would take its own disk, and both had gone on from the same.
func (r *Run) leftBehind(n *Node) bool {
	s, _ := n.State(0)
	return s.Role == protocol.Primary && s.Conn < protocol.Connected && r.diverged(n)
}

func (r *Run) attach(a *rand.Rand) {
	first := a.IntN(2)
	for i := range 2 {
		n := r.Nodes[(first+i)%2]
		for v := range n.disks {
			if s, up := n.State(v); up && s.Disk == protocol.Diskless && (r.cfg.Reckless || !r.leftBehind(n)) {
				r.fault("attach")
				n.disks[v].healthy()
				n.metas[v].healthy()
				n.Attach(v, func(err error) { r.tracef("%d attach: %v", n.idx, err) })
				return
			}
		}
	}
}

func (r *Run) invalidate(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	vol := a.IntN(len(n.disks))
	if r.cfg.Reckless {
		r.story.consent[0], r.story.consent[1] = true, true
		remote := a.IntN(2) == 0
		r.try(n, fmt.Sprintf("invalidate remote=%v", remote), func(c *core.Command) {
			if remote {
				n.core.InvalidateRemote(c, vol)
			} else {
				n.core.Invalidate(c, vol)
			}
		})
		return
	}
	if n == r.writer || !r.complete(r.other(n)) || r.diverged(r.other(n)) || r.conn(n) == protocol.StandAlone {
		return
	}
	r.try(n, "invalidate", func(c *core.Command) { n.core.Invalidate(c, vol) })
}

func (r *Run) pauseSync(a *rand.Rand) {
	n, on := r.any(a), a.IntN(2) == 0
	r.try(n, "pause sync", func(c *core.Command) { n.core.PauseSync(c, 0, on) })
}

// verify compares the two disks, and sometimes repairs what differs or stops halfway.
func (r *Run) verify(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	boot, repair, stop := n.boot, a.IntN(2) == 0, a.IntN(4) == 0
	var cmd *core.Command
	r.try(n, "verify", func(c *core.Command) {
		cmd = c
		n.core.Verify(c, 0, core.VerifyOptions{Resume: a.IntN(2) == 0})
	}, func(err error) {
		if err == nil && repair && !r.cfg.Reckless {
			r.after(0, func() {
				if n.core != nil && n.boot == boot {
					r.try(n, "repair", func(c *core.Command) { n.core.Repair(c, 0) })
				}
			})
		}
	})
	if stop {
		r.after(r.delay()*10, func() {
			if n.core != nil && n.boot == boot {
				r.try(n, "stop verify", func(c *core.Command) { n.core.StopVerify(c, 0, cmd) })
			}
		})
	}
}

// suspend stops the application's requests for a while.
func (r *Run) suspend(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	boot := n.boot
	r.try(n, "suspend", func(c *core.Command) { n.core.SetSuspended(c, true) }, func(error) {
		r.after(r.delay()*10, func() {
			if n.core != nil && n.boot == boot {
				r.try(n, "resume", func(c *core.Command) { n.core.SetSuspended(c, false) })
			}
		})
	})
}

// --- reckless only

func (r *Run) outdate(a *rand.Rand) {
	n := r.any(a)
	r.try(n, "outdate", func(c *core.Command) { n.core.Outdate(c, 0) })
}

func (r *Run) promoteAny(a *rand.Rand) {
	n := r.any(a)
	r.try(n, "promote", func(c *core.Command) { n.core.Promote(c, false) })
}

func (r *Run) forceAny(a *rand.Rand) {
	n := r.any(a)
	r.story.consent[0], r.story.consent[1] = true, true
	r.try(n, "promote by force", func(c *core.Command) { n.core.Promote(c, true) })
}

func (r *Run) demoteAny(a *rand.Rand) {
	n := r.any(a)
	r.try(n, "demote", func(c *core.Command) { n.core.Demote(c) })
}

func (r *Run) discardMyData(a *rand.Rand) {
	n := r.any(a)
	r.story.consent[0], r.story.consent[1] = true, true
	r.try(n, "connect with discard-my-data", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{DiscardMyData: true}) })
}

func (r *Run) tentative(a *rand.Rand) {
	n := r.any(a)
	r.try(n, "tentative connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{Tentative: true}) })
}

func (r *Run) newGeneration(a *rand.Rand) {
	n := r.any(a)
	r.story.renamed = true
	r.try(n, "new-current-uuid", func(c *core.Command) { n.core.NewCurrentUUID(c, 0, false) })
}
