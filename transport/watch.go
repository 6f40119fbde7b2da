// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// half is one stream of a pair that is being formed. A goroutine waits for the
// stream to end, so that a crossing is noticed at once and not only when the
// check interval is over.
type half struct {
	conn net.Conn
	own  bool          // this node dialled it
	dead chan struct{} // closed when the stream has ended
	err  error         // why; set before dead is closed
	done chan struct{} // closed when the goroutine has returned
}

// WaitMeta waits until the meta stream can be read or ctx has ended, and returns nil, or
// until it has ended, and returns why. It takes no bytes, for the time before it is known
// what form they have. Nobody may read the stream or set its read deadline meanwhile; a
// deadline that was set before is gone afterwards. On a stream without a way to wait (see
// Waiter), which no Transport of this package makes, it waits for ctx.
func (p *Pair) WaitMeta(ctx context.Context) error {
	if !canWait(p.Meta) {
		<-ctx.Done()
		return nil
	}
	h := &half{conn: p.Meta, dead: make(chan struct{})}
	h.start()
	select {
	case <-ctx.Done():
	case <-h.done:
	}
	err := h.stop()
	if !h.isDead() {
		return nil
	}
	return err
}

// watch takes charge of c.
func watch(c net.Conn, own bool) *half {
	if !canWait(c) {
		c = &peeked{Conn: c}
	}
	h := &half{conn: c, own: own, dead: make(chan struct{})}
	h.start()
	return h
}

func (h *half) start() {
	h.done = make(chan struct{})
	go func() {
		defer close(h.done)
		err := waitReadable(h.conn)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			h.err = err
			close(h.dead)
		}
	}()
}

// stop ends the watching and returns nil if the stream is alive.
func (h *half) stop() error {
	// An error of SetReadDeadline means that the stream is closed, then the
	// goroutine ends by itself.
	_ = h.conn.SetReadDeadline(time.Unix(1, 0))
	<-h.done
	if h.isDead() {
		return h.err
	}
	return h.conn.SetReadDeadline(time.Time{})
}

// close ends the watching and the stream.
func (h *half) close() {
	h.conn.Close()
	<-h.done
}

func (h *half) isDead() bool {
	select {
	case <-h.dead:
		return true
	default:
		return false
	}
}

// canWait tells whether waitReadable works on c without a wrapper.
func canWait(c net.Conn) bool {
	switch c.(type) {
	case Waiter:
		return true
	case *net.TCPConn:
		return canPeekTCP
	}
	return false
}

// waitReadable waits until c can be read, or has ended, or its read deadline is over.
func waitReadable(c net.Conn) error {
	switch c := c.(type) {
	case Waiter:
		return c.WaitReadable()
	case *net.TCPConn:
		return waitReadableTCP(c)
	}
	panic("transport: waitReadable on a stream that cannot") // canWait was asked first
}

// peeked is a stream that waits for readability by reading a byte ahead.
type peeked struct {
	net.Conn
	has  bool
	byte [1]byte
}

// NetConn returns the stream beneath. It must not be read from: the first byte
// may have been taken out of it.
func (p *peeked) NetConn() net.Conn { return p.Conn }

// CloseWrite ends the outgoing direction if the stream beneath can do that.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// WaitReadable implements Waiter. No Read may be under way.
func (p *peeked) WaitReadable() error {
	for !p.has {
		n, err := p.Conn.Read(p.byte[:])
		if n == 0 && err != nil {
			return err
		}
		p.has = n == 1
	}
	return nil
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if p.has && len(b) > 0 {
		p.has = false
		b[0] = p.byte[0]
		return 1, nil
	}
	return p.Conn.Read(b)
}
