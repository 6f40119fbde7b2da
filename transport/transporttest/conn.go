// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"net"
	"sync"
	"time"
)

// Conn is one end of a connection in memory. It is what the streams of a Pair are,
// so a test can reach its methods: pair.Data.(*transporttest.Conn).
type Conn struct {
	net           *Network
	link          *link
	in, out       *pipe
	local, remote Addr

	mu     sync.Mutex
	left   int64 // bytes until the connection is reset; -1: never
	closed bool
	peer   *Conn
}

var _ net.Conn = (*Conn)(nil)

// Addr is the address of one end of a connection: the node's name and the number
// of the connection.
type Addr string

// Network implements net.Addr.
func (Addr) Network() string { return "memory" }

// String implements net.Addr: "alpha#3".
func (a Addr) String() string { return string(a) }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	return n, c.wrap("read", err)
}

// Write implements net.Conn. It returns when b is in the buffer to the peer, which
// holds a bounded number of bytes (Network.SetBuffer).
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.Write(b, c.allow)
	return n, c.wrap("write", err)
}

// allow applies the limits of the connection and of the path.
func (c *Conn) allow(n int) (int, func()) {
	var cut func()
	c.mu.Lock()
	if c.left >= 0 && int64(n) >= c.left {
		n, cut = int(c.left), c.Reset
		c.left = -1
	} else if c.left >= 0 {
		c.left -= int64(n)
	}
	c.mu.Unlock()
	n, cutLink := c.out.path.take(n)
	if cutLink {
		cut = func() { c.net.Cut(c.out.path.from, c.out.path.to) }
	}
	return n, cut
}

// WaitReadable implements transport.Waiter.
func (c *Conn) WaitReadable() error { return c.wrap("read", c.in.waitReadable()) }

// CloseWrite ends the outgoing direction: the peer reads what was written and then
// io.EOF. The other direction goes on.
func (c *Conn) CloseWrite() error {
	c.out.closeWrite()
	return nil
}

// Close implements net.Conn. The peer reads what was written and then io.EOF; what
// it writes fails with ErrReset.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.wrap("close", net.ErrClosed)
	}
	c.closed = true
	c.mu.Unlock()
	c.out.closeWrite()
	c.in.closeRead()
	c.in.stopTimer(&c.in.read)
	c.out.stopTimer(&c.out.write)
	if c.peer.isClosed() {
		c.link.forget(c)
	}
	return nil
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Reset breaks the connection at both ends at once, stalled or not.
func (c *Conn) Reset() {
	c.in.reset()
	c.out.reset()
}

// ResetAfter lets n more bytes of Write through and then breaks the connection at
// both ends. A negative n takes it back.
func (c *Conn) ResetAfter(n int64) {
	c.mu.Lock()
	c.left = max(n, -1)
	c.mu.Unlock()
	if n == 0 {
		c.Reset()
	}
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.isClosed() {
		return c.wrap("set", net.ErrClosed)
	}
	c.in.setDeadline(&c.in.read, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.isClosed() {
		return c.wrap("set", net.ErrClosed)
	}
	c.out.setDeadline(&c.out.write, t)
	return nil
}

// wrap makes err a net.OpError, as the net package's connections do. io.EOF stays.
func (c *Conn) wrap(op string, err error) error {
	if err == nil || isEOF(err) {
		return err
	}
	return &net.OpError{Op: op, Net: "memory", Source: c.local, Addr: c.remote, Err: err}
}
