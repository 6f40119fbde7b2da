// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Dual is a run with two Primaries: both nodes write and read the same blocks at the
// same time, under crashes of either, disconnects, role changes, failing disks and
// resyncs. The link is never cut while both are Primary: that is a split brain,
// and no data survives one on both sides.
type Dual struct {
	*Cluster
	History []Access
	Faults  map[string]int
	seq     int64 // orders calls and returns: the simulator does one thing at a time
	next    uint64
	open    int
	asked   [2]bool // a command of the node has not been answered
	slow    bool    // the writers leave time for the resync
}

// Access is one write or read of one sector, as an application saw it. Ends is 0 if
// there was no answer, or an error.
type Access struct {
	Node         int
	Sector       uint64
	Write        bool
	Content      uint64 // the number of the write that made what was written or read, 0 for zeroes
	Begins, Ends int64
}

// dualSectors is how much of the volume the applications use: little, so that they meet.
const dualSectors = 96

// NewDual makes a pair for Play.
func NewDual(seed uint64, opt Options) *Dual {
	opt.Net.AllowTwoPrimary = true
	return &Dual{Cluster: New(seed, opt), Faults: map[string]int{}}
}

// Play runs the scenario and returns what went wrong, or nil. History is left for
// the caller to check.
func (d *Dual) Play(steps int) error {
	for _, n := range d.Nodes {
		n.Boot()
	}
	d.Run(100 * time.Millisecond)
	for _, n := range d.Nodes {
		d.ask(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
	}
	d.Until("connected", time.Minute, func() bool { return d.conn(0) == protocol.Connected && d.conn(1) == protocol.Connected })
	if d.failure != nil {
		return d.failure
	}
	first := d.Nodes[d.rng.IntN(2)]
	if d.rng.IntN(2) == 0 {
		d.ask(first, "skip the initial sync", func(c *core.Command) { first.core.NewCurrentUUID(c, 0, true) })
		d.Run(50 * time.Millisecond)
	}
	d.ask(first, "promote", func(c *core.Command) { first.core.Promote(c, true) })
	for range steps {
		if d.failure != nil {
			return d.failure
		}
		d.slow = d.rng.IntN(4) == 0
		d.step()
		d.Run(time.Duration(d.rng.Int64N(int64(8 * time.Millisecond))))
	}
	d.settle()
	return d.failure
}

// ask runs a command that may be refused, and does not wait. One at a time: a node
// that is told to disconnect while it promotes may do both, which is a split brain.
func (d *Dual) ask(n *Node, what string, run func(*core.Command)) {
	if n.core == nil || d.asked[n.idx] {
		return
	}
	d.tracef("%d asks to %s", n.idx, what)
	boot := n.boot
	d.asked[n.idx] = true
	n.Command(run, func(err error) {
		d.tracef("%d %s: %v", n.idx, what, err)
		if n.boot == boot {
			d.asked[n.idx] = false
		}
	})
}

func (d *Dual) conn(i int) protocol.ConnState {
	s, _ := d.Nodes[i].State(0)
	return s.Conn
}

// alone reports whether the pair could do without the other node of n: it is Primary
// with good data.
func (d *Dual) alone(n *Node) bool {
	s, up := n.State(0)
	return up && s.Role == protocol.Primary && s.Disk == protocol.UpToDate
}

func (d *Dual) secondary(n *Node) bool {
	s, up := n.State(0)
	return up && s.Role == protocol.Secondary
}

func (d *Dual) step() {
	n := d.Nodes[d.rng.IntN(2)]
	other := d.Nodes[1-n.idx]
	switch k := d.rng.IntN(100); {
	case k < 75:
		for range 1 + d.rng.IntN(10) {
			d.access(d.Nodes[d.rng.IntN(2)])
		}
	case k < 88:
		d.heal(n)
	case k < 90 && d.alone(other):
		d.ask(n, "demote", func(c *core.Command) { n.core.Demote(c) })
		d.Faults["demote"]++
	case k < 92 && d.alone(other) && n.core != nil && !d.asked[other.idx]: // it may be detaching
		d.Faults["crash"]++
		n.Crash(true)
	case k < 94:
		if d.secondary(n) && d.alone(other) {
			d.Faults["disconnect"]++
			d.ask(n, "disconnect", func(c *core.Command) { n.core.Disconnect(c, 0, false) })
		}
	case k < 95 && d.alone(other) && n.core != nil && d.conn(n.idx) >= protocol.Connected && !other.disks[0].FailWrites: // else both may go
		d.Faults["detach"]++
		d.ask(n, "detach", func(c *core.Command) { n.core.Detach(c, 0, false) })
	case k < 96 && d.alone(other) && n.core != nil:
		d.Faults["invalidate"]++
		d.ask(n, "invalidate", func(c *core.Command) { n.core.Invalidate(c, 0) })
	case k < 97 && d.secondary(n) && d.alone(other) && d.conn(n.idx) == protocol.Connected && !d.asked[other.idx]:
		// A failing flush ends the connection, and with two Primaries that is a split brain.
		d.Faults["write error"]++
		n.disks[0].FailWrites = true
	case k < 98 && n.core != nil:
		n.IO(&core.IO{Kind: core.IOFlush}, func(error) {})
	case n.core != nil:
		on := d.rng.IntN(2) == 0
		n.Command(func(c *core.Command) { n.core.SetSuspended(c, on) }, func(error) {})
	}
}

// heal does what brings a node back into service, as an operator would.
func (d *Dual) heal(n *Node) {
	if n.core == nil {
		d.Faults["restart"]++
		d.asked[n.idx] = false
		n.Boot()
		return
	}
	s, _ := n.State(0)
	peer, peerUp := d.Nodes[1-n.idx].State(0)
	switch {
	case n.core.Snapshot().Susp:
		n.Command(func(c *core.Command) { n.core.SetSuspended(c, false) }, func(error) {})
	case s.Disk == protocol.Diskless && s.Role == protocol.Primary && s.Conn < protocol.Connected:
		d.ask(n, "demote", func(c *core.Command) { n.core.Demote(c) }) // the other one has gone on
	case s.Conn == protocol.StandAlone:
		d.ask(n, "connect", func(c *core.Command) { n.core.Connect(c, 0, core.ConnectOptions{}) })
	case s.Disk == protocol.Diskless && (s.Role == protocol.Secondary || s.Conn >= protocol.Connected):
		n.disks[0].FailWrites = false
		n.Attach(0, func(err error) { d.tracef("%d attach: %v", n.idx, err) })
	case s.Role == protocol.Secondary && s.Conn >= protocol.Connected && peerUp && peer.Conn >= protocol.Connected:
		d.Faults["promote"]++
		if isTarget(s.Conn) {
			d.Faults["promote a target"]++
		}
		d.ask(n, "promote", func(c *core.Command) { n.core.Promote(c, false) })
	}
}

func isTarget(c protocol.ConnState) bool {
	return c == protocol.SyncTarget || c == protocol.PausedSyncT
}

// access submits one request somewhere in the common area.
func (d *Dual) access(n *Node) {
	s, up := n.State(0)
	if !up || s.Role != protocol.Primary || d.open > 200 || d.slow && d.open > 8 {
		return
	}
	length := uint64(1 + d.rng.IntN(12))
	if d.rng.IntN(4) == 0 {
		length = 8
	}
	from := d.rng.Uint64N(dualSectors - length)
	if d.rng.IntN(3) == 0 {
		from = from / 8 * 8
	}
	io := &core.IO{Kind: core.IOWrite, Off: int64(from) * sectorBytes, Len: int64(length) * sectorBytes}
	switch k := d.rng.IntN(40); {
	case k < 16:
		io.Kind = core.IORead
	case k == 39:
		io.Kind = core.IOZero
	}
	if io.Kind != core.IOZero {
		io.Buf = make([]byte, io.Len)
	}
	id := uint64(0)
	if io.Kind == core.IOWrite {
		d.next++
		id = d.next
		for i := range length {
			stamp(io.Buf[i*sectorBytes:][:sectorBytes], id, from+i)
		}
	}
	d.seq++
	first := len(d.History)
	for i := range length {
		d.History = append(d.History, Access{Node: n.idx, Sector: from + i, Write: io.Kind != core.IORead, Content: id, Begins: d.seq})
	}
	d.open++
	d.tracef("%d begins %v %d: sectors %d to %d", n.idx, io.Kind, id, from, from+length)
	boot := n.boot
	done := false
	end := func() {
		if !done {
			done = true
			d.open--
		}
	}
	n.IO(io, func(err error) {
		d.tracef("%d ends %v %d at %d: %v", n.idx, io.Kind, id, from, err)
		end()
		if err == nil {
			d.answered(io, d.History[first:first+int(length)])
		}
	})
	d.after(time.Minute, func() { // what died with its node
		if n.boot != boot || n.core == nil {
			end()
		}
	})
}

// answered notes the end of a request, and what a read saw.
func (d *Dual) answered(io *core.IO, part []Access) {
	d.seq++
	for i := range part {
		a := &part[i]
		a.Ends = d.seq
		if a.Write {
			continue
		}
		b := io.Buf[i*sectorBytes:][:sectorBytes]
		id, at := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		for k := 16; k < len(b); k += 16 {
			if !bytes.Equal(b[k:k+16], b[:16]) {
				d.failf("sector %d is torn", a.Sector)
			}
		}
		if id != 0 && at != a.Sector {
			d.failf("sector %d holds data of sector %d", a.Sector, at)
		}
		a.Content = id
	}
}

// settled reports whether a node is connected, and both disks are UpToDate.
func settled(n *Node) bool {
	s, up := n.State(0)
	return up && s.Conn == protocol.Connected && s.Disk == protocol.UpToDate && s.PeerDisk == protocol.UpToDate
}

// settle stops all faults: both nodes become Primary, UpToDate and equal.
func (d *Dual) settle() {
	d.tracef("--- faults end")
	for _, n := range d.Nodes {
		n.disks[0].FailWrites = false
	}
	last := d.now
	good := func(n *Node) bool {
		if !settled(n) {
			return false
		}
		v := n.core.Snapshot().Volumes[0]
		return v.State.Role == protocol.Primary && v.OutOfSync == 0 && v.Pending == 0 && v.Unacked == 0 && v.AppPending == 0
	}
	d.Until("both Primary and UpToDate", 10*time.Minute, func() bool {
		if d.now-last > 300*time.Millisecond {
			last = d.now
			for _, n := range d.Nodes {
				d.heal(n)
				if s, _ := n.State(0); settled(n) && s.Role == protocol.Primary && d.now > time.Minute && n.core.Snapshot().Volumes[0].OutOfSync > 0 {
					// Marks of a resync that ended, which a disk that failed then kept: the
					// identifiers say that there is nothing to copy.
					d.ask(n, "invalidate", func(c *core.Command) { n.core.Invalidate(c, 0) })
				}
			}
		}
		return good(d.Nodes[0]) && good(d.Nodes[1])
	})
	for i := uint64(0); i < dualSectors && d.failure == nil; i++ { // what the disks hold now, both applications read
		for _, n := range d.Nodes {
			b := n.disks[0].current.at(int64(i)*sectorBytes, sectorBytes)
			d.History = append(d.History, Access{Node: n.idx, Sector: i, Content: binary.BigEndian.Uint64(b), Begins: d.seq + 1, Ends: d.seq + 2})
		}
	}
	for i := uint64(0); d.failure == nil && i < d.Nodes[0].core.Snapshot().Volumes[0].Size; i++ {
		a, b := d.Nodes[0].disks[0].current.at(int64(i)*sectorBytes, sectorBytes), d.Nodes[1].disks[0].current.at(int64(i)*sectorBytes, sectorBytes)
		if !bytes.Equal(a, b) {
			d.failf("the disks differ at sector %d: writes %d and %d", i, binary.BigEndian.Uint64(a), binary.BigEndian.Uint64(b))
		}
	}
}

// Conflicts counts the writes of both nodes that met, so far on this connection.
func (d *Dual) Conflicts() (n uint64) {
	for _, nd := range d.Nodes {
		if nd.core != nil {
			n += nd.core.Snapshot().Volumes[0].Conflicts
		}
	}
	return n
}
