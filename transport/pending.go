// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net"
	"sync"
)

// pendingConns are accepted connections that have not yet said what they are. When
// there are too many the oldest is closed: an honest peer needs one round trip, so
// whoever floods the port only displaces its own connections and other slow ones.
type pendingConns struct {
	mu     sync.Mutex
	max    int
	order  []net.Conn // oldest first
	closed bool
}

// add notes c, or closes it and returns false after closeAll. evicted is the
// connection that was closed in exchange, if any.
func (p *pendingConns) add(c net.Conn) (ok bool, evicted net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false, nil
	}
	if len(p.order) >= p.max {
		evicted = p.order[0]
		p.order[0] = nil
		p.order = p.order[1:]
		evicted.Close()
	}
	p.order = append(p.order, c)
	return true, evicted
}

// remove forgets c, which has said what it is or failed to. It returns false if c
// was closed meanwhile.
func (p *pendingConns) remove(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, x := range p.order {
		if x == c {
			p.order = append(p.order[:i], p.order[i+1:]...)
			return true
		}
	}
	return false
}

// closeAll closes all and refuses later ones.
func (p *pendingConns) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.order {
		c.Close()
	}
	p.order = nil
}
