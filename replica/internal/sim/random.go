// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Random is a run of random writes under random cuts, crashes and commands.
type Random struct {
	*Cluster
	o      *oracle
	live   map[*write]struct{}
	writer *Node // the Primary, nil while there is none
	Faults map[string]int
	Writes int
	Reads  int
}

// NewRandom sets a pair of nodes up: connected, node 0 Primary, first sync under way
// or done.
func NewRandom(seed uint64, opt Options) *Random {
	return &Random{Cluster: New(seed, opt), o: newOracle(), live: map[*write]struct{}{}, Faults: map[string]int{}}
}

// Play runs the whole scenario and returns what went wrong, or nil.
func (r *Random) Play(steps int) error {
	for _, n := range r.Nodes {
		n.Boot()
	}
	r.Run(100 * time.Millisecond)
	for _, n := range r.Nodes {
		r.do(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
	}
	r.Until("first connection", time.Minute, r.connected)
	if r.failure != nil {
		return r.failure
	}
	first := r.Nodes[r.rng.IntN(2)]
	if v := r.cfg.Net.MaxVersion; r.rng.IntN(2) == 0 && (v == 0 || v >= 90) {
		for v := range first.disks {
			r.do(first, "skip the initial sync", func(c *core.Command) { first.core.NewCurrentUUID(c, v, true) })
		}
		r.Run(100 * time.Millisecond)
	}
	r.promote(first, true)
	for range steps {
		if r.failure != nil {
			return r.failure
		}
		r.step()
		r.Run(time.Duration(r.rng.Int64N(int64(20 * time.Millisecond))))
	}
	r.settle()
	return r.failure
}

// do runs a command that has to succeed in bounded time.
func (r *Random) do(n *Node, what string, run func(*core.Command)) {
	done, boot := false, n.boot
	n.Command(run, func(err error) {
		done = true
		if err != nil {
			r.failf("node %d: %s: %v", n.idx, what, err)
		}
	})
	r.Until(what, time.Minute, func() bool { return done || n.core == nil || n.boot != boot })
}

// try runs a command that may be refused, and does not wait.
func (r *Random) try(n *Node, what string, run func(*core.Command)) {
	r.tracef("%d try %s", n.idx, what)
	n.Command(run, func(err error) { r.tracef("%d %s: %v", n.idx, what, err) })
}

// connected reports whether every volume of both nodes is.
func (r *Random) connected() bool {
	for _, n := range r.Nodes {
		for i := range n.disks {
			if s, _ := n.State(i); s.Conn != protocol.Connected {
				return false
			}
		}
	}
	return true
}

func (r *Random) conn(n *Node) protocol.ConnState {
	s, _ := n.State(0)
	return s.Conn
}

func (r *Random) promote(n *Node, force bool) {
	r.do(n, "promote", func(c *core.Command) { n.core.Promote(c, force) })
	if n.core != nil && r.failure == nil {
		r.writer = n
	}
}

// step does one random thing.
func (r *Random) step() {
	if r.writer != nil && r.writer.core == nil {
		r.writer = nil
	}
	if r.writer == nil {
		r.findWriter()
	}
	k := r.rng.IntN(100)
	switch {
	case k < 70:
		for range 1 + r.rng.IntN(8) {
			if r.rng.IntN(8) == 0 {
				r.read()
			} else {
				r.write()
			}
		}
	case k < 74:
		r.Faults["cut"]++
		r.SetLink(false)
	case k < 82:
		r.SetLink(true)
	case k < 84:
		r.crash(r.Nodes[r.rng.IntN(2)])
	case k < 86 && r.writer != nil:
		r.crash(r.writer)
	case k < 90:
		for _, n := range r.Nodes {
			if n.core == nil {
				r.restart(n)
				return
			}
		}
	case k < 92:
		r.switchRoles()
	case k < 94:
		n := r.Nodes[r.rng.IntN(2)]
		r.Faults["disconnect"]++
		r.try(n, "disconnect", func(c *core.Command) { n.core.Disconnect(c, 0, r.rng.IntN(3) == 0) })
	case k < 97:
		n := r.Nodes[r.rng.IntN(2)]
		r.try(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
	case k < 98 && r.rng.IntN(2) == 0:
		r.disturbDisk()
	case k < 98:
		n := r.Nodes[r.rng.IntN(2)]
		on := r.rng.IntN(2) == 0
		r.try(n, fmt.Sprintf("pause %v", on), func(c *core.Command) { n.core.PauseSync(c, 0, on) })
	default:
		r.flush()
	}
}

// crash takes a node down. Its power fails only if the other node has everything that
// was acknowledged: what an application has not flushed a lone disk may lose. Where
// that was the Primary the survivor takes over at once. (If the crashed Primary came
// back first it would be the source, as DRBD has it, without what its cache lost.)
func (r *Random) crash(n *Node) {
	other := r.Nodes[1-n.idx]
	if n.core == nil || other.core == nil {
		return
	}
	if st, _ := n.State(0); r.writer == n && st.Disk != protocol.UpToDate && r.cfg.Net.Protocol != protocol.ProtocolC {
		return // protocols A and B promise nothing if the only disk is the peer's
	}
	power := r.complete(other) && !r.diverged(other)
	for _, d := range other.disks {
		power = power && !d.FailWrites && !d.FailMeta // one fault at a time
	}
	primary := r.writer == n
	r.Faults["crash"]++
	if power {
		r.Faults["power failure"]++
	}
	if primary {
		clear(r.live)
		r.writer = nil
	}
	n.Crash(power)
	if power && primary {
		r.promote(other, false)
	}
}

func (r *Random) restart(n *Node) {
	r.Faults["restart"]++
	n.Boot()
	boot := n.boot
	r.after(20*time.Millisecond, func() {
		if n.core != nil && n.boot == boot {
			r.try(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
		}
	})
}

// findWriter promotes a node that has every acknowledged write: what an operator
// who knows what happened would do.
func (r *Random) findWriter() {
	first := r.rng.IntN(2)
	for i := range 2 {
		n := r.Nodes[(first+i)%2]
		if !r.complete(n) || r.diverged(n) || r.rng.IntN(3) == 0 {
			continue
		}
		r.Faults["takeover"]++
		done := false
		n.Command(func(c *core.Command) { n.core.Promote(c, false) }, func(err error) {
			done = true
			if err == nil && r.writer == nil {
				r.writer = n
			}
		})
		boot := n.boot
		r.Until("takeover", time.Minute, func() bool { return done || n.core == nil || n.boot != boot })
		return
	}
}

// diverged reports whether the other node has begun a generation that n does not
// know: to promote n then would be a split brain by definition, even if no write was
// acknowledged over there.
func (r *Random) diverged(n *Node) bool {
	other := r.Nodes[1-n.idx]
	for i, v := range n.core.Snapshot().Volumes {
		var ids metadata.GenerationIDs
		if other.core != nil {
			ids = other.core.Snapshot().Volumes[i].IDs
		} else {
			sb, _, err := metadata.Read(other.disks[i], metadata.Internal(), other.disks[i].Size())
			if err != nil {
				r.failf("node %d: %v", other.idx, err)
				return true
			}
			ids = metadata.GenerationIDs{Current: sb.Current, Bitmap: sb.Bitmap, History: [2]metadata.UUID{sb.History[0], sb.History[1]}}
		}
		verdict := metadata.Compare(metadata.CompareInput{Own: metadata.Side{IDs: v.IDs}, Peer: metadata.Side{IDs: ids},
			Version: 101, Features: 15})
		if verdict.Outcome != metadata.NoSync && !verdict.Outcome.IsSource() {
			return true
		}
	}
	return false
}

// complete reports whether the node's disks hold every acknowledged write.
func (r *Random) complete(n *Node) bool {
	if n.core == nil {
		return false
	}
	s := n.core.Snapshot()
	for i, v := range s.Volumes {
		if v.State.Disk != protocol.UpToDate || i == 0 && r.o.checkDisk(n.disks[0].current, v.Size) != nil {
			return false
		}
	}
	return true
}

func (r *Random) switchRoles() {
	n := r.writer
	if n == nil || r.Nodes[1-n.idx].core == nil || r.conn(n) != protocol.Connected {
		return
	}
	r.Faults["switch"]++
	other, boot := r.Nodes[1-n.idx], n.boot
	r.writer = nil
	done, good := false, false
	n.Command(func(c *core.Command) { n.core.Demote(c) }, func(err error) { done, good = true, err == nil })
	r.Until("demote", 2*time.Minute, func() bool { return done || n.core == nil || n.boot != boot })
	if !good || other.core == nil || !r.complete(other) || r.diverged(other) {
		return
	}
	done, boot = false, other.boot
	other.Command(func(c *core.Command) { other.core.Promote(c, false) }, func(err error) {
		done = true
		if err == nil {
			r.writer = other
		}
	})
	r.Until("promote after a switch", 2*time.Minute, func() bool { return done || other.core == nil || other.boot != boot })
}

// write submits one write, zero or discard somewhere, often overlapping others.
func (r *Random) write() {
	n := r.writer
	if n == nil || n.core == nil {
		return
	}
	size := n.core.Snapshot().Volumes[0].Size
	if size < 512 {
		return
	}
	length := uint64(1 + r.rng.IntN(16))
	if r.rng.IntN(10) == 0 {
		length = uint64(1 + r.rng.IntN(256))
	}
	from := r.rng.Uint64N(size - length)
	if r.rng.IntN(3) == 0 {
		from = r.rng.Uint64N(64) // a hot spot
	}
	kind := core.IOWrite
	if r.rng.IntN(20) == 0 {
		kind = core.IOZero
	}
	w, data := r.o.begin(from, from+length, kind == core.IOZero)
	r.live[w] = struct{}{}
	r.Writes++
	io := &core.IO{Kind: kind, Off: int64(from) * sectorBytes, Len: int64(length) * sectorBytes, Buf: data, FUA: r.rng.IntN(10) == 0}
	r.tracef("%d write %d: sectors %d to %d", n.idx, w.id, w.from, w.to)
	n.IO(io, func(err error) {
		r.tracef("%d write %d: %v", n.idx, w.id, err)
		delete(r.live, w)
		if err == nil {
			r.o.done(w, r.live)
		}
	})
}

// read checks what the application sees: the last acknowledged write, or one that is
// under way.
func (r *Random) read() {
	n := r.writer
	if n == nil || n.core == nil {
		return
	}
	size := n.core.Snapshot().Volumes[0].Size
	if size < 64 {
		return
	}
	length := uint64(1 + r.rng.IntN(32))
	from := r.rng.Uint64N(size - length)
	// What was acknowledged or under way when the read began, or has been
	// submitted since, it may see.
	began := r.o.next
	before := map[uint64]map[uint64]bool{}
	for s := from; s < from+length; s++ {
		before[s] = map[uint64]bool{r.o.acked[s]: true}
		for _, w := range r.o.maybe[s] {
			before[s][w.content()] = true
		}
	}
	r.Reads++
	io := &core.IO{Kind: core.IORead, Off: int64(from) * sectorBytes, Len: int64(length) * sectorBytes, Buf: make([]byte, length*sectorBytes)}
	n.IO(io, func(err error) {
		if err != nil {
			return
		}
		for s := from; s < from+length; s++ {
			b := io.Buf[(s-from)*sectorBytes:][:sectorBytes]
			if id := binary.BigEndian.Uint64(b); before[s][id] || id > began {
				continue
			}
			if err := r.o.check(s, b); err != nil {
				r.failf("node %d reads: %v", n.idx, err)
			}
		}
	})
}

// disturbDisk detaches, attaches or invalidates a disk, or lets it fail for a while.
func (r *Random) disturbDisk() {
	n := r.Nodes[r.rng.IntN(2)]
	if n.core == nil {
		return
	}
	vol := r.rng.IntN(len(n.disks))
	s, _ := n.State(vol)
	switch k := r.rng.IntN(6); {
	case s.Disk == protocol.Diskless:
		r.Faults["attach"]++
		n.disks[vol].FailWrites, n.disks[vol].FailMeta = false, false
		n.Attach(vol, func(err error) { r.tracef("%d attach: %v", n.idx, err) })
	case k < 2:
		r.Faults["detach"]++
		r.try(n, "detach", func(c *core.Command) { n.core.Detach(c, vol, r.rng.IntN(4) == 0) })
	case k == 2 && n != r.writer && r.complete(r.Nodes[1-n.idx]):
		r.Faults["invalidate"]++
		r.try(n, "invalidate", func(c *core.Command) { n.core.Invalidate(c, vol) })
	case k == 3 && r.complete(r.Nodes[1-n.idx]):
		r.Faults["write error"]++
		n.disks[vol].FailWrites = true
	case k == 4 && r.complete(r.Nodes[1-n.idx]):
		r.Faults["metadata error"]++
		n.disks[vol].FailMeta = true
	}
}

func (r *Random) flush() {
	if n := r.writer; n != nil && n.core != nil {
		n.IO(&core.IO{Kind: core.IOFlush}, func(error) {})
	}
}

// settle stops all faults: both nodes must come together, equal, with every
// acknowledged write.
func (r *Random) settle() {
	r.tracef("--- faults end")
	r.SetLink(true)
	for _, n := range r.Nodes {
		for _, d := range n.disks {
			d.FailWrites, d.FailMeta = false, false
		}
		if n.core == nil {
			n.Boot()
		}
	}
	r.Run(50 * time.Millisecond)
	r.Until("every request is answered", 5*time.Minute, func() bool { return len(r.live) == 0 })
	last, began := r.now, r.now
	r.Until("both UpToDate", 10*time.Minute, func() bool {
		if r.now-last > time.Second {
			last = r.now
			for _, n := range r.Nodes {
				for v := range n.disks {
					if st, _ := n.State(v); st.Disk == protocol.Diskless {
						n.Attach(v, func(err error) { r.tracef("%d attach: %v", n.idx, err) })
					}
				}
				if st, _ := n.State(0); st.UserISP {
					r.try(n, "resume", func(c *core.Command) { n.core.PauseSync(c, 0, false) })
				}
				if st, _ := n.State(0); st.Role == protocol.Primary && r.conn(n) <= protocol.WFConnection && r.now-began > 2*time.Minute {
					// A Primary whose peer has gone on without it is refused, and
					// keeps what it has: an operator looks at it and demotes it. What
					// was acknowledged is checked all the same.
					r.Faults["operator demotes"]++
					r.try(n, "demote", func(c *core.Command) { n.core.Demote(c) })
				}
				if r.conn(n) == protocol.StandAlone {
					r.try(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
				}
			}
		}
		return r.inSync()
	})
	if r.failure == nil {
		r.compare()
	}
}

func (r *Random) inSync() bool {
	for _, n := range r.Nodes {
		for _, v := range n.core.Snapshot().Volumes {
			s := v.State
			if s.Conn != protocol.Connected || s.Disk != protocol.UpToDate || s.PeerDisk != protocol.UpToDate ||
				v.OutOfSync != 0 || v.Pending != 0 || v.Unacked != 0 {
				return false
			}
		}
	}
	return true
}

func (r *Random) compare() {
	size := r.Nodes[0].core.Snapshot().Volumes[0].Size
	a, b := r.Nodes[0].disks[0].current[:size*sectorBytes], r.Nodes[1].disks[0].current[:size*sectorBytes]
	if !bytes.Equal(a, b) {
		for s := range size {
			if !bytes.Equal(a[s*sectorBytes:(s+1)*sectorBytes], b[s*sectorBytes:(s+1)*sectorBytes]) {
				r.failf("the disks differ at sector %d", s)
				return
			}
		}
	}
	if err := r.o.checkDisk(a, size); err != nil {
		r.failf("%v", err)
	}
}
