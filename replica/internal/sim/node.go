// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Node is one machine.
type Node struct {
	c        *Cluster
	idx      int
	core     *core.Core // nil while it is down
	boot     int
	gen      uint64
	readMeta bool
	disks    []*Disk // data
	metas    []*Disk // metadata: the same disk if it is internal
	ios      map[*core.IO]func(error)
	cmds     map[*core.Command]func(error)
	patience time.Duration // how long the next command is waited for, if not for good
	timerAt  time.Duration
	timerSet bool
	inEvent  bool
	eff      core.Effects
	Events   []core.Event

	skew     time.Duration // how far its clock is ahead
	paused   bool          // nothing runs, as in a stopped virtual machine
	backlog  []func()      // events that wait for the end of the pause
	fuse     int           // > 0: it crashes after so many effects
	fuseFn   func()
	inflight []*core.Op // operations in the hands of the disk, in order
	buffers  int        // of the bounded pool, in use

	powerFailures int // so far

	// gaveUp: the disk of a volume was given up while a superblock was written to it, which
	// nobody knows about any more when the node has crashed: orphan. A bit for each.
	gaveUp, orphan uint
}

// Get implements core.Allocator: a bounded pool.
func (n *Node) Get(size int) *core.Buffer {
	if n.buffers >= n.c.cfg.Buffers {
		return nil
	}
	n.buffers++
	counts := true
	leave := func(*core.Buffer) {
		if counts {
			n.buffers--
		}
		counts = false
	}
	return &core.Buffer{Data: make([]byte, size), Free: leave, Forget: leave}
}

// Boot starts a node with what its disks hold, and attaches them.
func (n *Node) Boot() {
	cfg := core.Config{Name: "r0", Net: n.c.cfg.Net, Peers: []core.PeerConfig{{Name: "peer"}}, Rand: n.c.rng.Uint64}
	if n.c.cfg.Buffers > 0 {
		cfg.Buffers, n.buffers = n, 0
	}
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
	n.paused, n.backlog, n.fuse, n.inflight = false, nil, 0, nil
	n.ios, n.cmds = map[*core.IO]func(error){}, map[*core.Command]func(error){}
	n.c.tracef("%d boots", n.idx)
	for i := range n.disks {
		n.Attach(i, func(err error) { n.c.tracef("%d attach: %v", n.idx, err) })
	}
}

// Attach loads a disk and gives it to the core.
func (n *Node) Attach(vol int, done func(error)) {
	d, m := n.disks[vol], n.metas[vol]
	if n.core.Snapshot().Volumes[vol].Hung > 0 {
		done(core.ErrHung) // before it is read: what hangs may still change it
		return
	}
	if m.FailReads && m == d {
		done(ErrDisk)
		return
	}
	img, err := core.LoadDisk(m, m.Size(), n.c.location(), d.Size(), core.DiskLimits{LogicalBlock: 512, PhysicalBlock: 4096, Discard: true, DiscardZeroes: true})
	if err != nil {
		n.c.failf("node %d: load: %v", n.idx, err)
		return
	}
	n.Command(func(cmd *core.Command) { n.core.Attach(cmd, vol, img) }, done)
}

// lookAtDisks tells the core the sizes of its disks, as the shell does when somebody may
// have changed them.
func (n *Node) lookAtDisks() {
	n.event(func() {
		for i, d := range n.disks {
			n.core.DeviceSize(i, d.Size())
		}
	})
}

// Resize is the administrator's command.
func (n *Node) Resize(vol int, opt core.ResizeOptions, done func(error)) {
	n.Command(func(cmd *core.Command) {
		n.core.DeviceSize(vol, n.disks[vol].Size())
		n.core.Resize(cmd, vol, opt)
	}, done)
}

// Crash takes a node down without warning: its power fails, or only the process is
// killed, and the disk keeps its cache.
func (n *Node) Crash(power bool) {
	if n.core == nil {
		return
	}
	n.c.tracef("%d crashes, power fails: %v", n.idx, power)
	n.core = nil
	n.ios, n.cmds, n.backlog = nil, nil, nil
	// What the disk has in its hands it may finish all the same.
	for _, o := range n.inflight {
		if n.c.rng.IntN(2) == 0 {
			n.reach(n.device(o), o)
		}
	}
	n.inflight = nil
	if power {
		n.powerFailures++
	}
	n.orphan, n.gaveUp = n.orphan|n.gaveUp, 0
	for i, d := range n.disks {
		if power {
			d.Crash(n.c.rng)
			if m := n.metas[i]; m != d {
				m.Crash(n.c.rng)
			}
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

// reach lets a write reach the disk of a node that has crashed, whole or in part.
func (n *Node) reach(d *Disk, o *core.Op) {
	if d.Frozen || d.FailWrites || d.FailMeta {
		return
	}
	if o.PreFlush {
		_ = d.Flush()
	}
	switch o.Kind {
	case core.OpWrite:
		_, _ = d.WriteAt(o.Buf[:n.c.rng.IntN(len(o.Buf)/sectorBytes+1)*sectorBytes], o.Off)
	case core.OpDiscard, core.OpZero:
		d.Zero(o.Off, o.Len)
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
	if limit := n.patience; limit > 0 {
		n.patience = 0
		boot := n.boot
		n.c.after(limit, func() {
			if _, waits := n.cmds[cmd]; waits && n.boot == boot {
				n.event(func() { n.core.Abandon(cmd, errGivenUp) })
			}
		})
	}
}

var errGivenUp = errors.New("nobody waits for it any more")

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
		boot := n.boot
		n.c.after(0, func() { n.again(boot, run) })
		return
	}
	if n.paused {
		n.backlog = append(n.backlog, run)
		return
	}
	n.inEvent = true
	n.core.Advance(n.c.now + n.skew)
	run()
	n.inEvent = false
	n.effects()
	if o := n.c.observer; o != nil && n.core != nil {
		o.events(n)
	}
}

// pause stops a node, resume lets it go on.
func (n *Node) pause() { n.paused = n.core != nil }

func (n *Node) resume() {
	n.paused = false
	list, boot := n.backlog, n.boot
	n.backlog = nil
	for _, run := range list {
		n.again(boot, run)
	}
	if p := n.c.net.pair; p != nil {
		for _, s := range p.ends[1-n.idx] {
			s.deliver()
		}
	}
}

func (n *Node) again(boot int, run func()) {
	if n.core != nil && n.boot == boot {
		n.event(run)
	}
}

// burn counts an effect, and reports true when the node has crashed in front of it.
func (n *Node) burn() bool {
	if n.fuse > 0 {
		if n.fuse--; n.fuse == 0 {
			n.fuseFn()
		}
	}
	return n.core == nil
}

func (n *Node) effects() {
	n.inEvent = true
	defer func() { n.inEvent = false }()
	boot := n.boot
	n.eff.Reset()
	n.core.Take(&n.eff)
	for _, l := range n.eff.Logs {
		n.c.tracef("%d   %s", n.idx, l.Text)
	}
	for i := range n.eff.Events {
		if n.c.observer != nil {
			n.c.observer.effect(n, &n.eff.Events[i])
		} else {
			n.Events = append(n.Events, n.eff.Events[i])
		}
		n.call(n.eff.Events[i].Call, boot)
	}
	for _, o := range n.eff.Abandoned {
		if o.Meta && o.Kind == core.OpWrite {
			n.gaveUp |= 1 << o.Volume
		}
	}
	for _, o := range n.eff.Ops {
		if n.burn() {
			return
		}
		n.perform(o, boot)
	}
	for _, a := range n.eff.Net {
		if n.burn() {
			return
		}
		n.net(a)
	}
	done := n.eff.Done
	cmds := n.eff.Commands
	for _, io := range done {
		if n.burn() {
			return
		}
		if fn := n.ios[io]; fn != nil {
			delete(n.ios, io)
			fn(io.Err)
		}
	}
	for _, cmd := range cmds {
		if n.burn() {
			return
		}
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
	answer, takes := n.c.cfg.Call(n, call)
	n.c.tracef("%d   handler %s runs, for %v", n.idx, call.Name, takes)
	if takes < 0 {
		return
	}
	n.c.after(takes, func() {
		if n.core == nil || n.boot != boot {
			return
		}
		code := answer()
		n.c.tracef("%d   handler %s: %d", n.idx, call.Name, code)
		n.again(boot, func() { n.core.HandlerDone(call, code) })
	})
}

// device is the disk that an operation goes to.
func (n *Node) device(o *core.Op) *Disk {
	if o.Meta {
		return n.metas[o.Volume]
	}
	return n.disks[o.Volume]
}

// perform does a disk operation after some time. A flush covers what had completed
// when it was issued.
func (n *Node) perform(o *core.Op, boot int) {
	if n.c.onOp != nil {
		n.c.onOp(n, o)
	}
	d := n.device(o)
	covers, takes := d.seq, n.c.delay()
	if d.Slow > 0 {
		takes *= time.Duration(d.Slow)
	}
	n.inflight = append(n.inflight, o)
	n.c.after(takes, func() { n.finish(o, d, covers, boot) })
}

func (n *Node) finish(o *core.Op, d *Disk, covers uint64, boot int) {
	if n.core == nil || n.boot != boot {
		return
	}
	if d.Frozen {
		d.held = append(d.held, func() { n.finish(o, d, covers, boot) })
		return
	}
	for i := range n.inflight {
		if n.inflight[i] == o {
			n.inflight = append(n.inflight[:i], n.inflight[i+1:]...)
			break
		}
	}
	n.execute(o, d, covers)
	if !o.Meta && o.Kind != core.OpRead && n.c.observer != nil {
		n.c.observer.dataWritten(n)
	}
	super := o.Err == nil && o.Meta && o.Kind == core.OpWrite
	vol := o.Volume
	if n.c.rng.IntN(16) == 0 {
		// Done, but the news takes its time: a crash now finds the write on disk.
		n.c.after(n.c.delay(), func() { n.again(boot, func() { n.core.OpDone(o) }) })
	} else {
		n.event(func() { n.core.OpDone(o) })
	}
	if super && n.c.observer != nil {
		n.c.observer.superWritten(n, vol)
	}
}

// execute does the operation on the disk, as far as its faults let it.
func (n *Node) execute(o *core.Op, d *Disk, covers uint64) {
	read := o.Kind == core.OpRead
	switch {
	case o.Meta && d.FailMeta, !o.Meta && read && d.FailReads, !o.Meta && !read && d.FailWrites:
		o.Err = ErrDisk
		if o.Kind == core.OpWrite && !o.Meta { // perhaps some of it was written
			if k := n.c.rng.IntN(2*len(o.Buf)/sectorBytes + 1); k*sectorBytes < len(o.Buf) {
				_, _ = d.WriteAt(o.Buf[:k*sectorBytes], o.Off)
			}
		}
		return
	case read && d.unreadable(o.Off, o.Len):
		o.Err = ErrDisk
		return
	case !o.Meta && o.Kind == core.OpWrite && d.noRoom(o.Off, o.Len):
		o.Err = ErrNoRoom
		return
	}
	if o.Kind == core.OpDiscard && d.NoDiscard {
		o.Err = ErrDisk
		return
	}
	if o.PreFlush {
		d.flush(covers, n.c.rng)
	}
	switch o.Kind {
	case core.OpRead:
		_, o.Err = d.ReadAt(o.Buf, o.Off)
	case core.OpWrite:
		_, o.Err = d.WriteAt(o.Buf, o.Off)
	case core.OpFlush:
		d.flush(covers, n.c.rng)
	default:
		d.Zero(o.Off, o.Len)
	}
	if o.FUA {
		d.persist(o.Off, o.Len)
	}
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
	n.c.after(max(at-n.skew-n.c.now, 0), func() {
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

// super reads the superblock on a volume's disk.
func (n *Node) super(vol int) (metadata.Superblock, metadata.Layout, error) {
	m := n.metas[vol]
	return metadata.Read(m, n.c.location(), m.Size())
}
