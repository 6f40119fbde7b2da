// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/go-blockmirror/blockmirror/transport"
)

const (
	readBufferBytes     = 256 << 10 // what is read at once from the data stream, when there is much
	idleReadBufferBytes = 32 << 10  // and until then: there may be hundreds of idle links
	metaReadBufferBytes = 32 << 10
	// directBytes is the payload size from which data that has not arrived yet is
	// read straight into its own aligned buffer. Smaller payloads are copied once.
	directBytes = 16 << 10
	// maxBatch is how many packets are handed to the core in one visit.
	maxBatch = 64
)

// reader reads one stream of a link and delivers its packets.
type reader struct {
	l    *link
	st   *stream
	conn net.Conn
	w    work

	buf        []byte
	head, tail int // buf[head:tail] has been read and not yet been taken apart
	session    protocol.Session
	batch      []packet
	over       bool // the link is closed: nothing is delivered any more
}

// packet is one received packet. body lies in the reader's buffer.
type packet struct {
	header  protocol.Header
	body    []byte
	payload *core.Buffer
}

func newReader(l *link, st *stream) *reader {
	rd := &reader{l: l, st: st, conn: st.conn}
	if st.id == protocol.DataStream {
		// The data reader sends the acks of what it has just received; the
		// meta reader must always come back to reading, so that the peer's acks
		// never wait for ours.
		rd.w.may, rd.w.solo = mayMeta, true
		rd.buf = make([]byte, idleReadBufferBytes)
	} else {
		rd.buf = make([]byte, metaReadBufferBytes)
	}
	return rd
}

// runMeta is run for the meta stream, which is not read before the protocol
// version is agreed: its header form is not known (spec: wire 2). That it has ended is
// seen before: the two nodes may have taken different connections for it.
func (rd *reader) runMeta(pair *transport.Pair) {
	ctx, cancel := context.WithCancel(rd.l.ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- pair.WaitMeta(ctx) }()
	var err error
	select {
	case <-rd.l.readMeta:
		cancel()
		err = <-ended
	case err = <-ended:
	}
	if err != nil {
		rd.lost(err)
		return
	}
	select {
	case <-rd.l.readMeta:
		rd.run()
	case <-rd.l.closed:
	}
}

// run reads until the stream or the link ends.
func (rd *reader) run() {
	defer rd.drop()
	rd.l.r.mu.Lock()
	rd.session = rd.l.r.core.Session(rd.l.peer)
	rd.l.r.mu.Unlock()
	for !rd.over {
		if err := rd.step(); err != nil {
			rd.lost(err)
			return
		}
	}
}

// step delivers what can be taken from the buffer, or reads more.
func (rd *reader) step() error {
	more, err := rd.parse()
	if len(rd.batch) > 0 {
		rd.deliver()
		return err // for what lies behind the batch
	}
	if err != nil || !more {
		return err
	}
	return rd.fill()
}

// parse takes whole packets from the buffer until the batch is complete. It
// reports whether the next packet needs more bytes than the buffer has.
func (rd *reader) parse() (more bool, err error) {
	for len(rd.batch) < maxBatch {
		size := protocol.HeaderSize(rd.session.Version)
		if rd.tail-rd.head < size {
			return true, nil
		}
		h, err := protocol.DecodeHeader(rd.buf[rd.head:rd.head+size], rd.session.Version)
		if err != nil {
			return false, err
		}
		if err := rd.session.CheckHeader(rd.st.id, h); err != nil {
			return false, err
		}
		front := rd.session.PayloadOffset(h)
		if rd.tail-rd.head < size+front {
			return true, nil
		}
		p := packet{header: h, body: rd.buf[rd.head+size : rd.head+size+front]}
		if n := int(h.Length) - front; n > 0 {
			got := min(rd.tail-rd.head-size-front, n)
			if got < n && n < directBytes {
				return true, nil
			}
			if len(rd.batch) > 0 && got < n {
				return false, nil // the batch goes first, this packet has to be waited for
			}
			if p.payload, err = rd.payload(rd.buf[rd.head+size+front:][:got], n); p.payload == nil {
				return false, err
			}
			rd.head += got
		}
		rd.head += size + front
		rd.batch = append(rd.batch, p)
		if !streams(h.Command) {
			return false, nil // it may change what the next bytes mean
		}
	}
	return false, nil
}

// payload returns a buffer of n bytes that begins with start; the rest is read
// from the stream. nil without an error means that there is no memory before the
// batch has been delivered.
func (rd *reader) payload(start []byte, n int) (*core.Buffer, error) {
	buf := rd.l.payloads.Get(n)
	if buf == nil {
		if len(rd.batch) > 0 {
			return nil, nil
		}
		var err error
		if buf, err = rd.l.payloads.wait(rd.l.ctx, n); err != nil {
			return nil, err
		}
	}
	copy(buf.Data, start)
	if len(start) < n {
		if _, err := io.ReadFull(rd.conn, buf.Data[len(start):]); err != nil {
			buf.Release()
			return nil, err
		}
	}
	return buf, nil
}

// streams reports whether a packet is one of those that come in masses and leave
// the session as it is, so that the next one can be read before it was delivered.
func streams(c protocol.Command) bool {
	switch c {
	case protocol.CmdData, protocol.CmdDataReply, protocol.CmdRSDataReply, protocol.CmdBarrier,
		protocol.CmdTrim, protocol.CmdZeroes, protocol.CmdWSame, protocol.CmdUnplugRemote,
		protocol.CmdDataRequest, protocol.CmdRSDataRequest, protocol.CmdOutOfSync, protocol.CmdBitmap,
		protocol.CmdRecvAck, protocol.CmdWriteAck, protocol.CmdRSWriteAck, protocol.CmdBarrierAck,
		protocol.CmdNegAck, protocol.CmdPing, protocol.CmdPingAck, protocol.CmdRSIsInSync:
		return true
	}
	return false
}

// fill reads more into the buffer.
func (rd *reader) fill() error {
	switch {
	case rd.head == rd.tail:
		if rd.tail == len(rd.buf) && rd.st.id == protocol.DataStream && len(rd.buf) < readBufferBytes {
			rd.buf = make([]byte, readBufferBytes) // a read has filled it
		}
		rd.head, rd.tail = 0, 0
	case len(rd.buf)-rd.head < directBytes+protocol.MaxHeaderBytes+protocol.MaxFrontBytes:
		to := rd.buf
		if rd.st.id == protocol.DataStream && len(to) < readBufferBytes {
			to = make([]byte, readBufferBytes) // there is more than a small one takes
		}
		rd.tail = copy(to, rd.buf[rd.head:rd.tail])
		rd.buf, rd.head = to, 0
	}
	if rd.tail == len(rd.buf) {
		return fmt.Errorf("%w: a packet does not fit into the %v reader's buffer", protocol.ErrLength, rd.st.id)
	}
	n, err := rd.conn.Read(rd.buf[rd.tail:])
	rd.tail += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// deliver hands the batch to the core in one visit, then does what follows.
func (rd *reader) deliver() {
	l, full := rd.l, false
	grown := rd.grown()
	l.r.visit(&rd.w, func(c *core.Core) {
		if l.closing {
			rd.over = true
			return
		}
		for _, g := range grown {
			c.DeviceSize(g.vol, g.bytes)
		}
		for i := range rd.batch {
			p := &rd.batch[i]
			payload := p.payload
			p.payload = nil // the core's from here on
			c.Receive(l.peer, l.gen, rd.st.id, p.header, p.body, payload)
		}
		rd.session = c.Session(l.peer)
		full = rd.st.id == protocol.DataStream && c.Flooded(l.peer)
		l.full = l.full || full
	})
	rd.drop()
	rd.w.loop(l.r)
	if full {
		select { // as the peer then must
		case <-l.drained:
		case <-l.closed:
		}
	}
}

// drop lets go of a batch, or of what the core did not take of it.
func (rd *reader) drop() {
	for i := range rd.batch {
		rd.batch[i].payload.Release()
	}
	clear(rd.batch)
	rd.batch = rd.batch[:0]
}

// lost tells the core that the stream has ended.
func (rd *reader) lost(err error) {
	l := rd.l
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("closed by the peer: %w", err)
	}
	l.r.visit(&rd.w, func(c *core.Core) {
		if !l.closing {
			c.Lost(l.peer, l.gen, rd.st.id, err, false)
		}
	})
	rd.w.loop(l.r)
}
