// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"sync"
	"time"
)

// Path is one direction of a link: what one node sends to another, over all their
// connections. All methods are safe for concurrent use and act on what is written
// from then on, also to connections that exist.
type Path struct {
	net      *Network
	from, to string

	mu        sync.Mutex
	delay     time.Duration
	bandwidth int64     // bytes per second; 0: unlimited
	free      time.Time // when the line has sent what it was given
	stalled   bool
	bytes     int64
	left      int64 // bytes until the link is cut; -1: never
}

// SetDelay makes bytes arrive d after they were written.
func (p *Path) SetDelay(d time.Duration) {
	p.mu.Lock()
	p.delay = max(d, 0)
	p.mu.Unlock()
}

// SetBandwidth lets so many bytes a second through. 0 means no limit.
func (p *Path) SetBandwidth(bytesPerSecond int64) {
	p.mu.Lock()
	p.bandwidth = max(bytesPerSecond, 0)
	p.mu.Unlock()
}

// Stall holds everything that is under way or written later, also the end of
// streams, until Resume. Writers notice it when the buffers are full. New pairs
// are not formed meanwhile.
func (p *Path) Stall() {
	p.mu.Lock()
	p.stalled = true
	p.mu.Unlock()
}

// Resume ends a Stall: what was held arrives.
func (p *Path) Resume() {
	p.mu.Lock()
	p.stalled = false
	p.mu.Unlock()
	p.net.resumed(p)
}

// CutAfter lets n more bytes through, counted over all connections, and then cuts
// the link as Network.Cut does. The write that reaches the limit returns ErrReset
// together with how many of its bytes went through. A negative n takes it back.
func (p *Path) CutAfter(n int64) {
	p.mu.Lock()
	p.left = max(n, -1)
	p.mu.Unlock()
	if n == 0 {
		p.net.Cut(p.from, p.to)
	}
}

// Bytes returns how many bytes were written to this path since the network exists.
func (p *Path) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

func (p *Path) getDelay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

func (p *Path) isStalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalled
}

// take counts n bytes that shall be sent, or as many as may pass. cut tells that
// the link is to be cut behind them.
func (p *Path) take(n int) (allowed int, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left >= 0 && int64(n) >= p.left {
		n, cut = int(p.left), true
		p.left = -1
	} else if p.left >= 0 {
		p.left -= int64(n)
	}
	p.bytes += int64(n)
	return n, cut
}

// arrival returns when n bytes that are written now arrive. now is true if that is
// without any wait.
func (p *Path) arrival(n int) (at time.Time, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.delay == 0 && p.bandwidth == 0 {
		return time.Time{}, !p.stalled
	}
	at = time.Now()
	if p.bandwidth > 0 {
		if p.free.After(at) {
			at = p.free
		}
		at = at.Add(time.Duration(float64(n) / float64(p.bandwidth) * float64(time.Second)))
		p.free = at
	}
	return at.Add(p.delay), false
}
