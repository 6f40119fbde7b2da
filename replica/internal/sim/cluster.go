// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Cluster is two nodes, a link, and a clock.
type Cluster struct {
	clock
	Seed  uint64
	Nodes [2]*Node
	Steps int // events so far
	net   network
	rng   *rand.Rand
	cfg   Options

	maxDelay time.Duration
	trace    []string
	failure  error
	observer observer
	onOp     func(n *Node, o *core.Op) // sees what a node asks of its disks
}

// observer sees what nodes do, right after they did it.
type observer interface {
	effect(n *Node, e *core.Event)
	events(n *Node) // after each event
	superWritten(n *Node, vol int)
	dataWritten(n *Node)
}

// Options of a cluster.
type Options struct {
	Volumes   int
	DiskBytes int64
	Net       core.NetOptions
	Volume    core.VolumeConfig // for every volume; Number is filled in
	Trace     bool

	External bool          // metadata on devices of their own
	Delay    time.Duration // most operations take less; 0 for 2 ms
	Buffers  int           // buffers for the peer's reads, 0 for no bound
	Reckless bool          // administrators do what they like
	Skip     bool          // the initial sync is skipped
	Family   string        // of a script, one of Families or empty

	// Core changes a node's configuration before it boots.
	Core func(node int, cfg *core.Config)
	// Call answers a handler or the arbiter on a node: how long it
	// takes, and the exit code, found when that is over. A negative time is for ever.
	Call func(n *Node, call *core.Call) (code func() int, takes time.Duration)
}

const metaBytes = 1 << 20

// New makes a cluster with fresh metadata; both nodes are down.
func New(seed uint64, opt Options) *Cluster {
	c := &Cluster{Seed: seed, rng: rand.New(rand.NewPCG(seed, 0x626d)), cfg: opt, maxDelay: opt.Delay}
	if c.maxDelay == 0 {
		c.maxDelay = 2 * time.Millisecond
	}
	c.net.c = c
	for i := range c.Nodes {
		n := &Node{c: c, idx: i}
		for range opt.Volumes {
			d := NewDisk(opt.DiskBytes)
			m := d
			if opt.External {
				m = NewDisk(metaBytes)
			}
			if _, err := metadata.Create(m, metadata.V08, c.location(), m.Size(), metadata.CreateOptions{}); err != nil {
				panic(err)
			}
			_, layout, err := metadata.Read(m, c.location(), m.Size())
			if err != nil {
				panic(err)
			}
			m.garble = 0
			if !opt.External {
				m.garble = int64(layout.UsableWith(d.Size()))
			}
			_ = m.Flush()
			n.disks, n.metas = append(n.disks, d), append(n.metas, m)
		}
		c.Nodes[i] = n
	}
	return c
}

func (c *Cluster) location() metadata.Location {
	if c.cfg.External {
		return metadata.FlexExternal()
	}
	return metadata.Internal()
}

func (c *Cluster) delay() time.Duration {
	switch c.rng.IntN(8) {
	case 0:
		return 0
	case 1:
		return time.Duration(c.rng.Int64N(int64(c.maxDelay) * 5))
	}
	return time.Duration(c.rng.Int64N(int64(c.maxDelay)))
}

func (c *Cluster) tracef(format string, args ...any) {
	if c.cfg.Trace {
		c.trace = append(c.trace, fmt.Sprintf("%12v ", c.now)+fmt.Sprintf(format, args...))
	}
}

// Trace returns the lines traced so far.
func (c *Cluster) Trace() string { return strings.Join(c.trace, "\n") }

func (c *Cluster) failf(format string, args ...any) {
	if c.failure == nil {
		c.failure = fmt.Errorf("seed %d, at %v: %s", c.Seed, c.now, fmt.Sprintf(format, args...))
		c.tracef("FAIL %v", c.failure)
	}
}

// Err returns the first failure.
func (c *Cluster) Err() error { return c.failure }

// SetLink cuts or heals the link.
func (c *Cluster) SetLink(up bool) {
	c.tracef("link up: %v", up)
	c.net.down = !up
	if !up {
		c.net.cutNow(errCut)
		return
	}
	c.net.tryConnect()
}

// Until runs events until cond holds; it fails after limit of virtual time.
func (c *Cluster) Until(what string, limit time.Duration, cond func() bool) bool {
	end := c.now + limit
	for c.failure == nil && !cond() {
		if c.now <= end {
			if !c.step() {
				c.now += 100 * time.Millisecond
			}
			c.Steps++
			continue
		}
		c.failf("not reached in %v: %s; %s", limit, what, c.describe())
	}
	return c.failure == nil
}

// Run lets time pass.
func (c *Cluster) Run(d time.Duration) {
	end := c.now + d
	for c.failure == nil && len(c.queue) > 0 && c.queue[0].at <= end {
		c.step()
		c.Steps++
	}
	c.now = max(c.now, end)
}

// bothUpToDate reports whether every volume of both nodes is, and connected.
func (c *Cluster) bothUpToDate() bool {
	for _, n := range c.Nodes {
		for i := range n.disks {
			s, ok := n.State(i)
			if !ok || s.Conn != protocol.Connected || s.Disk != protocol.UpToDate || s.PeerDisk != protocol.UpToDate {
				return false
			}
		}
	}
	return true
}

func (c *Cluster) describe() string {
	var b strings.Builder
	for _, n := range c.Nodes {
		if n.core == nil {
			fmt.Fprintf(&b, " node %d down;", n.idx)
			continue
		}
		if len(n.ios)+len(n.cmds) > 0 {
			fmt.Fprintf(&b, " node %d owes %d requests, %d commands;", n.idx, len(n.ios), len(n.cmds))
		}
		for _, v := range n.core.Snapshot().Volumes {
			fmt.Fprintf(&b, " node %d vol %d: %v oos %d ap %d lo %d pe %d ua %d ids %v;", n.idx, v.Number, v.State, v.OutOfSync,
				v.AppPending, v.LocalPending, v.Pending, v.Unacked, v.IDs)
		}
	}
	return b.String()
}
