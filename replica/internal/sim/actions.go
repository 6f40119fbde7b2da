// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// action is something that may happen in a run. What it cannot do in the state it
// finds it leaves.
type action struct {
	name     string
	weight   int // with careful administrators
	reckless int // with reckless ones
	run      func(r *Run, a *rand.Rand)
}

func (a *action) weightIn(reckless bool) int {
	if reckless {
		return a.reckless
	}
	return a.weight
}

func actionNamed(table []action, name string) *action {
	for i := range table {
		if table[i].name == name {
			return &table[i]
		}
	}
	return nil
}

// allActions is the table of everything that may happen, with its weight.
func allActions() []action {
	return []action{
		// Applications.
		{"burst", 300, 260, (*Run).burst},
		{"scan", 40, 30, (*Run).scan},
		{"database", 60, 40, (*Run).database},
		{"hop", 60, 60, (*Run).hop},
		{"read", 60, 50, (*Run).readSome},
		{"flush", 20, 20, (*Run).flush},
		{"discard", 15, 15, (*Run).discard},
		// The network.
		{"cut", 35, 40, func(r *Run, a *rand.Rand) { r.fault("cut"); r.SetLink(false) }},
		{"heal", 80, 90, func(r *Run, a *rand.Rand) { r.net.healthy(); r.SetLink(true) }},
		{"flap", 6, 6, (*Run).flap},
		{"half-open", 8, 8, func(r *Run, a *rand.Rand) { r.fault("half-open"); r.net.mute[a.IntN(2)] = true }},
		{"stall", 8, 8, func(r *Run, a *rand.Rand) { r.fault("peer reads nothing"); r.net.stall(a.IntN(2), true) }},
		{"narrow", 8, 8, func(r *Run, a *rand.Rand) { r.fault("narrow link"); r.net.bytes = 1 << (8 + a.IntN(8)) }},
		{"cross", 8, 8, (*Run).cross},
		// Machines.
		{"crash", 30, 35, (*Run).crashAny},
		{"crash-writer", 20, 10, (*Run).crashWriter},
		{"fuse", 20, 20, (*Run).lightFuse},
		{"blackout", 6, 6, (*Run).blackout},
		{"shutdown", 10, 10, (*Run).shutdown},
		{"restart", 70, 70, (*Run).restart},
		{"pause", 10, 10, (*Run).pauseNode},
		{"jump", 10, 10, (*Run).jump},
		// Disks.
		{"read-errors", 6, 6, (*Run).failReads},
		{"bad-sectors", 10, 6, (*Run).badSectors},
		{"write-errors", 8, 8, (*Run).failWrites},
		{"metadata-errors", 8, 8, (*Run).failMeta},
		{"full", 4, 4, (*Run).fill},
		{"slow", 8, 8, (*Run).slow},
		{"freeze", 8, 8, (*Run).freeze},
		{"repair", 20, 20, (*Run).repair},
		// Administrators.
		{"take-over", 90, 0, (*Run).takeOver},
		{"switch", 20, 0, (*Run).switchRoles},
		{"switch-early", 30, 0, (*Run).switchEarly},
		{"disconnect", 20, 25, (*Run).disconnect},
		{"connect", 30, 50, (*Run).connect},
		{"detach", 12, 12, (*Run).detach},
		{"attach", 30, 30, (*Run).attach},
		{"invalidate", 6, 8, (*Run).invalidate},
		{"pause-sync", 10, 10, (*Run).pauseSync},
		{"verify", 10, 10, (*Run).verify},
		{"suspend", 6, 6, (*Run).suspend},
		{"outdate", 0, 10, (*Run).outdate},
		{"promote", 0, 60, (*Run).promoteAny},
		{"force", 0, 10, (*Run).forceAny},
		{"demote", 0, 40, (*Run).demoteAny},
		{"discard-my-data", 0, 12, (*Run).discardMyData},
		{"tentative", 0, 6, (*Run).tentative},
		{"new-generation", 0, 6, (*Run).newGeneration},
		// Of a focus only.
		{"march", 0, 0, (*Run).march},
		{"reread", 0, 0, (*Run).reread},
		{"crash-peer", 0, 0, (*Run).crashPeer},
		{"peer-errors", 0, 0, (*Run).failPeer},
		{"slow-peer", 0, 0, (*Run).slowPeer},
		{"slow-own", 0, 0, (*Run).slowOwn},
		// Chosen by Plan: see replaceSome.
		{"net-options", 0, 0, (*Run).netOptions},
		{"disk-options", 0, 0, (*Run).diskOptions},
		{"resize", 0, 0, (*Run).resize},
		{"give-up", 0, 0, (*Run).giveUp},
	}
}

func (r *Run) fault(name string) { r.Figures.Faults[name]++ }

func (r *Run) any(a *rand.Rand) *Node { return r.Nodes[a.IntN(2)] }

// --- network

func (r *Run) flap(a *rand.Rand) {
	r.fault("reconnect storm")
	for i := range 3 + a.IntN(8) {
		r.after(time.Duration(a.Int64N(int64(200*time.Millisecond))), func() {
			if !r.still {
				r.SetLink(i%2 == 0)
			}
		})
	}
}

func (r *Run) cross(a *rand.Rand) {
	r.fault("crossed connect")
	r.net.cross = 1 + a.IntN(3)
	r.net.cutNow(errCut)
}

// --- machines

// down lets a node go. Its power fails only if that may be survived: the other
// node has everything that was acknowledged, or what was lost is what the
// application, which goes down too, never flushed.
func (r *Run) down(n *Node, power, takeOver bool) {
	other := r.other(n)
	st, up := n.State(0)
	if !up {
		return
	}
	// One that is being demoted, too: its disk may say that it still is.
	primary := r.writer == n || !r.cfg.Reckless && (st.Role == protocol.Primary || r.writer == nil && !r.pending.over() && r.pending.n == n)
	if !r.cfg.Reckless {
		if primary && st.Disk != protocol.UpToDate && r.cfg.Net.Protocol != protocol.ProtocolC {
			return // protocols A and B promise nothing if the only disk is the peer's
		}
		safe := r.complete(other) && !r.diverged(other) && other.healthy()
		if !safe || r.cfg.Net.Protocol != protocol.ProtocolC {
			takeOver = false
		}
		if !primary {
			power = power && safe
		}
		if r.rescue == other || r.rescue == n {
			r.lose() // the node that was to take over has gone, too
		}
		if primary {
			for v := range r.books {
				r.books[v].crashed(false, r.readsOf(v))
			}
			r.writer = nil
		}
	}
	r.tracef("%d goes down, Primary: %v, power fails: %v, the other takes over: %v", n.idx, primary, power, takeOver)
	r.fault("crash")
	if power {
		r.fault("power failure")
	}
	if r.cfg.Reckless && power {
		r.void()
	}
	late := power && !primary && r.writer == nil && n.crashedPrimary()
	n.Crash(power)
	if late && !r.cfg.Reckless {
		// Its process died as the Primary, and before anybody took over its power
		// fails, too: it comes back as the source, without what was in its cache.
		r.lose()
	}
	if !primary || !power || r.cfg.Reckless {
		return
	}
	if !takeOver || !r.pending.over() {
		r.lose()
		return
	}
	// As long as nobody has taken over, the first to come back counts.
	r.rescue = other
	r.order(other, "take over", func(c *core.Command) { other.core.Promote(c, false) }, func(err error) {
		if r.rescue == other {
			r.rescue = nil
			if err != nil {
				r.lose()
			} else {
				r.writer = other
			}
		}
		r.gaveUp(other, err)
	})
}

// crashedPrimary reports whether a node's disk says that it was Primary when it went.
func (n *Node) crashedPrimary() bool {
	for v := range n.disks {
		if sb, _, err := n.super(v); err != nil || sb.Flags&(metadata.PrimaryInd|metadata.CrashedPrimary) != 0 {
			return true
		}
	}
	return false
}

// void forgets what was promised: reckless administrators do not care whose cache is
// lost.
func (r *Run) void() {
	for _, book := range r.books {
		for _, list := range book.past {
			for _, w := range list {
				w.ack = 0
			}
		}
	}
}

// lose notes that what applications did not flush may be lost.
func (r *Run) lose() {
	r.rescue = nil
	for v := range r.books {
		r.books[v].crashed(true, r.readsOf(v))
	}
}

func (r *Run) readsOf(vol int) *readHistory {
	if vol == 0 {
		return r.reads
	}
	return nil
}

// orderHolds is the oracle for the order of writes on a Secondary: what a power
// failure now would leave keeps it.
func (r *Run) orderHolds(n *Node, rng *rand.Rand) {
	st, _ := n.State(0)
	if r.unproved || r.cfg.Volumes > 1 || st.Disk != protocol.UpToDate || st.PeerDisk != protocol.UpToDate || st.Conn != protocol.Connected ||
		r.writer == nil || r.writer.core == nil {
		return
	}
	if ws, _ := r.writer.State(0); ws.Disk != protocol.UpToDate || ws.PeerDisk != protocol.UpToDate || ws.Conn != protocol.Connected {
		return
	}
	if err := r.books[0].inOrder(n.disks[0].whatIf(rng)); err != nil {
		r.failf("node %d: after a power failure: %v", n.idx, err)
	}
}

func (r *Run) crashAny(a *rand.Rand) { r.down(r.any(a), a.IntN(2) == 0, true) }

func (r *Run) crashWriter(a *rand.Rand) {
	if r.writer != nil {
		r.down(r.writer, a.IntN(2) == 0, a.IntN(3) > 0)
	}
}

// lightFuse lets a node crash after so many more effects: between any two.
func (r *Run) lightFuse(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	n.fuse = 1 + a.IntN(40)
	power := a.IntN(2) == 0
	n.fuseFn = func() {
		if !r.still {
			r.fault("crash between two effects")
			r.down(n, power, false)
		}
	}
}

// blackout takes both nodes down at once.
func (r *Run) blackout(a *rand.Rand) {
	if r.cfg.Net.Protocol != protocol.ProtocolC && !r.cfg.Reckless {
		return
	}
	if !r.cfg.Reckless && r.writer != nil {
		if st, _ := r.writer.State(0); st.Disk != protocol.UpToDate {
			return // the only good disk and what it has in its cache go together
		}
	}
	r.fault("blackout")
	r.lose()
	if r.cfg.Reckless {
		r.void()
	}
	r.writer = nil
	for _, n := range r.Nodes {
		n.Crash(true)
	}
}

// shutdown ends a node in order.
func (r *Run) shutdown(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil || r.writer == n && a.IntN(2) == 0 || !r.pending.over() {
		return
	}
	if r.writer == n {
		r.writer = nil
	}
	boot := n.boot
	r.order(n, "shutdown", func(c *core.Command) { n.core.Shutdown(c) }, func(err error) {
		r.gaveUp(n, err)
		r.after(0, func() {
			switch { // of a disk that failed the cache is lost; of the others nothing
			case n.boot != boot || r.still:
				return
			case err != nil: // nobody waits for it any more: the process ends all the same
				r.down(n, false, false)
				return
			case n.leftInOrder():
			case r.cfg.Reckless:
				r.void()
			case r.writer == nil:
				r.lose()
			}
			n.Crash(true)
		})
	})
}

// leftInOrder reports whether the last word on each disk of a node is that it was
// detached in order.
func (n *Node) leftInOrder() bool {
	for v := range n.disks {
		if sb, _, err := n.super(v); err != nil || sb.Unclean {
			return false
		}
	}
	return true
}

func (r *Run) restart(a *rand.Rand) {
	for _, n := range r.Nodes {
		if n.core != nil {
			continue
		}
		r.fault("restart")
		n.Boot()
		boot := n.boot
		r.after(time.Duration(a.Int64N(int64(40*time.Millisecond))), func() {
			if n.core != nil && n.boot == boot && !r.still {
				r.try(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
			}
		})
		return
	}
}

func (r *Run) pauseNode(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil || n.paused {
		return
	}
	r.fault("node pause")
	n.pause()
	boot := n.boot
	r.after(time.Duration(a.Int64N(int64(time.Second)<<a.IntN(5))), func() {
		if n.core != nil && n.boot == boot {
			n.resume()
		}
	})
}

func (r *Run) jump(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	r.fault("clock jump")
	n.skew += time.Duration(a.Int64N(int64(time.Minute) >> a.IntN(10)))
	n.event(func() { n.core.Tick() })
}

// --- disks

// expendable returns a disk that may fail: the other node has everything.
func (r *Run) expendable(a *rand.Rand) (*Node, int, bool) {
	n := r.any(a)
	vol := a.IntN(len(n.disks))
	if n.core == nil || !r.cfg.Reckless && (!r.complete(r.other(n)) || !r.other(n).healthy() || r.diverged(r.other(n))) {
		return n, vol, false
	}
	return n, vol, true
}

func (r *Run) failReads(a *rand.Rand) {
	if n, vol, ok := r.expendable(a); ok {
		r.fault("read errors")
		n.disks[vol].FailReads = true
	}
}

func (r *Run) badSectors(a *rand.Rand) {
	if n, vol, ok := r.expendable(a); ok {
		r.fault("bad sectors")
		for range 1 + a.IntN(4) {
			n.disks[vol].latent[a.Int64N(128)] = struct{}{}
		}
	}
}

func (r *Run) failWrites(a *rand.Rand) {
	if n, vol, ok := r.expendable(a); ok {
		r.fault("write errors")
		n.disks[vol].FailWrites = true
	}
}

func (r *Run) failMeta(a *rand.Rand) {
	if n, vol, ok := r.expendable(a); ok {
		r.fault("metadata errors")
		n.metas[vol].FailMeta = true
	}
}

func (r *Run) fill(a *rand.Rand) {
	if n, vol, ok := r.expendable(a); ok {
		r.fault("disk full")
		n.disks[vol].Full = true
	}
}

func (r *Run) slow(a *rand.Rand) {
	n := r.any(a)
	r.fault("slow disk")
	n.disks[a.IntN(len(n.disks))].Slow = 2 << a.IntN(6)
}

func (r *Run) freeze(a *rand.Rand) {
	if r.cfg.Volume.DiskTimeout > 0 { // it may fail over this
		if n, vol, ok := r.expendable(a); ok {
			r.freezeDisk(n.disks[vol], a)
		}
		return
	}
	n := r.any(a)
	r.freezeDisk(n.disks[a.IntN(len(n.disks))], a)
}

func (r *Run) freezeDisk(d *Disk, a *rand.Rand) {
	r.fault("frozen disk")
	d.Frozen = true
	r.after(time.Duration(a.Int64N(int64(time.Second)<<a.IntN(7))), d.thaw)
}

func (r *Run) repair(*rand.Rand) {
	for _, n := range r.Nodes {
		for i, d := range n.disks {
			d.healthy()
			n.metas[i].healthy()
		}
	}
}
