// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"io"
	"sync"
	"sync/atomic"
)

const (
	memChunk  = 64 << 10 // bytes held or not held as one
	memShards = 64       // locks; neighbouring chunks have different ones
)

// Memory is a sparse disk in memory: what was never written takes no space and
// reads as zeroes. It is the twin of File in tests and examples. All methods are
// safe for concurrent use; a read or write is atomic per 64 KiB chunk. Reads, and
// writes to places that were written before, allocate nothing.
type Memory struct {
	size   atomic.Int64
	closed atomic.Bool
	shards [memShards]memShard
	limits atomic.Pointer[Limits]
}

type memShard struct {
	mu     sync.RWMutex
	chunks map[int64]*[memChunk]byte // by offset / memChunk
}

var (
	_ Device     = (*Memory)(nil)
	_ Discarder  = (*Memory)(nil)
	_ ZeroWriter = (*Memory)(nil)
	_ FUAWriter  = (*Memory)(nil)
	_ Limiter    = (*Memory)(nil)
	_ Resizer    = (*Memory)(nil)
)

// NewMemory returns an empty disk of size bytes, rounded down to a multiple of
// SectorSize; a negative size counts as 0.
func NewMemory(size int64) *Memory {
	m := &Memory{}
	m.size.Store(max(size, 0) &^ (SectorSize - 1))
	for i := range m.shards {
		m.shards[i].chunks = make(map[int64]*[memChunk]byte)
	}
	m.limits.Store(&Limits{
		LogicalBlockSize: SectorSize, PhysicalBlockSize: 4096, MinIO: 4096,
		DiscardGranularity: SectorSize, DiscardSupported: true, DiscardZeroes: true, Direct: true,
	})
	return m
}

// each calls f for every piece of n bytes at off that lies in one chunk.
func (m *Memory) each(off, n int64, f func(s *memShard, chunk int64, from, to, done int)) {
	for done := int64(0); done < n; {
		chunk := (off + done) / memChunk
		from := int((off + done) % memChunk)
		to := int(min(memChunk, int64(from)+n-done))
		f(&m.shards[chunk%memShards], chunk, from, to, int(done))
		done += int64(to - from)
	}
}

func (m *Memory) check(op string, off, n int64) error {
	if m.closed.Load() {
		return ErrClosed
	}
	return check(op, off, n, m.size.Load())
}

// ReadAt implements Device.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	if err := m.check("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	m.each(off, int64(len(p)), func(s *memShard, chunk int64, from, to, done int) {
		s.mu.RLock()
		if c := s.chunks[chunk]; c != nil {
			copy(p[done:], c[from:to])
		} else {
			clear(p[done : done+to-from])
		}
		s.mu.RUnlock()
	})
	return len(p), nil
}

// WriteAt implements Device.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.check("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	m.each(off, int64(len(p)), func(s *memShard, chunk int64, from, to, done int) {
		s.mu.Lock()
		c := s.chunks[chunk]
		if c == nil {
			c = new([memChunk]byte)
			s.chunks[chunk] = c
		}
		copy(c[from:to], p[done:])
		s.mu.Unlock()
	})
	return len(p), nil
}

// WriteAtFUA implements FUAWriter. Memory has no volatile cache, so it is WriteAt.
func (m *Memory) WriteAtFUA(p []byte, off int64) (int, error) { return m.WriteAt(p, off) }

// Flush implements Device. It has nothing to do.
func (m *Memory) Flush() error {
	if m.closed.Load() {
		return ErrClosed
	}
	return nil
}

// Discard implements Discarder: the range reads as zeroes and whole chunks are freed.
// It returns ErrNotSupported if SetLimits said that the disk cannot discard.
func (m *Memory) Discard(off, n int64) error {
	if !m.limits.Load().DiscardSupported {
		return ErrNotSupported
	}
	return m.zero("discard", off, n)
}

// WriteZeroes implements ZeroWriter. Whole chunks are freed, also without mayUnmap:
// memory has no reservation to keep.
func (m *Memory) WriteZeroes(off, n int64, mayUnmap bool) error {
	return m.zero("write zeroes", off, n)
}

func (m *Memory) zero(op string, off, n int64) error {
	if err := m.check(op, off, n); err != nil {
		return err
	}
	m.each(off, n, func(s *memShard, chunk int64, from, to, _ int) {
		s.mu.Lock()
		if to-from == memChunk {
			delete(s.chunks, chunk)
		} else if c := s.chunks[chunk]; c != nil {
			clear(c[from:to])
		}
		s.mu.Unlock()
	})
	return nil
}

// Limits implements Limiter.
func (m *Memory) Limits() Limits { return *m.limits.Load() }

// SetLimits changes what Limits reports and whether Discard works, so that a test
// can pose as another kind of disk.
func (m *Memory) SetLimits(l Limits) { m.limits.Store(&l) }

// Size implements Device.
func (m *Memory) Size() int64 { return m.size.Load() }

// RefreshSize implements Resizer.
func (m *Memory) RefreshSize() (int64, error) {
	if m.closed.Load() {
		return 0, ErrClosed
	}
	return m.size.Load(), nil
}

// Resize sets the size in bytes, rounded down to a multiple of SectorSize. What a
// shrink cuts off is gone; what a growth adds reads as zeroes. No request may be
// under way.
func (m *Memory) Resize(size int64) {
	size = max(size, 0) &^ (SectorSize - 1)
	if old := m.size.Load(); size < old {
		_ = m.zero("resize", size, old-size)
	}
	m.size.Store(size)
}

// Close implements Device. The contents stay readable through Bytes and Snapshot.
func (m *Memory) Close() error {
	if m.closed.Swap(true) {
		return ErrClosed
	}
	return nil
}

// Snapshot returns a copy of the disk at one moment: no write to a single chunk is
// in it by half. The copy is open even if the disk is closed.
func (m *Memory) Snapshot() *Memory {
	c := NewMemory(0)
	for i := range m.shards {
		m.shards[i].mu.RLock()
		defer m.shards[i].mu.RUnlock()
	}
	c.size.Store(m.size.Load())
	c.limits.Store(m.limits.Load())
	for i := range m.shards {
		for k, v := range m.shards[i].chunks {
			d := *v
			c.shards[i].chunks[k] = &d
		}
	}
	return c
}

// Bytes returns a copy of the whole contents. Use it on small disks.
func (m *Memory) Bytes() []byte {
	s := m.Snapshot()
	b := make([]byte, s.Size())
	if _, err := s.ReadAt(b, 0); err != nil && err != io.EOF {
		panic(err) // the range is the disk's own
	}
	return b
}

// Allocated returns how many bytes of memory the contents take.
func (m *Memory) Allocated() int64 {
	var n int64
	for i := range m.shards {
		m.shards[i].mu.RLock()
		n += int64(len(m.shards[i].chunks)) * memChunk
		m.shards[i].mu.RUnlock()
	}
	return n
}
