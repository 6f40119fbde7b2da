// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// cable is what the nodes' connections run through, and what a test can pull out.
type cable struct {
	t         *testing.T
	mu        sync.Mutex
	broken    bool
	conns     map[net.Conn]struct{}
	listeners []net.Listener
	wg        sync.WaitGroup
}

// newCable puts a cable between the nodes of a lab: each looks for the other one at the
// cable's end.
func newCable(l *lab, a, b *server) *cable {
	c := &cable{t: l.t, conns: map[net.Conn]struct{}{}}
	for _, s := range []struct{ from, to *server }{{a, b}, {b, a}} {
		in, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(l.t, err)
		c.listeners = append(c.listeners, in)
		s.from.remote = in.Addr().String()
		to := s.to.local
		c.wg.Go(func() { c.serve(in, to) })
	}
	l.t.Cleanup(func() {
		for _, in := range c.listeners {
			_ = in.Close()
		}
		c.cut()
		c.wg.Wait()
	})
	return c
}

func (c *cable) serve(in net.Listener, to string) {
	for {
		near, err := in.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil || !c.add(near, far) {
			_ = near.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			c.wg.Go(func() {
				_, _ = io.Copy(way[1], way[0])
				_ = way[0].Close()
				_ = way[1].Close()
			})
		}
	}
}

func (c *cable) add(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		if c.broken {
			_ = conn.Close()
		} else {
			c.conns[conn] = struct{}{}
		}
	}
	return !c.broken
}

// cut pulls the cable: what is on the way is lost.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	for conn := range c.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
	clear(c.conns)
}

// mend plugs it in again.
func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = false
}
