// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// Out is a run of packets for one stream, in the order in which the core
// produced them: headers and small bodies encoded into one arena, payloads by
// reference. The shell swaps it out with Core.TakeOut, writes Buffers() with
// one writev, and returns it with Core.OutDone.
type Out struct {
	arena []byte
	segs  []segment
	bytes int
}

// segment is either arena[from:to] or a payload.
type segment struct {
	from, to int
	payload  []byte
	req      *request // its application buffer is pinned until the segment is released
	buf      *Buffer  // freed when the segment is released
}

// Empty reports whether o holds no packet.
func (o *Out) Empty() bool { return len(o.segs) == 0 }

// Len returns the number of bytes in o.
func (o *Out) Len() int { return o.bytes }

// Buffers appends the pieces of o, in order, to dst.
func (o *Out) Buffers(dst [][]byte) [][]byte {
	for i := range o.segs {
		s := &o.segs[i]
		if s.payload != nil {
			dst = append(dst, s.payload)
		} else {
			dst = append(dst, o.arena[s.from:s.to])
		}
	}
	return dst
}

// commit records that the arena grew: the new bytes join the last segment if
// that lies in the arena too.
func (o *Out) commit(from int) {
	n := len(o.arena) - from
	if n == 0 {
		return
	}
	o.bytes += n
	if l := len(o.segs); l > 0 && o.segs[l-1].payload == nil && o.segs[l-1].to == from {
		o.segs[l-1].to = len(o.arena)
		return
	}
	o.segs = append(o.segs, segment{from: from, to: len(o.arena)})
}

// attach adds a payload by reference.
func (o *Out) attach(payload []byte, req *request, buf *Buffer) {
	if len(payload) == 0 {
		buf.Release()
		return
	}
	o.bytes += len(payload)
	if req != nil {
		req.pins++
	}
	o.segs = append(o.segs, segment{payload: payload, req: req, buf: buf})
}

func (o *Out) reset() {
	clear(o.segs)
	o.arena, o.segs, o.bytes = o.arena[:0], o.segs[:0], 0
}

// TakeOut swaps the packets that wait on a stream for the empty spare, and
// returns them; nil if there are none (spare is then not taken). At most one
// Out per stream may be out of the core's hands at a time: the order of packets depends on it.
func (c *Core) TakeOut(peer int, s protocol.Stream, spare *Out) *Out {
	p := c.peers[peer]
	o := p.out[s]
	if o.Empty() {
		return nil
	}
	spare.reset()
	p.out[s] = spare
	return o
}

// OutPending reports whether packets wait on a stream, and how many bytes.
func (c *Core) OutPending(peer int, s protocol.Stream) int { return c.peers[peer].out[s].bytes }

// OutDone returns an Out that was sent, or never will be: its payload
// references are dropped, and requests that waited for that complete.
func (c *Core) OutDone(peer int, o *Out) {
	for i := range o.segs {
		s := &o.segs[i]
		if s.req != nil {
			r := s.req
			r.pins--
			c.maybeComplete(r)
		}
		s.buf.Release()
	}
	o.reset()
	c.retryPeerReads(c.peers[peer])
}
