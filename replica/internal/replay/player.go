// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Options change how a recording is played.
type Options struct {
	// Mutate may change a packet of the kernel: it returns what is received instead.
	// It is told how many packets came before. With it nothing is compared any more;
	// what remains is that the core stays within its bounds.
	Mutate func(n int, packet []byte) [][]byte
	// Trace, if it is not nil, gets a line for everything that happens.
	Trace func(string)
}

// ErrDiverged says that the core did something else than the node that was recorded.
var ErrDiverged = errors.New("replay: the core does not do what was recorded")

// What a replay may take.
const (
	patience    = 2 * time.Minute // virtual time to wait for what was recorded
	maxSteps    = 1 << 19         // events
	maxTicks    = 100             // of the clock at one instant
	maxOutBytes = 256 << 20       // waiting in the core's queues
	maxOps      = 1 << 16         // disk operations at one time
)

// player is a node with a core, and the kernel's part of a recording.
type player struct {
	rec Recording
	opt Options
	now time.Duration

	core          *core.Core
	overlap, acks bool // requests overlap; writes are acknowledged
	rands         []uint64
	drawn         int
	disks         []*playedDisk
	spent         int64 // bytes lent to the core
	free          [][]byte

	scratch []byte

	gen, connected uint64 // of the connection that the core wants, and of the one there is
	readMeta       bool
	pair           *pair
	spare          [2]*core.Out

	cmds  map[int]*core.Command
	ended map[*core.Command]bool
	ios   map[int]*playedIO
	owner map[*core.IO]*playedIO
	ops   []*core.Op
	ticks int // at one instant
	steps int
	heard int
	err   error
}

// playedDisk is a volume's disk.
type playedDisk struct {
	data, meta *memory
	faults     []Entry
	hung       []*core.Op
}

// playedIO is a request of the application, perhaps in pieces.
type playedIO struct {
	left int
	err  error
}

// Play plays a recording and returns the first difference, or nil.
func Play(rec Recording, opt Options) error {
	p := &player{rec: rec, opt: opt}
	for i := range p.spare {
		p.spare[i] = &core.Out{}
	}
	for i := range rec {
		e := &rec[i]
		p.tracef("%d: %s %s%s", i, e.Kind, e.Name, p.show(e))
		err := p.entry(i, e)
		if err == nil {
			err = p.err
		}
		if err != nil {
			return fmt.Errorf("entry %d (%s %s%s): %w", i, e.Kind, e.Name, p.show(e), err)
		}
	}
	return nil
}

func (p *player) tracef(format string, args ...any) {
	if p.opt.Trace != nil {
		p.opt.Trace(fmt.Sprintf("%12v ", p.now) + fmt.Sprintf(format, args...))
	}
}

// show describes an entry.
func (p *player) show(e *Entry) string {
	if e.Kind != Receive && e.Kind != Send {
		return ""
	}
	v := versionOf(e.Packet)
	if n := protocol.HeaderSize(v); len(e.Packet) >= n {
		if h, err := protocol.DecodeHeader(e.Packet[:n], v); err == nil {
			return fmt.Sprintf("%v on %v, %x", h.Command, e.Stream, e.Packet[n:])
		}
	}
	return "?"
}

func (p *player) strict() bool { return p.opt.Mutate == nil }

func (p *player) entry(i int, e *Entry) error {
	if e.Kind == Open {
		return p.open(i, e)
	}
	if p.core == nil {
		return nil // after a kill: the ends of what died with the node
	}
	p.until(e.at())
	switch e.Kind {
	case Command:
		return p.command(e)
	case IO:
		return p.submit(e)
	case Return:
		return p.returned(e)
	case Pair:
		return p.connect(i, e)
	case Receive:
		return p.receive(e)
	case Send:
		return p.expect(e)
	case Ended:
		if err := p.wait(p.matched, "the packets before the end"); err != nil {
			return err
		}
		p.lost(e.Stream, io.EOF)
	case Fault:
		d := p.disks[e.Volume]
		d.faults = append(d.faults, *e)
	case Put:
		b, err := e.Data.Bytes(PatternBytes)
		if err != nil {
			return err
		}
		if m := p.disks[e.Volume].data; m != nil {
			_, err = m.WriteAt(b, e.Off)
		}
		return err
	case Heal:
		p.heal()
	case Kill:
		p.core = nil
	case Status:
		return p.status(e)
	}
	return p.err
}

// open begins a new node.
func (p *player) open(at int, e *Entry) error {
	if e.Config == nil || len(e.Disks) != len(e.Config.Volumes) {
		return fmt.Errorf("%w: open without configuration", ErrRecording)
	}
	p.now = max(p.now, e.at())
	p.rands, p.drawn = nil, 0
	p.overlap, p.acks = p.rec.overlapping(at), e.Config.Net.Protocol != protocol.ProtocolA
	for j := at + 1; j < len(p.rec) && p.rec[j].Kind != Open; j++ {
		if p.rec[j].Kind == Rand {
			p.rands = append(p.rands, p.rec[j].Value)
		}
	}
	cfg := core.Config{Name: e.Config.Name, Volumes: e.Config.Volumes, Peers: e.Config.Peers, Net: e.Config.Net, Rand: p.rand, Buffers: p}
	c, err := core.New(cfg)
	if err != nil {
		return err
	}
	p.core, p.gen, p.connected, p.readMeta, p.pair = c, 0, 0, false, nil
	p.ops, p.spent = nil, 0
	p.ended = map[*core.Command]bool{}
	p.cmds, p.ios, p.owner = map[int]*core.Command{}, map[int]*playedIO{}, map[*core.IO]*playedIO{}
	p.disks = make([]*playedDisk, len(e.Disks))
	for i := range e.Disks {
		p.disks[i] = &playedDisk{}
		if e.Disks[i].Size == 0 {
			continue
		}
		cmd := &core.Command{}
		if err := p.attach(i, &e.Disks[i], cmd); err != nil {
			return err
		}
		if !p.ended[cmd] || cmd.Err != nil {
			return fmt.Errorf("%w: attach did not succeed: %w", ErrDiverged, cmd.Err)
		}
	}
	return p.err
}

func (p *player) rand() uint64 {
	if p.drawn++; p.drawn <= len(p.rands) {
		return p.rands[p.drawn-1]
	}
	if p.strict() {
		p.fail(fmt.Errorf("%w: it draws more than %d random numbers", ErrDiverged, len(p.rands)))
	}
	return uint64(p.drawn) * 0x9E3779B97F4A7C15
}

func (p *player) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// Get lends memory to the core, as much as max-buffers allows.
func (p *player) Get(n int) *core.Buffer {
	const limit = 8 << 20
	if p.spent+int64(n) > limit && p.spent > 0 {
		return nil
	}
	return p.lend(n)
}

// lend returns a buffer of the player's, whatever is out already.
func (p *player) lend(n int) *core.Buffer {
	var data []byte
	for i, free := range p.free {
		if cap(free) >= n {
			data, p.free = free[:n], slices.Delete(p.free, i, i+1)
			break
		}
	}
	if data == nil {
		data = make([]byte, n)
	}
	p.spent += int64(n)
	return &core.Buffer{Data: data, Free: func(*core.Buffer) {
		p.spent -= int64(n)
		p.free = append(p.free, data)
	}}
}

// attach loads a disk and gives it to the core.
func (p *player) attach(vol int, d *Disk, cmd *core.Command) error {
	data, err := newMemory(d.Size, d.Data)
	if err != nil {
		return err
	}
	played := &playedDisk{data: data, meta: data}
	loc := metadata.Internal()
	if d.Location != "" {
		if played.meta, err = newMemory(d.MetaSize, d.Meta); err != nil {
			return err
		}
		if loc, err = metadata.ParseLocation(d.Location, metadata.V08); err != nil {
			return err
		}
	}
	img, err := core.LoadDisk(played.meta, played.meta.size, loc, d.Size, d.Limits)
	if err != nil {
		return err
	}
	p.disks[vol] = played
	p.event(func() { p.core.Attach(cmd, vol, img) })
	return nil
}

// event delivers one event and performs what follows from it, until nothing does.
func (p *player) event(run func()) {
	if p.core == nil || p.err != nil {
		return
	}
	if p.steps++; p.steps > maxSteps {
		p.fail(fmt.Errorf("%w: more than %d events", ErrDiverged, maxSteps))
		return
	}
	p.core.Advance(p.now)
	run()
	p.effects()
	for p.err == nil {
		if len(p.ops) == 0 {
			if p.answer(); len(p.ops) == 0 {
				return
			}
		}
		o := p.ops[0]
		p.ops = p.ops[1:]
		if p.perform(o) {
			p.core.OpDone(o)
			p.effects()
		}
	}
}

func (p *player) effects() {
	var eff core.Effects
	p.core.Take(&eff)
	for _, l := range eff.Logs {
		p.tracef("  %s", l.Text)
	}
	p.ops = append(p.ops, eff.Ops...)
	if len(p.ops) > maxOps {
		p.fail(fmt.Errorf("%w: %d disk operations at one time", ErrDiverged, len(p.ops)))
	}
	for _, ev := range eff.Events {
		if ev.Kind == core.EventState {
			p.tracef("  %s", StateText(ev.New))
			if c := ev.New.Conn; p.pair != nil && c >= protocol.Timeout && c <= protocol.ProtocolError {
				p.pair.torn = true
			}
		}
	}
	for _, io := range eff.Done {
		if own := p.owner[io]; own != nil {
			delete(p.owner, io)
			own.left--
			own.err = errors.Join(own.err, io.Err)
		}
	}
	for _, cmd := range eff.Commands {
		p.ended[cmd] = true
	}
	for st := range protocol.Stream(2) {
		p.send(st)
	}
	for _, a := range eff.Net {
		p.net(a)
	}
}

// send takes what the core has to send on a stream, and hands it to the pair.
func (p *player) send(st protocol.Stream) {
	for p.connected == p.gen && p.gen != 0 {
		if n := p.core.OutPending(0, st); n > maxOutBytes {
			p.fail(fmt.Errorf("%w: %d bytes wait to be sent", ErrDiverged, n))
		}
		o := p.core.TakeOut(0, st, p.spare[st])
		if o == nil {
			return
		}
		data := p.scratch[:0]
		for _, b := range o.Buffers(nil) {
			data = append(data, b...)
		}
		p.scratch = data
		if p.pair != nil {
			if err := p.pair.sent(st, data, p.core.Session(0)); err != nil {
				p.fail(err)
			}
			p.tracef("  sent %d bytes on %v: %s", len(data), st, p.pair.last)
		}
		p.core.OutDone(0, o)
		p.spare[st] = o
	}
}

// answer gives the answers of the kernel that depend on time.
func (p *player) answer() {
	for p.pair != nil && p.pair.pings.due > 0 {
		p.pair.pings.due--
		p.core.Receive(0, p.gen, protocol.MetaStream, protocol.Header{Command: protocol.CmdPingAck}, nil, nil)
		p.effects()
	}
	for p.pair != nil && p.connected == p.gen {
		b := p.pair.epochs.next()
		if b == nil {
			return
		}
		h := protocol.Header{Command: protocol.CmdBarrierAck, Length: uint32(len(b))}
		p.core.Receive(0, p.gen, protocol.MetaStream, h, b, nil)
		p.effects()
	}
}

// overlapping reports whether requests of the node that begins at an entry overlap.
func (rec Recording) overlapping(at int) bool {
	open := map[int]bool{}
	for i := at + 1; i < len(rec) && rec[i].Kind != Open; i++ {
		switch rec[i].Kind {
		case IO:
			if len(open) > 0 {
				return true
			}
			open[rec[i].ID] = true
		case Return:
			delete(open, rec[i].ID)
		}
	}
	return false
}

func (p *player) net(a core.NetAction) {
	switch a.Kind {
	case core.NetConnect:
		p.gen, p.connected, p.readMeta = a.Gen, 0, false
	case core.NetReadMeta:
		p.readMeta = true
	case core.NetClose:
		if a.Graceful {
			for st := range protocol.Stream(2) {
				p.send(st)
			}
		}
		gen := a.Gen
		p.connected = 0
		p.core.Closed(0, gen)
		p.effects()
	}
}

// perform does a disk operation; false means that it hangs.
func (p *player) perform(o *core.Op) bool {
	d := p.disks[o.Volume]
	m := d.data
	if o.Meta {
		m = d.meta
	}
	if m == nil {
		o.Err = io.ErrClosedPipe
		return true
	}
	for _, f := range d.faults {
		reads := f.Name == "read"
		if o.Meta || o.Kind == core.OpFlush || reads != (o.Kind == core.OpRead) || f.Len > 0 && (o.Off >= f.Off+f.Len || o.Off+o.Len <= f.Off) {
			continue
		}
		if f.Hang {
			d.hung = append(d.hung, o)
			return false
		}
		o.Err = errInjected
		return true
	}
	var err error
	switch o.Kind {
	case core.OpRead:
		if err = m.check(o.Off, int64(len(o.Buf))); err == nil {
			_, err = m.ReadAt(o.Buf, o.Off)
		}
	case core.OpWrite:
		_, err = m.WriteAt(o.Buf, o.Off)
	case core.OpDiscard, core.OpZero:
		err = m.zero(o.Off, o.Len)
	}
	if err != nil {
		p.fail(err) // the core must not ask for it
	}
	return true
}

func (p *player) heal() {
	for _, d := range p.disks {
		d.faults = nil
		hung := d.hung
		d.hung = nil
		for _, o := range hung {
			p.event(func() {
				p.perform(o)
				p.core.OpDone(o)
			})
		}
	}
}

// until lets time pass up to a moment.
func (p *player) until(at time.Duration) {
	for p.core != nil && p.err == nil {
		due, ok := p.core.Deadline()
		if !ok || due > at {
			break
		}
		p.tick(due)
	}
	p.now = max(p.now, at)
	if p.core != nil {
		p.core.Advance(p.now)
	}
}

// wait lets time pass until something is so.
func (p *player) wait(so func() bool, what string) error {
	end := p.now + patience
	var was string
	if !so() {
		was = p.describe()
	}
	for !so() && p.err == nil {
		due, ok := p.core.Deadline()
		if !ok || due > end {
			if !p.strict() {
				return nil
			}
			err := fmt.Errorf("%w: it was waited in vain for %s", ErrDiverged, what)
			if p.pair != nil {
				err = fmt.Errorf("%w\n%s", err, p.pair.describe())
			}
			return fmt.Errorf("%w\nit was: %s\nit is: %s", err, was, p.describe())
		}
		p.tick(due)
	}
	return p.err
}

// tick wakes the core at the time for which it asked. One that asks for the present
// again and again would keep a processor busy for ever.
func (p *player) tick(due time.Duration) {
	if due > p.now {
		p.now, p.ticks = due, 0
	}
	if p.ticks++; p.ticks > maxTicks {
		p.fail(fmt.Errorf("%w: its timer does not move", ErrDiverged))
	}
	p.event(func() { p.core.Tick() })
}

func (p *player) matched() bool { return !p.strict() || p.pair == nil || len(p.pair.missing) == 0 }

func (p *player) describe() string {
	var b strings.Builder
	for _, v := range StatusOf(p.core.Snapshot()) {
		fmt.Fprintf(&b, "%s oos %d ids %s; ", v.State, v.OutOfSync, v.IDs)
	}
	return b.String()
}
