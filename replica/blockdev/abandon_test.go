// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestQueueAbandon: what the device has begun it may finish; nothing else reaches it.
func TestQueueAbandon(t *testing.T) {
	f := NewFaulty(NewMemory(testSize))
	f.Inject(Fault{Kinds: []OpKind{OpWrite}, Hang: true})
	q := NewPoolQueue(f, 2)
	var wg sync.WaitGroup
	ops := make([]*Op, 6)
	for i := range ops {
		wg.Add(1)
		ops[i] = &Op{Kind: OpWrite, Off: int64(i) * 4096, Buf: fill(4096, 1), Done: func(*Op) { wg.Done() }}
		q.Submit(ops[i])
	}
	f.WaitHung(2)
	q.Abandon()
	later := &Op{Kind: OpFlush}
	q.Do(later)
	require.ErrorIs(t, later.Err, ErrAbandoned)
	f.Heal()
	wg.Wait()
	require.Equal(t, 2, f.Count(OpWrite))
	require.Zero(t, f.Count(OpFlush))
	failed := 0
	for _, op := range ops {
		if op.Err != nil {
			require.ErrorIs(t, op.Err, ErrAbandoned)
			failed++
		}
	}
	require.Equal(t, 4, failed)
	require.ErrorIs(t, submit(q, &Op{Kind: OpRead, Buf: make([]byte, 512)}), ErrAbandoned)
	require.NoError(t, q.Close())
}

// TestPoolLose: memory that does not come back makes room for other memory.
func TestPoolLose(t *testing.T) {
	p := NewPool(8192)
	a, b := p.TryGet(4096), p.TryGet(512)
	require.NotNil(t, b)
	require.Nil(t, p.TryGet(512))
	p.Lose(a)
	c := p.TryGet(4096)
	require.NotNil(t, c)
	p.Put(c)
	p.Put(b)
	require.Zero(t, p.Lent())
	require.Panics(t, func() { p.Lose(a) })
}

func TestSame(t *testing.T) {
	m := NewMemory(4096)
	require.True(t, Same(m, m))
	require.False(t, Same(m, NewMemory(4096)))
	require.False(t, Same(m, nil))
	dir := t.TempDir()
	open := func(name string) *File {
		f, err := Create(filepath.Join(dir, name), 4096, Options{NoLock: true})
		require.NoError(t, err)
		require.NoError(t, f.Close())
		f, err = Open(filepath.Join(dir, name), Options{NoLock: true})
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, b := open("a"), open("b")
	again, err := Open(filepath.Join(dir, "a"), Options{NoLock: true})
	require.NoError(t, err)
	defer again.Close()
	require.True(t, Same(a, again))
	require.False(t, Same(a, b))
	require.False(t, Same(a, m))
	type odd struct {
		Device
		_ []int
	}
	require.False(t, Same(odd{Device: m}, odd{Device: m}), "values that cannot be compared")
}
