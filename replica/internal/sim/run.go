// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Run plays a script: random writes under faults and administrators' commands, with
// all oracles watching.
type Run struct {
	*Cluster
	script   Script
	table    []action
	ids      uint64
	books    []*ledger // by volume
	reads    *readHistory
	story    *story
	writer   *Node         // the Primary that applications use, nil while there is none
	pending  *job          // what the administrator waits for
	rescue   *Node         // that is to take over from a Primary whose power failed
	still    bool          // the script is over: no more faults
	unproved bool          // protocol A or B, and what was acknowledged may be gone: contents prove nothing any more
	left     uint64        // blocks out of sync on both nodes while a run settles
	moved    time.Duration // when they were last seen to become fewer
	Figures  Figures
}

// job is a command that an administrator waits for.
type job struct {
	n    *Node
	boot int
	done bool
}

func (j *job) over() bool { return j == nil || j.done || j.n.core == nil || j.n.boot != j.boot }

// NewRun sets a script up.
func NewRun(s Script, trace bool) *Run {
	opt := s.Options
	opt.Trace = trace
	if change := families[opt.Family]; change != nil {
		change(&opt)
	}
	r := &Run{Cluster: New(s.Seed, opt), script: s, table: allActions(), Figures: Figures{Runs: 1, Faults: map[string]int{}}}
	r.reads = newReadHistory(func() time.Duration { return r.now })
	r.story = newStory(r)
	r.observer = r.story
	for range opt.Volumes {
		r.books = append(r.books, newLedger(&r.ids))
	}
	return r
}

// Play runs the whole script and returns what went wrong, or nil. A panic is a
// failure as any other.
func Play(s Script, trace bool) (r *Run, err error) {
	r = NewRun(s, trace)
	defer func() {
		if p := recover(); p != nil {
			r.tracef("%s", debug.Stack())
			r.failf("panic: %v", p)
			err = r.failure
		}
		r.Figures.Steps, r.Figures.Virtual = r.Cluster.Steps, r.now
	}()
	r.begin()
	for _, a := range s.Actions {
		if r.failure != nil {
			return r, r.failure
		}
		r.Run(a.Gap)
		r.act(a)
		r.look(a.Arg)
	}
	if r.failure == nil {
		r.settle()
	}
	return r, r.failure
}

// begin brings up a connected pair with one Primary.
func (r *Run) begin() {
	for _, n := range r.Nodes {
		n.Boot()
	}
	r.Until("attached", time.Minute, func() bool { return len(r.Nodes[0].cmds)+len(r.Nodes[1].cmds) == 0 })
	for _, n := range r.Nodes {
		r.must(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
	}
	r.Until("first connection", time.Minute, r.connected)
	if r.failure != nil {
		return
	}
	first := r.Nodes[r.rng.IntN(2)]
	if r.cfg.Skip {
		for v := range first.disks {
			r.must(first, "skip the initial sync", func(c *core.Command) { first.core.NewCurrentUUID(c, v, true) })
		}
		r.Until("skipped", time.Minute, r.bothUpToDate)
	}
	if r.failure == nil {
		r.must(first, "promote", func(c *core.Command) { first.core.Promote(c, true) })
		r.writer = first
	}
}

// must runs a command that has to succeed in bounded time.
func (r *Run) must(n *Node, what string, run func(*core.Command)) {
	done := false
	n.Command(run, func(err error) {
		done = true
		if err != nil {
			r.failf("node %d: %s: %v", n.idx, what, err)
		}
	})
	r.Until(what, 5*time.Minute, func() bool { return done })
}

// try runs a command that may be refused, and does not wait.
func (r *Run) try(n *Node, what string, run func(*core.Command), then ...func(error)) {
	if n.core == nil {
		return
	}
	r.Figures.Faults[what]++
	r.tracef("%d try %s", n.idx, what)
	n.Command(run, func(err error) {
		r.tracef("%d %s: %v", n.idx, what, err)
		for _, fn := range then {
			fn(err)
		}
	})
}

// order is try for what an administrator waits for before he does anything else
// about roles.
func (r *Run) order(n *Node, what string, run func(*core.Command), then func(error)) {
	if n.core == nil || !r.pending.over() {
		return
	}
	j := &job{n: n, boot: n.boot}
	r.pending = j
	r.try(n, what, run, func(err error) { j.done = true; then(err) })
}

func (r *Run) act(a Action) {
	k := actionNamed(r.table, a.Name)
	if k == nil {
		r.failf("no such action: %s", a.Name)
		return
	}
	if r.writer != nil && r.writer.core == nil {
		r.writer = nil
	}
	r.tracef("--- %s %d", a.Name, a.Arg)
	k.run(r, rand.New(rand.NewPCG(a.Arg, 0x616374)))
}

// look runs the oracles that look at everything.
func (r *Run) look(arg uint64) {
	rng := rand.New(rand.NewPCG(arg, 0x6c6f6f6b))
	if r.failure == nil {
		r.covered(rng)
	}
	if r.failure == nil && r.writer != nil && !r.cfg.Reckless && rng.IntN(3) == 0 {
		r.orderHolds(r.other(r.writer), rng)
	}
	if r.failure == nil && r.quiet() {
		r.equal()
	}
}

// connected reports whether every volume of both nodes is.
func (r *Run) connected() bool {
	for _, n := range r.Nodes {
		for i := range n.disks {
			if s, _ := n.State(i); s.Conn != protocol.Connected {
				return false
			}
		}
	}
	return true
}

func (r *Run) conn(n *Node) protocol.ConnState {
	s, _ := n.State(0)
	return s.Conn
}

func (r *Run) other(n *Node) *Node { return r.Nodes[1-n.idx] }

// complete reports whether the node's disks hold every acknowledged write.
func (r *Run) complete(n *Node) bool {
	if n.core == nil || n.paused {
		return false
	}
	for i, v := range n.core.Snapshot().Volumes {
		if v.State.Disk != protocol.UpToDate || r.books[i].checkDisk(n.disks[i]) != nil {
			return false
		}
	}
	return true
}

// healthy reports whether the node's disks work.
func (n *Node) healthy() bool {
	for i, d := range n.disks {
		for _, x := range []*Disk{d, n.metas[i]} {
			if x.FailReads || x.FailWrites || x.FailMeta || x.Frozen || x.Full || len(x.latent) > 0 {
				return false
			}
		}
	}
	return true
}

// generations are a volume's identifiers, in memory or on the disk of a node that is
// down.
func (n *Node) generations(vol int) metadata.GenerationIDs {
	if n.core != nil {
		if s, _ := n.State(vol); s.Disk > protocol.Attaching {
			return n.core.IDs(vol)
		}
	}
	sb, _, err := n.super(vol)
	if err != nil {
		n.c.failf("node %d: %v", n.idx, err)
	}
	return metadata.GenerationIDs{Current: sb.Current, Bitmap: sb.Bitmap, History: [2]metadata.UUID{sb.History[0], sb.History[1]}}
}

// diverged reports whether the other node has begun a generation that n does not
// know: to promote n then would be a split brain by definition, even if no write was
// acknowledged over there.
func (r *Run) diverged(n *Node) bool {
	for i := range n.disks {
		if o := r.other(n); o.core != nil && o.core.Snapshot().Volumes[i].Hung > 0 {
			return true // its superblock may be among what the disk has yet to write
		}
		verdict := metadata.Compare(metadata.CompareInput{Own: metadata.Side{IDs: n.generations(i)},
			Peer: metadata.Side{IDs: r.other(n).generations(i)}, Version: 101, Features: 15})
		if verdict.Outcome != metadata.NoSync && !verdict.Outcome.IsSource() {
			return true
		}
	}
	return false
}

// inSync reports that both nodes say: equal.
func (r *Run) inSync() bool {
	if !r.quiet() {
		return false
	}
	for vol := range r.books {
		if r.marks(vol) {
			return false
		}
	}
	return true
}

// quiet reports that both nodes say UpToDate, and that nothing is under way. They are equal
// then: nobody is about to copy blocks that are marked all the same.
func (r *Run) quiet() bool {
	for _, n := range r.Nodes {
		if n.core == nil || n.paused {
			return false
		}
		for i, v := range n.core.Snapshot().Volumes {
			s := v.State
			if s.Conn != protocol.Connected || s.Disk != protocol.UpToDate || s.PeerDisk != protocol.UpToDate ||
				v.Pending != 0 || v.Unacked != 0 || v.AppPending != 0 || v.LocalPending != 0 {
				return false
			}
			busy := false
			n.core.Unsettled(i, func(uint64, uint64) { busy = true })
			if busy {
				return false
			}
		}
	}
	return true
}

// equal is the oracle for two nodes that say so: byte by byte.
func (r *Run) equal() {
	for i := range r.books {
		size := min(r.Nodes[0].core.Size(i), r.Nodes[1].core.Size(i)) * sectorBytes
		a, b := &r.Nodes[0].disks[i].current, &r.Nodes[1].disks[i].current
		a.differ(b, int64(size), sectorBytes, func(off int64) bool {
			r.failf("both nodes are UpToDate, but volume %d differs at sector %d", i, off/sectorBytes)
			return false
		})
	}
}

// Report says what is needed to look at a failure: how to play it again.
func Report(s Script, err error) string {
	with := ""
	if s.Options.Family != "" {
		with = " -family " + s.Options.Family
	}
	if s.Focus != "" {
		with += fmt.Sprintf(" -plan %q", s.Focus)
	}
	return fmt.Sprintf("%v\nreplay: go run ./replica/internal/sim/cmd/soak%s -seed %d -trace", err, with, s.Seed)
}
