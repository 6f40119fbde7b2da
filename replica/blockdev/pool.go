// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
)

// The size classes of a Pool: powers of two from 4 KiB to 2 MiB. A DRBD request
// carries at most 1 MiB (spec: wire 4.8).
const (
	minClassBits = 12
	maxClassBits = 21
	poolClasses  = maxClassBits - minClassBits + 1

	// MaxPoolBuffer is the largest buffer that a Pool hands out: 2 MiB.
	MaxPoolBuffer = 1 << maxClassBits
)

// ErrPoolSize: a buffer was asked of a Pool that is larger than the pool itself
// or than MaxPoolBuffer.
var ErrPoolSize = errors.New("blockdev: buffer is larger than the pool allows")

// Pool lends aligned buffers and never holds more than a fixed number of bytes,
// lent and idle together. The buffer given back last is lent first, because it
// is the one that the processor's cache still has. All methods are safe for
// concurrent use; Get and Put allocate nothing once the pool is warm.
type Pool struct {
	mu      sync.Mutex
	max     int64
	lent    int64 // bytes out
	idle    int64 // bytes in the free lists
	free    [poolClasses][][]byte
	waiters []*poolWaiter // in order of arrival
	closed  bool
}

// poolWaiter is a Get that found the pool exhausted.
type poolWaiter struct {
	class int
	ready chan []byte // receives nil when the pool was closed
}

// NewPool returns a pool of at most maxBytes bytes (at least one 4 KiB buffer).
// It holds no memory until it is used.
func NewPool(maxBytes int64) *Pool {
	return &Pool{max: max(maxBytes, 1<<minClassBits)}
}

// classOf returns the size class of an n-byte buffer.
func classOf(n int) int {
	return max(bits.Len(uint(max(n, 1)-1)), minClassBits) - minClassBits
}

func classSize(class int) int64 { return 1 << (class + minClassBits) }

// Get lends a buffer of n bytes with arbitrary contents, waiting until the pool
// has room. Waiting Gets are served in order. Errors: ErrPoolSize, ErrClosed,
// ctx's.
func (p *Pool) Get(ctx context.Context, n int) ([]byte, error) {
	class := classOf(n)
	if n > MaxPoolBuffer || classSize(class) > p.max {
		return nil, fmt.Errorf("get %d bytes of a pool of %d: %w", n, p.max, ErrPoolSize)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if len(p.waiters) == 0 {
		if b := p.takeLocked(class); b != nil {
			p.mu.Unlock()
			return b[:n], nil
		}
	}
	w := &poolWaiter{class: class, ready: make(chan []byte, 1)}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	select {
	case b := <-w.ready:
		if b == nil {
			return nil, ErrClosed
		}
		return b[:n], nil
	case <-ctx.Done():
		p.abandon(w)
		return nil, ctx.Err()
	}
}

// TryGet is Get without waiting: it returns nil when the pool has no room now, or
// never will.
func (p *Pool) TryGet(n int) []byte {
	class := classOf(n)
	if n > MaxPoolBuffer || classSize(class) > p.max {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.waiters) > 0 {
		return nil
	}
	b := p.takeLocked(class)
	if b == nil {
		return nil
	}
	return b[:n]
}

// Put gives back a buffer that Get or TryGet lent, or a slice of it that still
// begins at its first byte. The caller must not use it afterwards.
func (p *Pool) Put(b []byte) {
	if cap(b) == 0 {
		return
	}
	b = b[:cap(b)]
	class := classOf(len(b))
	if int64(len(b)) != classSize(class) || !IsAligned(b, Alignment) {
		panic("blockdev: Pool.Put of a buffer that is not the pool's")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent -= int64(len(b)); p.lent < 0 {
		panic("blockdev: Pool.Put of more than was lent")
	}
	if !p.closed {
		p.idle += int64(len(b))
		p.free[class] = append(p.free[class], b)
		p.serveLocked()
	}
}

// Lose tells the pool that a buffer that it lent will not be Put: whoever has it keeps it,
// and there is room for another.
func (p *Pool) Lose(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent -= classSize(classOf(cap(b))); p.lent < 0 {
		panic("blockdev: Pool.Lose of more than was lent")
	}
	if !p.closed {
		p.serveLocked()
	}
}

// Lent returns how many bytes are out, rounded up to the size classes.
func (p *Pool) Lent() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lent
}

// Trim lets go of all idle buffers.
func (p *Pool) Trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trimLocked()
}

// Close lets go of all idle buffers and fails waiting and later Gets with
// ErrClosed. Buffers that are still out may be Put as before; they are not kept.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.trimLocked()
	for _, w := range p.waiters {
		w.ready <- nil
	}
	p.waiters = nil
	return nil
}

// takeLocked takes a buffer of class, or nil if there is no room for one.
func (p *Pool) takeLocked(class int) []byte {
	size := classSize(class)
	if list := p.free[class]; len(list) > 0 {
		b := list[len(list)-1]
		list[len(list)-1] = nil
		p.free[class] = list[:len(list)-1]
		p.idle -= size
		p.lent += size
		return b
	}
	if p.lent+size > p.max {
		return nil
	}
	p.evictLocked(size)
	p.lent += size
	return AlignedBuffer(int(size))
}

// evictLocked lets go of idle buffers of other classes until size more bytes fit.
func (p *Pool) evictLocked(size int64) {
	for c := poolClasses - 1; c >= 0; c-- {
		for len(p.free[c]) > 0 && p.lent+p.idle+size > p.max {
			last := len(p.free[c]) - 1
			p.free[c][last] = nil
			p.free[c] = p.free[c][:last]
			p.idle -= classSize(c)
		}
	}
}

func (p *Pool) trimLocked() {
	for c := range p.free {
		p.free[c] = nil
	}
	p.idle = 0
}

// serveLocked hands buffers to waiters in order, as long as the first one fits.
func (p *Pool) serveLocked() {
	for len(p.waiters) > 0 {
		b := p.takeLocked(p.waiters[0].class)
		if b == nil {
			return
		}
		p.waiters[0].ready <- b
		p.waiters[0] = nil
		p.waiters = p.waiters[1:]
	}
}

// abandon withdraws a waiter whose context ended. A buffer that reached it in
// the meantime goes back, and those behind it may fit now.
func (p *Pool) abandon(w *poolWaiter) {
	p.mu.Lock()
	for i, x := range p.waiters {
		if x == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			p.serveLocked()
			p.mu.Unlock()
			return
		}
	}
	p.mu.Unlock()
	if b := <-w.ready; b != nil {
		p.Put(b)
	}
}
