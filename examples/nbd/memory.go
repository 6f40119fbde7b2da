// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"fmt"
	"sync"
)

// Memory is a Backend in memory, for tests and examples. It takes memory only where
// there is data.
type Memory struct {
	size int64
	mu   sync.RWMutex
	page map[int64]*[pageSize]byte
}

const pageSize = 64 << 10

// NewMemory returns a device of size bytes that reads as zeroes.
func NewMemory(size int64) *Memory {
	return &Memory{size: size, page: map[int64]*[pageSize]byte{}}
}

// Size implements Backend.
func (m *Memory) Size() int64 { return m.size }

// Flush implements Backend. There is nothing to do.
func (m *Memory) Flush(context.Context) error { return nil }

// ReadAt implements Backend.
func (m *Memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.each(off, int64(len(p)), func(page, at, n int64) {
		if b := m.page[page]; b != nil {
			copy(p[:n], b[at:])
		} else {
			clear(p[:n])
		}
		p = p[n:]
	})
}

// WriteAt implements Backend.
func (m *Memory) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.each(off, int64(len(p)), func(page, at, n int64) {
		copy(m.allocate(page)[at:], p[:n])
		p = p[n:]
	})
}

// Trim implements Trimmer: whole pages are freed.
func (m *Memory) Trim(ctx context.Context, off, n int64) error {
	return m.WriteZeroes(ctx, off, n, ZeroFlags{})
}

// FastZeroes implements FastZeroWriter.
func (m *Memory) FastZeroes() bool { return true }

// WriteZeroes implements FastZeroWriter. Fast and NoHole together are refused, because
// memory would have to be found and cleared.
func (m *Memory) WriteZeroes(_ context.Context, off, n int64, how ZeroFlags) error {
	if how.Fast && how.NoHole {
		return fmt.Errorf("%w: allocating is not fast", ENOTSUP)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.each(off, n, func(page, at, n int64) {
		switch b := m.page[page]; {
		case how.NoHole:
			clear(m.allocate(page)[at : at+n])
		case n == pageSize:
			delete(m.page, page)
		case b != nil:
			clear(b[at : at+n])
		}
	})
}

// Extents implements ExtentLister.
func (m *Memory) Extents(_ context.Context, off, n int64, limit int) ([]Extent, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []Extent
	full := false
	err := m.each(off, n, func(page, _, n int64) {
		hole := m.page[page] == nil
		switch last := len(list) - 1; {
		case full:
		case last >= 0 && list[last].Hole == hole:
			list[last].Length += n
		case len(list) < limit:
			list = append(list, Extent{Length: n, Hole: hole, Zero: hole})
		default:
			full = true
		}
	})
	return list, err
}

func (m *Memory) allocate(page int64) *[pageSize]byte {
	b := m.page[page]
	if b == nil {
		b = new([pageSize]byte)
		m.page[page] = b
	}
	return b
}

// each calls f for the part of every page that the range touches.
func (m *Memory) each(off, n int64, f func(page, at, n int64)) error {
	if off < 0 || n < 0 || off > m.size || n > m.size-off {
		return fmt.Errorf("%w: %d bytes at %d of %d", EINVAL, n, off, m.size)
	}
	for n > 0 {
		at := off % pageSize
		part := min(n, pageSize-at)
		f(off/pageSize, at, part)
		off, n = off+part, n-part
	}
	return nil
}
