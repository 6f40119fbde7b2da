// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// network joins two nodes by pairs of streams.
type network struct {
	c     *Cluster
	down  bool
	wants [2]uint64 // gen of the node that looks for the peer, 0 if none
	pair  *pair

	mute  [2]bool // what this node sends never arrives: a half-open link
	stuck [2]bool // this node reads nothing
	bytes int     // per millisecond, 0 for no limit
	cross int     // so many pairs break while they are formed
}

// pair is one connection: four byte streams, two in each direction.
type pair struct {
	net    *network
	gen    [2]uint64
	ends   [2][2]*stream // [sender][stream]
	up     [2]bool       // the end was told that the pair exists
	deaf   [2]bool       // the end closes: what still arrives is discarded
	closed [2]bool
	sever  bool
}

// stream carries bytes one way, in order, with delay. cut drops what is under way
// from some byte on.
type stream struct {
	p        *pair
	from     int
	kind     protocol.Stream
	buf      []byte // arrived and not yet consumed by the receiver
	lastAt   time.Duration
	busy     bool
	eof      bool
	finished bool
	hole     bool // bytes got lost: nothing arrives any more
	unread   int  // bytes that the receiver has not taken
	since    time.Duration
	spare    *core.Out
}

var (
	errCut   = errors.New("sim: the link is cut")
	errStuck = errors.New("sim: the peer takes nothing")
)

// tryConnect forms a pair when both nodes look for each other.
func (n *network) tryConnect() {
	if n.down || n.mute[0] || n.mute[1] || n.pair != nil || n.wants[0] == 0 || n.wants[1] == 0 {
		return
	}
	p := &pair{net: n, gen: n.wants}
	for from := range 2 {
		for st := range 2 {
			p.ends[from][st] = &stream{p: p, from: from, kind: protocol.Stream(st), spare: &core.Out{}}
		}
	}
	n.pair = p
	n.wants = [2]uint64{}
	accepts := n.c.rng.IntN(2)
	if n.cross > 0 { // both called, and each hung up on the other: one end or none saw it
		n.cross--
		n.c.after(n.c.delay(), func() {
			if n.pair == p {
				n.cutNow(errCut)
			}
		})
	}
	for i := range 2 {
		n.c.after(n.c.delay(), func() {
			nd := n.c.Nodes[i]
			if nd.core == nil || n.pair != p || p.closed[i] {
				return
			}
			p.up[i] = true
			boot := nd.boot
			nd.lookAtDisks()
			nd.event(func() { nd.core.Connected(0, p.gen[i], i == accepts) })
			if p.sever {
				n.c.after(n.c.delay(), func() {
					if nd.boot == boot {
						p.lost(i, protocol.DataStream, errCut)
					}
				})
			}
			for _, s := range p.ends[1-i] {
				n.c.after(0, s.deliver)
			}
		})
	}
}

// cutNow breaks the pair without protocol: both ends notice, each in its time.
func (n *network) cutNow(why error) {
	p := n.pair
	if p == nil || p.sever {
		return
	}
	p.sever = true
	for i := range 2 {
		n.c.after(n.c.delay(), func() { p.lost(i, protocol.Stream(n.c.rng.IntN(2)), why) })
	}
}

// lost tells one end that its pair is broken.
func (p *pair) lost(i int, st protocol.Stream, why error) {
	nd := p.net.c.Nodes[i]
	if p.closed[i] || nd.core == nil || nd.gen != p.gen[i] {
		return
	}
	nd.event(func() { nd.core.Lost(0, p.gen[i], st, why, false) })
}

// pump takes what a node has to send and puts it on the way.
func (p *pair) pump(from int) {
	nd := p.net.c.Nodes[from]
	if nd.core == nil || nd.paused || p.closed[from] || nd.gen != p.gen[from] {
		return
	}
	for _, s := range p.ends[from] {
		s.pump(nd)
	}
}

func (s *stream) pump(nd *Node) {
	c := s.p.net.c
	if s.busy || s.finished {
		return
	}
	o := nd.core.TakeOut(0, s.kind, s.spare)
	if o == nil {
		return
	}
	s.busy, s.spare = true, nil
	data := make([]byte, 0, o.Len())
	for _, b := range o.Buffers(nil) {
		data = append(data, b...)
	}
	s.since = c.now
	c.after(c.delay(), func() { s.sent(o, nd.boot) })
	// It arrives in order, at some time, perhaps in pieces: a cut may come between.
	for range c.rng.IntN(4) / 2 {
		k := c.rng.IntN(len(data) + 1)
		s.arrive(data[:k])
		data = data[k:]
	}
	s.arrive(data)
}

// socketBytes is what the two kernels hold of a stream that is not read.
const socketBytes = 256 << 10

// sent gives the writer its buffer back, once the peer's kernel has taken enough.
func (s *stream) sent(o *core.Out, boot int) {
	p, c := s.p, s.p.net.c
	nd := c.Nodes[s.from]
	alive := nd.core != nil && nd.boot == boot && nd.gen == p.gen[s.from]
	if alive && s.unread > socketBytes && !p.sever && !p.deaf[s.from] && !p.closed[1-s.from] {
		if limit := c.cfg.Net.Timeout * time.Duration(c.cfg.Net.KoCount); limit > 0 && c.now-s.since > limit {
			nd.event(func() { nd.core.Lost(0, p.gen[s.from], s.kind, errStuck, true) })
		}
		c.after(50*time.Millisecond, func() { s.sent(o, boot) })
		return
	}
	if !alive {
		s.busy, s.spare = false, o
		return
	}
	nd.event(func() { // and then it goes on sending
		s.busy, s.spare = false, o
		nd.core.OutDone(0, o)
	})
}

func (s *stream) arrive(data []byte) {
	n, c := s.p.net, s.p.net.c
	s.lastAt = max(s.lastAt, c.now+c.delay())
	if n.bytes > 0 {
		s.lastAt += time.Duration(len(data)) * time.Millisecond / time.Duration(n.bytes)
	}
	s.unread += len(data)
	if n.mute[s.from] {
		s.hole = true
	}
	c.after(s.lastAt-c.now, func() {
		if s.p.sever || s.hole {
			return // cut: what was under way is gone, and so is all that follows
		}
		if len(s.buf) == 0 {
			s.buf = data[:len(data):len(data)]
		} else {
			s.buf = append(s.buf, data...)
		}
		s.deliver()
	})
}

// deliver hands complete packets to the receiver.
func (s *stream) deliver() {
	to := 1 - s.from
	nd := s.p.net.c.Nodes[to]
	for {
		if nd.core == nil || nd.gen != s.p.gen[to] || s.p.closed[to] || s.p.deaf[to] || !s.p.up[to] || s.p.net.stuck[to] || nd.paused {
			return
		}
		sess := nd.core.Session(0)
		if s.kind == protocol.MetaStream && !nd.readMeta {
			return
		}
		hs := protocol.HeaderSize(sess.Version)
		if len(s.buf) < hs {
			break
		}
		h, err := protocol.DecodeHeader(s.buf[:hs], sess.Version)
		if err == nil {
			err = sess.CheckHeader(s.kind, h)
		}
		if err != nil {
			s.p.net.c.failf("node %d: bad packet on %v: %v", to, s.kind, err)
			return
		}
		if len(s.buf) < hs+int(h.Length) {
			break
		}
		body := s.buf[hs : hs+int(h.Length)]
		front := sess.PayloadOffset(h)
		var payload *core.Buffer
		if front < len(body) {
			payload = &core.Buffer{Data: append([]byte(nil), body[front:]...)}
		}
		head := append([]byte(nil), body[:front]...)
		s.buf = s.buf[hs+int(h.Length):]
		s.unread -= hs + int(h.Length)
		if len(head) >= 20 { // most packets of that length begin with a sector
			s.p.net.c.tracef("%d<%d %v %v v%d len %d sector %d", to, s.from, s.kind, h.Command, h.Volume, h.Length, binary.BigEndian.Uint64(head))
		} else {
			s.p.net.c.tracef("%d<%d %v %v v%d len %d", to, s.from, s.kind, h.Command, h.Volume, h.Length)
		}
		if h.Command == protocol.CmdSizes {
			nd.lookAtDisks()
		}
		nd.event(func() { nd.core.Receive(0, s.p.gen[to], s.kind, h, head, payload) })
	}
	if s.eof {
		s.p.lost(to, s.kind, io.EOF)
	}
}

// closeEnd closes one end of the pair; the other reads what was sent, then EOF.
func (p *pair) closeEnd(i int, graceful bool) {
	c := p.net.c
	if p.closed[i] {
		return
	}
	nd := c.Nodes[i]
	if graceful && nd.core != nil {
		p.pump(i)
	}
	for _, s := range p.ends[i] {
		if s.busy && nd.core != nil { // wait until the writer has its buffer back
			c.after(time.Millisecond, func() { p.closeEnd(i, graceful) })
			return
		}
	}
	p.closed[i] = true
	for _, s := range p.ends[i] {
		s.finished = true
		s.lastAt = max(s.lastAt, c.now+c.delay())
		c.after(s.lastAt-c.now, func() {
			if !p.sever && !s.hole && !p.net.mute[s.from] {
				s.eof = true
				s.deliver()
			}
		})
	}
	if p.closed[0] && p.closed[1] && p.net.pair == p {
		p.net.pair = nil
		c.after(c.delay(), p.net.tryConnect)
	}
	if nd.core != nil && nd.gen == p.gen[i] {
		c.after(c.delay(), func() {
			if nd.core != nil && nd.gen == p.gen[i] {
				nd.event(func() { nd.core.Closed(0, p.gen[i]) })
			}
		})
	}
}

// stall makes a node read nothing, or go on.
func (n *network) stall(i int, on bool) {
	n.stuck[i] = on
	if p := n.pair; p != nil && !on {
		for _, s := range p.ends[1-i] {
			n.c.after(0, s.deliver)
		}
	}
}

// healthy ends all faults of the link.
func (n *network) healthy() {
	n.mute, n.bytes, n.cross = [2]bool{}, 0, 0
	for i := range 2 {
		n.stall(i, false)
	}
	// What has lost bytes can only break.
	if p := n.pair; p != nil {
		for from := range 2 {
			for _, s := range p.ends[from] {
				if s.hole {
					n.cutNow(errCut)
				}
			}
		}
	}
}
