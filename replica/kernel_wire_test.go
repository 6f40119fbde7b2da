// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// wire is the link between a node and a kernel: two ports that lead to theirs.
//
//	node   --> toKernel --> 127.0.0.1:hostfwd --> guest
//	kernel --> 10.0.2.2:toNode --> 127.0.0.1:node
type wire struct {
	node, kernel string // names, as of a scenario
	ports        [2]*wirePort

	mu      sync.Mutex
	down    bool
	open    map[*wireConn]struct{}
	ways    map[string]*way // by the sender's name
	changed chan struct{}   // closed and replaced when a stall ends, or the wire
	closed  bool
	wg      sync.WaitGroup
}

// way is what one side sends to the other, on all connections. Guarded by wire.mu.
type way struct {
	sent      int64
	stalled   bool
	delay     time.Duration
	bandwidth int64
	free      time.Time // when the line has sent what it was given
}

// wirePort is where one side finds the other.
type wirePort struct {
	address string // listened on
	target  string
	from    string // who dials
	ln      net.Listener
}

// newWire listens for a node that dials nodeDials, and for a kernel that dials kernelDials.
func newWire(node, kernel, nodeDials, toKernel, kernelDials, toNode string) (*wire, error) {
	w := &wire{node: node, kernel: kernel, open: map[*wireConn]struct{}{}, changed: make(chan struct{}),
		ways: map[string]*way{node: {}, kernel: {}}}
	w.ports = [2]*wirePort{
		{address: nodeDials, target: toKernel, from: node},
		{address: kernelDials, target: toNode, from: kernel},
	}
	return w, w.listen()
}

func (w *wire) listen() error {
	for _, p := range w.ports {
		ln, err := net.Listen("tcp4", p.address)
		if err != nil {
			return err
		}
		p.ln = ln
		w.wg.Go(func() { w.accept(p, ln) })
	}
	return nil
}

func (w *wire) accept(p *wirePort, ln net.Listener) {
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp4", p.target)
		if err != nil { // nobody is there: the dialler learns it as from the emulated network
			w.wg.Go(func() { refuse(near) })
			continue
		}
		w.join(p.from, near.(*net.TCPConn), far.(*net.TCPConn))
	}
}

// refuse ends a connection that leads nowhere, after its first packet. A kernel for which
// the reset comes between its connect and that packet takes its connection for broken
// (BrokenPipe), goes through the handshake on other sockets all the same, and then drops
// it: by then the node may have come to a verdict that the kernel does not learn of. A
// connection that is refused in earnest does not do that.
func refuse(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = c.Read(make([]byte, 1))
	abort(c)
}

// abort ends a connection with a reset.
func abort(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// wireConn is a connection through the wire.
type wireConn struct {
	near, far *net.TCPConn
	gone      chan struct{}
	once      sync.Once
}

func (c *wireConn) abort() {
	c.once.Do(func() {
		abort(c.near)
		abort(c.far)
		close(c.gone)
	})
}

func (w *wire) join(from string, near, far *net.TCPConn) {
	c := &wireConn{near: near, far: far, gone: make(chan struct{})}
	to := w.node
	if from == w.node {
		to = w.kernel
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down || w.closed {
		c.abort()
		return
	}
	w.open[c] = struct{}{}
	w.wg.Go(func() {
		var both sync.WaitGroup
		both.Go(func() { w.pump(c, from, near, far) })
		both.Go(func() { w.pump(c, to, far, near) })
		both.Wait()
		c.abort()
		w.mu.Lock()
		delete(w.open, c)
		w.mu.Unlock()
	})
}

// piece is what was read at once; without bytes it is the end.
type piece struct {
	b  []byte
	at time.Time // when it arrives
}

// pump carries one direction of a connection. At most 64 pieces of 16 KiB are under way.
func (w *wire) pump(c *wireConn, from string, in, out *net.TCPConn) {
	line := make(chan piece, 64)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range line {
			if !w.arrive(c, from, p.at) {
				continue
			}
			if len(p.b) == 0 {
				_ = out.CloseWrite()
			} else if _, err := out.Write(p.b); err != nil {
				c.abort()
			}
		}
	})
	for {
		b := make([]byte, 16<<10)
		n, err := in.Read(b)
		if n > 0 {
			line <- piece{b[:n], w.take(from, n)}
		}
		if err != nil {
			line <- piece{at: w.take(from, 0)}
			break
		}
	}
	close(line)
	writer.Wait()
}

// take counts n bytes, and says when they arrive.
func (w *wire) take(from string, n int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ways[from]
	p.sent += int64(n)
	at := time.Now()
	if p.bandwidth > 0 {
		if p.free.After(at) {
			at = p.free
		}
		at = at.Add(time.Duration(n) * time.Second / time.Duration(p.bandwidth))
		p.free = at
	}
	return at.Add(p.delay)
}

// arrive waits until a piece is there. It is false if the connection is gone.
func (w *wire) arrive(c *wireConn, from string, at time.Time) bool {
	if d := time.Until(at); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.gone:
			return false
		}
	}
	for {
		w.mu.Lock()
		stalled, changed := w.ways[from].stalled && !w.closed, w.changed
		w.mu.Unlock()
		if !stalled {
			return true
		}
		select {
		case <-changed:
		case <-c.gone:
			return false
		}
	}
}

func (w *wire) change(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		c.abort()
	}
}

func (w *wire) cut() {
	w.change(func() { w.down = true })
	for _, p := range w.ports {
		_ = p.ln.Close()
	}
	w.reset()
}

// heal panics if somebody has taken the ports meanwhile.
func (w *wire) heal() {
	was := false
	w.change(func() {
		was, w.down = w.down, false
		for _, p := range w.ways {
			p.stalled = false
		}
	})
	if !was {
		return
	}
	if err := w.listen(); err != nil {
		panic(fmt.Sprintf("the wire cannot be mended: %v", err))
	}
}

func (w *wire) stall(from string)  { w.change(func() { w.ways[from].stalled = true }) }
func (w *wire) resume(from string) { w.change(func() { w.ways[from].stalled = false }) }

func (w *wire) bytes(from string) (n int64) {
	w.change(func() { n = w.ways[from].sent })
	return n
}

func (w *wire) setDelay(d time.Duration) {
	w.change(func() { w.ways[w.node].delay, w.ways[w.kernel].delay = d, d })
}

func (w *wire) setBandwidth(n int64) {
	w.change(func() { w.ways[w.node].bandwidth, w.ways[w.kernel].bandwidth = n, n })
}

func (w *wire) Close() error {
	w.change(func() { w.closed = true })
	w.cut()
	w.wg.Wait()
	return nil
}
