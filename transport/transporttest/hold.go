// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/transport"
)

const magicH100 = 0x8620ec20 // spec: wire 2.3

// Holder is a Transport that can hold back packets which the peer sends, by command.
// A held packet also holds what follows it on its stream, as a slow network would; the
// other stream goes on. All methods are safe for concurrent use.
type Holder struct {
	transport.Transport

	mu       sync.Mutex
	wake     sync.Cond
	commands []protocol.Command
	held     int
}

// NewHolder wraps a transport. It holds nothing until Hold is called.
func NewHolder(t transport.Transport) *Holder {
	h := &Holder{Transport: t}
	h.wake.L = &h.mu
	return h
}

// Hold holds packets of these commands from now on. What is read already is not affected.
func (h *Holder) Hold(commands ...protocol.Command) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commands = append(h.commands, commands...)
}

// Release lets everything pass again.
func (h *Holder) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commands = nil
	h.wake.Broadcast()
}

// WaitHeld waits until at least n streams are being held.
func (h *Holder) WaitHeld(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.held < n {
		h.wake.Wait()
	}
}

// Connect forms a pair with the wrapped transport.
func (h *Holder) Connect(ctx context.Context) (*transport.Pair, error) {
	p, err := h.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	p.Data, p.Meta = &heldConn{Conn: p.Data, h: h}, &heldConn{Conn: p.Meta, h: h}
	return p, nil
}

// heldConn reads whole packets and gives them on when they may pass.
type heldConn struct {
	net.Conn
	h      *Holder
	buf    []byte // of the present packet, not yet read
	ending bool   // under h.mu
}

func (c *heldConn) Read(p []byte) (int, error) {
	if len(c.buf) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf)
	c.buf = c.buf[n:]
	return n, nil
}

// next reads one packet and waits until it may pass.
func (c *heldConn) next() error {
	head := make([]byte, 8, 16)
	if n, err := io.ReadFull(c.Conn, head); err != nil {
		c.buf = head[:n] // the reader gets what came
		if n > 0 {
			return nil
		}
		return err
	}
	version := protocol.Version(0)
	if binary.BigEndian.Uint32(head) == magicH100 {
		version = 100
		head = head[:16]
		if n, err := io.ReadFull(c.Conn, head[8:]); err != nil {
			c.buf = head[:8+n]
			return nil
		}
	}
	hdr, err := protocol.DecodeHeader(head, version)
	if err != nil {
		c.buf = head // not ours to judge
		return nil
	}
	packet := append(head, make([]byte, hdr.Length)...)
	n, err := io.ReadFull(c.Conn, packet[len(head):])
	c.buf = packet[:len(head)+n]
	if err != nil {
		return nil
	}
	return c.pass(hdr.Command)
}

// pass waits while packets of a command are held.
func (c *heldConn) pass(cmd protocol.Command) error {
	h := c.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.commands, cmd) {
		return nil
	}
	h.held++
	defer func() { h.held-- }()
	h.wake.Broadcast()
	for slices.Contains(h.commands, cmd) {
		if c.ending {
			return os.ErrDeadlineExceeded
		}
		h.wake.Wait()
	}
	return nil
}

// SetReadDeadline passes the deadline on. A reader of a held packet gives up at once,
// because deadlines are set for the end of a connection only.
func (c *heldConn) SetReadDeadline(t time.Time) error {
	c.end(!t.IsZero())
	return c.Conn.SetReadDeadline(t)
}

func (c *heldConn) Close() error {
	c.end(true)
	return c.Conn.Close()
}

func (c *heldConn) end(now bool) {
	c.h.mu.Lock()
	c.ending = now
	c.h.wake.Broadcast()
	c.h.mu.Unlock()
}
