// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"math/bits"
	"sync"
)

// headroom is kept free before a buffer's data, for the header of the reply that
// carries it: one write sends both. It is a page, so that the data of a buffer begins
// at one, as direct I/O likes it.
const headroom = 4096

// minClass is the smallest buffer's data, as a power of two; maxBlock the largest.
const (
	minClass = 12
	maxClass = 25
	maxBlock = 1 << maxClass
)

// buffers recycles buffers, a pool for each power of two.
type buffers struct {
	pools [maxClass - minClass + 1]sync.Pool // of *buffer
}

// buffer has room for a header and for data.
type buffer struct {
	all  []byte // headroom, then the room for data
	data []byte // what is asked for
}

// get returns a buffer for n bytes, 1 to maxBlock, with any contents.
func (b *buffers) get(n int) *buffer {
	class := max(bits.Len(uint(n-1)), minClass) - minClass
	buf, _ := b.pools[class].Get().(*buffer)
	if buf == nil {
		buf = &buffer{all: make([]byte, headroom+1<<(class+minClass))}
	}
	buf.data = buf.all[headroom : headroom+n]
	return buf
}

func (b *buffers) put(buf *buffer) {
	class := bits.Len(uint(len(buf.all)-headroom-1)) - minClass
	b.pools[class].Put(buf)
}

// budget is an amount of memory. One goroutine at a time takes from it.
type budget struct {
	mu     sync.Mutex
	free   int64
	signal chan struct{} // has room for one
}

func newBudget(n int64) *budget { return &budget{free: n, signal: make(chan struct{}, 1)} }

// take waits until n is free. It reports false if done was closed before that.
func (b *budget) take(n int64, done <-chan struct{}) bool {
	for {
		b.mu.Lock()
		ok := b.free >= n
		if ok {
			b.free -= n
		}
		b.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-b.signal:
		case <-done:
			return false
		}
	}
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	b.free += n
	b.mu.Unlock()
	select {
	case b.signal <- struct{}{}:
	default:
	}
}
