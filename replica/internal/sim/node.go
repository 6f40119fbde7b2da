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
	net   network
	rng   *rand.Rand
	cfg   Options

	maxDelay time.Duration
	trace    []string
	failure  error
}

// Options of a cluster.
type Options struct {
	Volumes   int
	DiskBytes int64
	Net       core.NetOptions
	Volume    core.VolumeConfig // for every volume; Number is filled in
	Trace     bool

	// Core changes a node's configuration before it boots.
	Core func(node int, cfg *core.Config)
	// Call answers a handler or the arbiter on a node: an exit code, and how long it
	// takes. A negative time is for ever.
	Call func(node int, call *core.Call) (code int, takes time.Duration)
}

// Node is one machine.
type Node struct {
	c        *Cluster
	idx      int
	core     *core.Core // nil while it is down
	boot     int
	gen      uint64
	readMeta bool
	disks    []*Disk
	ios      map[*core.IO]func(error)
	cmds     map[*core.Command]func(error)
	timerAt  time.Duration
	timerSet bool
	inEvent  bool
	eff      core.Effects
	Events   []core.Event
}

// New makes a cluster with fresh metadata; both nodes are down.
func New(seed uint64, opt Options) *Cluster {
	c := &Cluster{Seed: seed, rng: rand.New(rand.NewPCG(seed, 0x626d)), cfg: opt, maxDelay: 2 * time.Millisecond}
	c.net.c = c
	for i := range c.Nodes {
		n := &Node{c: c, idx: i}
		for range opt.Volumes {
			d := NewDisk(opt.DiskBytes)
			if _, err := metadata.Create(d, metadata.V08, metadata.Internal(), d.Size(), metadata.CreateOptions{}); err != nil {
				panic(err)
			}
			_ = d.Flush()
			n.disks = append(n.disks, d)
		}
		c.Nodes[i] = n
	}
	return c
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

// Boot starts a node with what its disks hold, and attaches them.
func (n *Node) Boot() {
	cfg := core.Config{Name: "r0", Net: n.c.cfg.Net, Peers: []core.PeerConfig{{Name: "peer"}}, Rand: n.c.rng.Uint64}
	for i := range n.disks {
		v := n.c.cfg.Volume
		v.Number = uint16(i * 7)
		cfg.Volumes = append(cfg.Volumes, v)
	}
	if n.c.cfg.Core != nil {
		n.c.cfg.Core(n.idx, &cfg)
	}
	k, err := core.New(cfg)
	if err != nil {
		panic(err)
	}
	n.core, n.boot, n.gen, n.timerSet = k, n.boot+1, 0, false
	n.ios, n.cmds = map[*core.IO]func(error){}, map[*core.Command]func(error){}
	n.c.tracef("%d boots", n.idx)
	for i := range n.disks {
		n.Attach(i, func(err error) { n.c.tracef("%d attach: %v", n.idx, err) })
	}
}

// Attach loads a disk and gives it to the core.
func (n *Node) Attach(vol int, done func(error)) {
	d := n.disks[vol]
	img, err := core.LoadDisk(d, d.Size(), metadata.Internal(), d.Size(), core.DiskLimits{LogicalBlock: 512, PhysicalBlock: 4096, Discard: true, DiscardZeroes: true})
	if err != nil {
		n.c.failf("node %d: load: %v", n.idx, err)
		return
	}
	n.Command(func(cmd *core.Command) { n.core.Attach(cmd, vol, img) }, done)
}

// Crash takes a node down without warning: its power fails, or only the process is
// killed, and the disk keeps its cache.
func (n *Node) Crash(power bool) {
	if n.core == nil {
		return
	}
	n.c.tracef("%d crashes, power fails: %v", n.idx, power)
	n.core = nil
	n.ios, n.cmds = nil, nil
	for _, d := range n.disks {
		if power {
			d.Crash(n.c.rng)
		}
	}
	net := &n.c.net
	net.wants[n.idx] = 0
	if p := net.pair; p != nil {
		p.closed[n.idx] = true
		p.sever = true
		n.c.after(n.c.delay(), func() { p.lost(1-n.idx, protocol.DataStream, errCut) })
		if p.closed[1-n.idx] {
			net.pair = nil
			n.c.after(n.c.delay(), net.tryConnect)
		}
	}
}

// Command runs an administrator's command; done is called when it finishes.
func (n *Node) Command(run func(*core.Command), done func(error)) {
	if n.core == nil {
		return
	}
	cmd := &core.Command{}
	n.cmds[cmd] = done
	n.event(func() { run(cmd) })
}

// IO submits an application request.
func (n *Node) IO(io *core.IO, done func(error)) {
	if n.core == nil {
		return
	}
	n.ios[io] = done
	n.event(func() { n.core.Submit(io) })
}

// event delivers one event to the core and performs the effects.
func (n *Node) event(run func()) {
	if n.inEvent { // an effect that leads to an event at once: afterwards
		n.c.after(0, func() { n.again(n.boot, run) })
		return
	}
	n.inEvent = true
	n.core.Advance(n.c.now)
	run()
	n.inEvent = false
	n.effects()
}

func (n *Node) again(boot int, run func()) {
	if n.core != nil && n.boot == boot {
		n.event(run)
	}
}

func (n *Node) effects() {
	n.inEvent = true
	boot := n.boot
	n.eff.Reset()
	n.core.Take(&n.eff)
	for _, l := range n.eff.Logs {
		n.c.tracef("%d   %s", n.idx, l.Text)
	}
	n.Events = append(n.Events, n.eff.Events...)
	for i := range n.eff.Events {
		n.call(n.eff.Events[i].Call, boot)
	}
	for _, o := range n.eff.Ops {
		n.perform(o, boot)
	}
	for _, a := range n.eff.Net {
		n.net(a)
	}
	done := n.eff.Done
	cmds := n.eff.Commands
	for _, io := range done {
		if fn := n.ios[io]; fn != nil {
			delete(n.ios, io)
			fn(io.Err)
		}
	}
	for _, cmd := range cmds {
		if fn := n.cmds[cmd]; fn != nil {
			delete(n.cmds, cmd)
			fn(cmd.Err)
		}
	}
	n.inEvent = false
	if n.core == nil || n.boot != boot {
		return
	}
	if p := n.c.net.pair; p != nil {
		p.pump(n.idx)
	}
	n.armTimer()
}

// call runs a handler whose result the core waits for.
func (n *Node) call(call *core.Call, boot int) {
	if call == nil {
		return
	}
	code, takes := n.c.cfg.Call(n.idx, call)
	n.c.tracef("%d   handler %s: %d after %v", n.idx, call.Name, code, takes)
	if takes >= 0 {
		n.c.after(takes, func() { n.again(boot, func() { n.core.HandlerDone(call, code) }) })
	}
}

// perform does a disk operation after some time; what a flush covers is decided
// when the operation ends.
func (n *Node) perform(o *core.Op, boot int) {
	n.c.after(n.c.delay(), func() {
		if n.core == nil || n.boot != boot {
			return
		}
		d := n.disks[o.Volume]
		if o.PreFlush {
			_ = d.Flush()
		}
		switch {
		case o.Meta && d.FailMeta, !o.Meta && o.Kind == core.OpRead && d.FailReads, !o.Meta && o.Kind != core.OpRead && d.FailWrites:
			o.Err = ErrDisk
			n.event(func() { n.core.OpDone(o) })
			return
		}
		switch o.Kind {
		case core.OpRead:
			_, o.Err = d.ReadAt(o.Buf, o.Off)
		case core.OpWrite:
			_, o.Err = d.WriteAt(o.Buf, o.Off)
		case core.OpFlush:
			_ = d.Flush()
		default:
			d.Zero(o.Off, o.Len)
		}
		if o.FUA {
			d.persist(o.Off, o.Len)
		}
		if n.c.rng.IntN(16) == 0 {
			// Done, but the news takes its time: a crash now finds the write on disk.
			n.c.after(n.c.delay(), func() { n.again(boot, func() { n.core.OpDone(o) }) })
			return
		}
		n.event(func() { n.core.OpDone(o) })
	})
}

func (n *Node) net(a core.NetAction) {
	net := &n.c.net
	switch a.Kind {
	case core.NetConnect:
		n.gen, n.readMeta = a.Gen, false
		net.wants[n.idx] = a.Gen
		n.c.after(n.c.delay(), net.tryConnect)
	case core.NetReadMeta:
		n.readMeta = true
		if p := net.pair; p != nil {
			n.c.after(0, func() { p.ends[1-n.idx][protocol.MetaStream].deliver() })
		}
	case core.NetClose:
		n.readMeta = false
		if p := net.pair; p != nil && p.gen[n.idx] == a.Gen && !p.closed[n.idx] {
			p.deaf[n.idx] = true
			n.c.after(0, func() { p.closeEnd(n.idx, a.Graceful) })
			n.c.after(n.c.delay(), net.tryConnect)
			return
		}
		net.wants[n.idx] = 0
		boot := n.boot
		n.c.after(n.c.delay(), func() {
			if n.core != nil && n.boot == boot && n.gen == a.Gen {
				n.event(func() { n.core.Closed(0, a.Gen) })
			}
		})
	}
}

func (n *Node) armTimer() {
	at, ok := n.core.Deadline()
	if !ok || n.timerSet && n.timerAt <= at {
		return
	}
	n.timerSet, n.timerAt = true, at
	boot := n.boot
	n.c.after(max(at-n.c.now, 0), func() {
		if n.core == nil || n.boot != boot || n.timerAt != at {
			return
		}
		n.timerSet = false
		n.event(func() { n.core.Tick() })
	})
}

// State returns the state of a volume, and false if the node is down.
func (n *Node) State(vol int) (protocol.State, bool) {
	if n.core == nil {
		return protocol.State{}, false
	}
	return n.core.Snapshot().Volumes[vol].State, true
}

// Snapshot returns the node's status; it must be up.
func (n *Node) Snapshot() core.Snapshot { return n.core.Snapshot() }

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
	}
	c.now = max(c.now, end)
}

// Err returns the first failure.
func (c *Cluster) Err() error { return c.failure }

func (c *Cluster) describe() string {
	var b strings.Builder
	for _, n := range c.Nodes {
		if n.core == nil {
			fmt.Fprintf(&b, " node %d down;", n.idx)
			continue
		}
		for _, v := range n.core.Snapshot().Volumes {
			fmt.Fprintf(&b, " node %d vol %d: %v oos %d ap %d lo %d pe %d ua %d ids %v;", n.idx, v.Number, v.State, v.OutOfSync,
				v.AppPending, v.LocalPending, v.Pending, v.Unacked, v.IDs)
		}
	}
	return b.String()
}
