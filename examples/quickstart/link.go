// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"sync"
)

// link is the network between the nodes: two TCP proxies, one in front of each
// node, through which both streams of the DRBD connection pass.
//
//	alpha ── dials ──> proxy ──> beta listens
//	alpha listens <── proxy <── dials ── beta
//
// It counts the bytes, and it can be cut: after a number of bytes, thus in the
// middle of a packet, all connections are reset, what comes after is lost, and new
// connections are reset too until it is mended.
type link struct {
	toAlpha, toBeta net.Listener
	running         sync.WaitGroup

	mu     sync.Mutex
	down   bool
	closed bool
	bytes  int64 // that passed so far
	cutAt  int64 // value of bytes at which the link breaks, 0 for never
	conns  map[net.Conn]bool
}

// newLink puts a link between two nodes that listen on these addresses.
func newLink(alpha, beta string) (*link, error) {
	toAlpha, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	toBeta, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		_ = toAlpha.Close()
		return nil, err
	}
	l := &link{toAlpha: toAlpha, toBeta: toBeta, conns: map[net.Conn]bool{}}
	l.running.Go(func() { l.accept(toAlpha, alpha) })
	l.running.Go(func() { l.accept(toBeta, beta) })
	return l, nil
}

// accept forwards what comes to a proxy until the proxy is closed.
func (l *link) accept(proxy net.Listener, target string) {
	for {
		in, err := proxy.Accept()
		if err != nil {
			return
		}
		l.running.Go(func() { l.forward(in, target) })
	}
}

// forward connects one connection with its target.
func (l *link) forward(in net.Conn, target string) {
	if !l.add(in) {
		return
	}
	defer l.remove(in)
	out, err := net.Dial("tcp", target)
	if err != nil || !l.add(out) {
		return // nobody listens now; the node will try again
	}
	defer l.remove(out)
	var back sync.WaitGroup
	back.Go(func() { l.pump(in, out) })
	l.pump(out, in)
	back.Wait()
}

// pump copies one direction until it ends, and passes on how it ended.
func (l *link) pump(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		pass := l.pass(n)
		_, failed := to.Write(buf[:pass])
		switch {
		case pass < n:
			l.cut()
			return
		case err == io.EOF && failed == nil:
			_ = to.(*net.TCPConn).CloseWrite() // the other direction goes on
			return
		case err != nil || failed != nil:
			reset(to)
			reset(from)
			return
		}
	}
}

// pass counts n bytes, and returns how many of them get through.
func (l *link) pass(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.down:
		return 0
	case l.cutAt > 0 && l.bytes+int64(n) > l.cutAt:
		n = int(l.cutAt - l.bytes)
		l.down = true
	}
	l.bytes += int64(n)
	return n
}

// cutAfter breaks the link when n more bytes have passed.
func (l *link) cutAfter(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAt = l.bytes + n
}

// cut breaks the link: every connection is reset.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.conns {
		reset(c)
	}
}

// mend lets new connections through again.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.cutAt = false, 0
}

// passed returns how many bytes went through so far, both directions together.
func (l *link) passed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// close ends the link and all its connections.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.toAlpha.Close()
	_ = l.toBeta.Close()
	l.cut()
	l.running.Wait()
}

// add notes a connection, or resets it if the link is down.
func (l *link) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down || l.closed {
		reset(c)
		return false
	}
	l.conns[c] = true
	return true
}

func (l *link) remove(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close()
}

// reset closes a connection without the courtesy of sending what is left.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
