// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/go-blockmirror/blockmirror/transport"
)

// lingerTimeout bounds the orderly end of a connection: sending what is queued,
// and reading until the peer has closed too. patience is the part of it in which
// the peer, which wanted to leave, may close first.
const (
	lingerTimeout = 2 * time.Second
	patience      = 500 * time.Millisecond
	// refusalTimeout bounds the same where the peer has to come to a verdict of its
	// own. A kernel runs its split-brain handlers before it leaves.
	refusalTimeout = 5 * time.Second
)

// Pauses between attempts after a transport that fails at once.
const (
	connectPauseMin = 100 * time.Millisecond
	connectPauseMax = 10 * time.Second
)

// link is one connection with the peer, from the attempt to form it (NetConnect) to
// the end of its last goroutine (Closed). There is at most one for each peer.
//
//	               ┌ reader data ── Receive ──►┐
//	link.run ──────┤ reader meta ── Receive ──►├ core
//	               ├ sender data ◄── TakeOut ──┤
//	               └ sender meta ◄── TakeOut ──┘
type link struct {
	r      *Resource
	peer   int
	gen    uint64
	ctx    context.Context // ends when the link is to be closed
	cancel context.CancelFunc

	// Guarded by Resource.mu.
	pair     *transport.Pair // nil while connecting
	streams  [2]*stream
	closing  bool
	graceful bool
	patient  bool // let the peer close first
	refused  bool // let the peer come to a verdict
	users    int  // Outs of the link that are being sent

	closed    chan struct{} // closed when closing is set
	quiet     chan struct{} // closed when closing is set and users is 0
	readMeta  chan struct{} // closed by NetReadMeta
	metaAsked bool
	full      bool          // the data stream is not read: the peer has too much under way
	drained   chan struct{} // says that it may be
	holdAcks  bool          // nobody waits for an ack before the disk has written
	payloads  *buffers      // memory for what the peer sends
}

// netAction carries out what the core wants of the network. It is called under the
// lock and does not block.
func (r *Resource) netAction(a core.NetAction) {
	if a.Kind == core.NetConnect {
		l := &link{
			r: r, peer: a.Peer, gen: a.Gen,
			closed: make(chan struct{}), quiet: make(chan struct{}), readMeta: make(chan struct{}),
			drained: make(chan struct{}, 1),
		}
		l.holdAcks = r.core.Net().Protocol != protocol.B
		l.ctx, l.cancel = context.WithCancel(context.Background())
		r.links[a.Peer] = l
		r.wg.Go(l.run)
		return
	}
	l := r.links[a.Peer]
	switch {
	case l == nil || l.gen != a.Gen:
	case a.Kind == core.NetReadMeta && !l.metaAsked:
		l.metaAsked = true
		close(l.readMeta)
	case a.Kind == core.NetClose:
		// Who answers a wish to disconnect leaves last: the answer is on the meta
		// stream, and the end of the data stream must not overtake it.
		l.patient = r.core.Snapshot().Peers[a.Peer].Conn == protocol.TearDown
		l.refused = a.Refused
		l.shut(a.Graceful)
	}
}

// shut begins the end of the link. It is called under the lock.
func (l *link) shut(graceful bool) {
	if l.closing {
		return
	}
	l.closing, l.graceful = true, graceful
	l.cancel()
	close(l.closed)
	l.checkQuiet()
}

// released counts an Out that came back. It is called under the lock.
func (l *link) released() {
	l.users--
	l.checkQuiet()
}

func (l *link) checkQuiet() {
	if l.closing && l.users == 0 && !isClosed(l.quiet) {
		close(l.quiet)
	}
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// run is the life of a link.
func (l *link) run() {
	if pair := l.connect(); pair != nil {
		l.serve(pair)
		pair.Close()
	}
	<-l.closed
	<-l.quiet
	l.cancel()
	w := newWork()
	l.r.mu.Lock()
	if l.r.links[l.peer] == l {
		l.r.links[l.peer] = nil
	}
	l.r.step(w, func(c *core.Core) { c.Closed(l.peer, l.gen) })
	l.r.mu.Unlock()
	w.loop(l.r)
}

// connect forms the pair, or returns nil if the link is to be closed.
func (l *link) connect() *transport.Pair {
	t := l.r.cfg.Peers[l.peer].Transport
	for pause := connectPauseMin; ; pause = min(2*pause, connectPauseMax) {
		began := time.Now()
		pair, err := t.Connect(l.ctx)
		switch {
		case err == nil && l.ctx.Err() == nil:
			return pair
		case err == nil:
			pair.Close()
			return nil
		case l.ctx.Err() != nil:
			return nil
		}
		if time.Since(began) > connectPauseMax {
			pause = connectPauseMin
		}
		l.r.log.warn(fmt.Sprintf("cannot connect to %s over %s, next attempt in %v: %v", l.name(), t, pause, err), -1)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (l *link) name() string { return l.r.cfg.Peers[l.peer].Name }

// serve runs the goroutines of a pair until the link is closed.
func (l *link) serve(pair *transport.Pair) {
	r := l.r
	r.mu.Lock()
	peer := r.peer
	r.mu.Unlock()
	l.payloads = newBuffers(maxBuffersOf(&Config{Peers: []PeerConfig{peer}}))
	defer l.payloads.close()
	data := newStream(l, protocol.DataStream, pair.Data, dataTimeout(&peer))
	meta := newStream(l, protocol.MetaStream, pair.Meta, timeoutOf(&peer))
	w := newWork()
	grown := r.deviceSizes()
	r.visit(w, func(c *core.Core) {
		if l.closing {
			return
		}
		for _, g := range grown {
			c.DeviceSize(g.vol, g.bytes)
		}
		l.pair, l.streams = pair, [2]*stream{data, meta}
		r.remotes[l.peer] = pair.Remote
		for i, st := range l.streams {
			st.spare = r.spares[l.peer][i]
		}
		c.Connected(l.peer, l.gen, pair.Resolver)
	})
	w.loop(r)

	var readers, senders sync.WaitGroup
	readers.Go(newReader(l, data).run)
	readers.Go(func() { newReader(l, meta).runMeta(pair) })
	senders.Go(data.run)
	senders.Go(meta.run)
	<-l.closed
	r.mu.Lock()
	graceful, patient, refused := l.graceful, l.patient, l.refused
	r.mu.Unlock()
	if graceful {
		hangUp(pair, patient, refused, &readers, &senders)
	}
	pair.Close()
	readers.Wait()
	senders.Wait()
	<-l.quiet
	r.mu.Lock()
	for i, st := range []*stream{data, meta} {
		if st.spare != nil {
			r.spares[l.peer][i] = st.spare
		}
	}
	r.mu.Unlock()
}

// hangUp ends a connection so that the peer can read all that was sent to it:
// everything queued goes out, then a FIN, and what the peer sends is read and
// dropped until it has closed too. Closing a socket with unread input would send
// a RST, which destroys what the peer has not yet read (spec: behaviour 4.5). After a
// refusal the meta stream ends last: a kernel that sees its end drops what it has not
// read on the data stream, and would not find out why.
func hangUp(pair *transport.Pair, patient, refused bool, readers, senders *sync.WaitGroup) {
	limit := lingerTimeout
	if refused {
		limit = refusalTimeout
	}
	cut := time.AfterFunc(limit, func() { pair.Close() })
	defer cut.Stop()
	conns := []net.Conn{pair.Data, pair.Meta}
	for _, c := range conns {
		c.SetReadDeadline(time.Now()) // the readers let go
	}
	senders.Wait()
	readers.Wait()
	if refused {
		endWriting(pair.Data, limit)
		io.Copy(io.Discard, pair.Data)
	}
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			if patient {
				c.SetReadDeadline(time.Now().Add(patience))
				io.Copy(io.Discard, c)
			}
			endWriting(c, patience)
			io.Copy(io.Discard, c)
		})
	}
	wg.Wait()
}

// endWriting tells the peer that no more comes, and prepares to wait for the same from
// it: for good, or for a while if the stream cannot be closed for writing alone.
func endWriting(c net.Conn, wait time.Duration) {
	end := time.Now().Add(wait)
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		cw.CloseWrite()
		end = time.Time{} // the peer will see it and close too
	}
	c.SetReadDeadline(end)
}

// isTimeout reports whether a send failed because it made no progress.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
