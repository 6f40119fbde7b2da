// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"cmp"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// settle stops all faults: both nodes must come together, equal, with every
// acknowledged write, and every request answered.
func (r *Run) settle() {
	r.tracef("--- faults end")
	r.still = true
	for _, n := range r.Nodes {
		for i, d := range n.disks {
			for _, x := range []*Disk{d, n.metas[i]} {
				x.healthy()
				x.thaw()
			}
		}
		n.fuse, n.patience = 0, 0
		if n.paused {
			n.resume()
		}
		if n.core == nil {
			n.Boot()
		}
	}
	r.net.healthy()
	r.SetLink(true)
	r.Run(50 * time.Millisecond)
	for _, n := range r.Nodes {
		r.try(n, "resume", func(c *core.Command) { n.core.SetSuspended(c, false) })
	}
	began, last := r.now, r.now
	var tick func()
	tick = func() { r.after(time.Second, tick) } // so that the condition is looked at
	tick()
	r.Until("both UpToDate", 30*time.Minute+2*r.fullSync(), func() bool {
		if r.now-last > time.Second {
			last = r.now
			r.progress()
			r.operate(r.now - began)
		}
		return r.inSync() && r.answered() || r.unrelated(r.now-began)
	})
	if r.failure != nil || !r.inSync() {
		return
	}
	r.look(0)
	r.equal()
	for v := range r.books {
		if a, b := r.Nodes[0].core.Size(v), r.Nodes[1].core.Size(v); a != b {
			r.failf("volume %d has %d sectors on node 0 and %d on node 1", v, a, b)
		}
	}
	if r.cfg.Reckless || r.unproved {
		return
	}
	for v, book := range r.books {
		if err := book.checkAll(r.Nodes[0].disks[v], r.Nodes[0].core.Size(v)); err != nil {
			r.failf("volume %d: %v", v, err)
		}
	}
	if s, bad := r.reads.check(); bad {
		r.failf("what was read of sector %d no order of the operations explains", s)
	}
}

// marks reports whether a node that is up has blocks marked.
func (r *Run) marks(vol int) bool {
	for _, n := range r.Nodes {
		if n.core != nil && n.core.Snapshot().Volumes[vol].OutOfSync > 0 {
			return true
		}
	}
	return false
}

// answered reports that no node owes an answer to an application or an administrator.
func (r *Run) answered() bool {
	return len(r.Nodes[0].ios)+len(r.Nodes[1].ios)+len(r.Nodes[0].cmds)+len(r.Nodes[1].cmds) == 0
}

// operate does once a second what an administrator does who wants the pair to work.
func (r *Run) operate(since time.Duration) {
	for _, n := range r.Nodes {
		if n.core == nil { // a shutdown was still under way
			n.Boot()
		}
		for v := range n.disks {
			st, _ := n.State(v)
			if st.Disk == protocol.Diskless && (r.cfg.Reckless || !r.leftBehind(n)) && (!r.stuck(since) || st.Conn == protocol.StandAlone) {
				n.Attach(v, func(err error) { r.tracef("%d attach: %v", n.idx, err) })
			}
			if st.Conn == protocol.Connected && st.Disk == protocol.UpToDate && st.PeerDisk == protocol.UpToDate && since > time.Minute &&
				st.Role == protocol.Secondary && r.marks(v) {
				// Marks of a resync that ended, whose removal a power failure undid:
				// the identifiers say that there is nothing to copy.
				if r.answered() && r.quiet() {
					r.equal()
				}
				r.try(n, "stale marks", func(c *core.Command) { n.core.Invalidate(c, v) })
			}
			if r.cfg.Volume.DetachOnIO == core.IOPassOn && st.Conn == protocol.Connected && st.Disk == protocol.Inconsistent && since > time.Minute {
				if st.PeerDisk == protocol.Inconsistent && since > 2*time.Minute {
					r.declare(n, st)
					continue
				}
				// It has passed on an error: what is marked is copied when they meet again.
				r.try(n, "operator disconnects", func(c *core.Command) { n.core.Disconnect(c, 0, true) })
			}
			if st.UserISP {
				r.try(n, "resume", func(c *core.Command) { n.core.PauseSync(c, v, false) })
			}
		}
		st, _ := n.State(0)
		alone := st.Conn <= protocol.WFConnection
		if st.Role == protocol.Primary && (alone || n.noGoodData()) && since > 2*time.Minute {
			// A Primary whose peer has gone on without it is refused, and keeps
			// what it has; so does one whose disk cannot be attached while it is
			// Primary (rule 41), beside a peer that has nothing good: an operator looks
			// at it and demotes it. What was acknowledged is checked all the same.
			r.try(n, "operator demotes", func(c *core.Command) { n.core.Demote(c) })
		}
		if st.Conn == protocol.StandAlone && since > 20*time.Second {
			r.adjust(n)
			r.unsize()
		}
		if st.Conn == protocol.StandAlone && !r.stuck(since) {
			// The operator knows which disk did not answer. What was acknowledged is checked at the end.
			victim := n.orphan != 0 && (n.idx == 0 || r.other(n).orphan == 0)
			r.try(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{DiscardMyData: victim}) })
		}
	}
	if r.cfg.Reckless && r.stuck(since) {
		r.decide(since)
	}
}

// declare: with pass_on both disks have failed a write before either node knew of the
// other's, and neither has all that was acknowledged. That is a state that lasts until
// somebody says whose data it is to be: the Primary's.
func (r *Run) declare(n *Node, st protocol.State) {
	if st.Role != protocol.Primary && (st.Peer == protocol.Primary || n.idx != 0) {
		return
	}
	r.fault("both disks passed on an error")
	r.unproved = true
	r.story.consent = [2]bool{true, true}
	r.try(n, "promote by force", func(c *core.Command) { n.core.Promote(c, true) })
}

// unrelated: the two nodes have gone their own ways for so many generations that they
// do not know each other any more. That is a state that lasts: one of them needs new
// metadata.
func (r *Run) unrelated(since time.Duration) bool {
	if !r.stuck(since) {
		return false
	}
	for v := range r.books {
		a, b := r.Nodes[0], r.Nodes[1]
		if a.core == nil || b.core == nil {
			return false
		}
		d, e := a.core.Snapshot().Volumes[v].Last, b.core.Snapshot().Volumes[v].Last
		if d != nil && e != nil && d.Verdict.Outcome == metadata.Unrelated && e.Verdict.Outcome == metadata.Unrelated &&
			r.conn(a) == protocol.StandAlone && r.conn(b) == protocol.StandAlone && r.answered() {
			r.fault("unrelated in the end")
			return true
		}
	}
	return false
}

// fullSync is how long a full resync of all volumes takes at the rate of the script, one
// after the other. On a long line few buffers allow less: half of them come and go in the
// time of ten ways.
func (r *Run) fullSync() time.Duration {
	rate := cmp.Or(r.cfg.Volume.ResyncRate, 250)
	if n := r.cfg.Net.MaxBuffers; n > 0 && r.cfg.Delay > 0 {
		rate = min(rate, max(1, uint32(float64(n/2*4)/(10*r.cfg.Delay).Seconds())))
	}
	return time.Duration(r.cfg.Volumes) * time.Duration(r.cfg.DiskBytes/1024/int64(rate)) * time.Second
}

// progress notes when a resync came closer to its end.
func (r *Run) progress() {
	left := uint64(0)
	for _, n := range r.Nodes {
		if n.core == nil {
			continue
		}
		for _, v := range n.core.Snapshot().Volumes {
			if v.State.Conn == protocol.SyncTarget {
				left += v.OutOfSync
			}
		}
	}
	if left < r.left && left > 0 {
		r.moved = r.now
	}
	r.left = left
}

// stuck: reckless administrators have left a mess that only an administrator clears.
func (r *Run) stuck(since time.Duration) bool {
	return r.cfg.Reckless && since > 4*time.Minute && r.now-r.moved > 10*time.Second
}

// noGoodData reports whether a volume has no disk, and its peer has no good one.
func (n *Node) noGoodData() bool {
	for v := range n.disks {
		if s, _ := n.State(v); s.Disk < protocol.Inconsistent && s.PeerDisk < protocol.UpToDate {
			return true
		}
	}
	return false
}

func (n *Node) allUpToDate() bool {
	for v := range n.disks {
		if s, _ := n.State(v); s.Disk != protocol.UpToDate {
			return false
		}
	}
	return true
}

// decide ends what is left as the manual has it, once a minute and for each node in
// turn: apart, with their disks, and together again, one node's changes gone.
func (r *Run) decide(since time.Duration) {
	victim := r.Nodes[int(since/time.Minute)%2]
	survivor := r.other(victim)
	r.story.consent = [2]bool{true, true}
	for _, n := range r.Nodes {
		st, _ := n.State(0)
		switch sec := since % time.Minute / time.Second; {
		case sec < 3 && st.Role == protocol.Primary:
			r.try(n, "operator demotes", func(c *core.Command) { n.core.Demote(c) })
		case sec >= 5 && sec < 8 && st.Conn != protocol.StandAlone:
			r.try(n, "operator disconnects", func(c *core.Command) { n.core.Disconnect(c, 0, true) })
		case sec >= 20 && sec < 23 && n == survivor && since > 10*time.Minute && !n.allUpToDate() && st.Role == protocol.Secondary:
			// No good data anywhere: somebody has to say which is.
			r.try(n, "promote by force", func(c *core.Command) { n.core.Promote(c, true) })
		case sec >= 30 && st.Conn == protocol.StandAlone:
			r.try(n, "connect", func(c *core.Command) {
				n.core.Connect(c, 0, core.ConnectOptions{DiscardMyData: n == victim})
			})
		}
	}
}
