// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"net"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// stream is one of the two connections of a link, as its senders see it. At any
// time one goroutine at most writes on it: the one that found sending unset. What
// the core produces meanwhile waits there, and leaves with the next writev.
type stream struct {
	link  *link
	id    protocol.Stream
	conn  net.Conn
	limit time.Duration // a send may make no progress for this long; 0 for ever

	// Guarded by Resource.mu.
	sending bool
	broken  bool
	spare   *core.Out

	kick chan struct{} // wakes the stream's own sender

	// Of the goroutine that sends.
	pieces   net.Buffers
	rest     net.Buffers
	joined   []byte
	deadline time.Time
}

// joinBytes is the most that is copied together for one Write.
const joinBytes = 64 << 10

func newStream(l *link, id protocol.Stream, conn net.Conn, limit time.Duration) *stream {
	return &stream{link: l, id: id, conn: conn, limit: limit, kick: make(chan struct{}, 1)}
}

// signal wakes the stream's own sender.
func (st *stream) signal() {
	select {
	case st.kick <- struct{}{}:
	default:
	}
}

// run is the stream's own sender. It sends what nobody else may send: receivers
// and queues must not wait for the peer.
func (st *stream) run() {
	w := newWork()
	w.may, w.sender = 1<<st.id, true
	for {
		select {
		case <-st.kick:
			st.link.r.visit(w, nil)
			w.loop(st.link.r)
		case <-st.link.closed:
			st.finish(w)
			return
		}
	}
}

// finish sends what is left when a link is closed gracefully.
func (st *stream) finish(w *work) {
	l := st.link
	for {
		l.r.mu.Lock()
		others := st.sending // they come back: the link's end bounds every send
		over := !l.graceful || st.broken || l.r.failed != nil || !others && l.r.core.OutPending(l.peer, st.id) == 0
		l.r.mu.Unlock()
		switch {
		case over:
			return
		case others:
			<-st.kick
		default:
			l.r.visit(w, nil)
			w.loop(l.r)
		}
	}
}

// write sends all of out. A timeout means that for st.limit not one byte went out;
// as long as some do, it takes as long as it takes.
func (st *stream) write(out *core.Out) error {
	if out.Empty() {
		return nil
	}
	st.pieces = out.Buffers(st.pieces[:0])
	st.rest = st.pieces
	defer clear(st.pieces)
	if _, ok := st.conn.(*net.TCPConn); !ok {
		return st.writeJoined()
	}
	for {
		if err := st.extend(); err != nil {
			return err
		}
		n, err := st.writeVector()
		if err == nil {
			return nil
		}
		if n == 0 || !isTimeout(err) {
			return err
		}
		st.deadline = time.Time{}
	}
}

// writeVector writes st.rest with one system call where that takes all of it, and
// leaves in it what could not be written.
func (st *stream) writeVector() (int64, error) {
	if len(st.rest) == 1 {
		n, err := st.conn.Write(st.rest[0])
		st.rest[0] = st.rest[0][n:]
		return int64(n), err
	}
	return st.rest.WriteTo(st.conn)
}

// writeJoined writes st.rest to a connection that has no writev, TLS for example:
// small pieces are copied together, because every Write costs a record and a
// system call. After a timeout such a connection cannot go on.
func (st *stream) writeJoined() error {
	for i := 0; i < len(st.rest); {
		p := st.rest[i]
		if i++; len(p) < directBytes && i < len(st.rest) {
			st.joined = append(st.joined[:0], p...)
			for ; i < len(st.rest) && len(st.joined)+len(st.rest[i]) <= joinBytes; i++ {
				st.joined = append(st.joined, st.rest[i]...)
			}
			p = st.joined
		}
		if err := st.extend(); err != nil {
			return err
		}
		if _, err := st.conn.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// extend moves the write deadline so that it lies between one and two times the
// limit away: rarely, because it costs as much as a small write.
func (st *stream) extend() error {
	if st.limit <= 0 {
		return nil
	}
	now := time.Now()
	if st.deadline.Sub(now) >= st.limit {
		return nil
	}
	st.deadline = now.Add(2 * st.limit)
	return st.conn.SetWriteDeadline(st.deadline)
}
