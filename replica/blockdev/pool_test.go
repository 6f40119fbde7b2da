// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestAlignedBuffer(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 511, 512, 4096, 4097, 1 << 20} {
		b := AlignedBuffer(n)
		require.Len(t, b, max(n, 0))
		require.Equal(t, len(b), cap(b))
		require.True(t, len(b) == 0 || IsAligned(b, Alignment))
	}
	require.False(t, IsAligned(AlignedBuffer(10)[1:], 512))
	require.True(t, IsAligned(AlignedBuffer(10)[1:], 1))
}

func TestPoolLendsLastFirst(t *testing.T) {
	p := NewPool(1 << 20)
	a, b := p.TryGet(5000), p.TryGet(8192)
	require.Len(t, a, 5000)
	require.Equal(t, 8192, cap(a))
	require.EqualValues(t, 16384, p.Lent())
	p.Put(a)
	p.Put(b[:1])
	c, d := p.TryGet(8192), p.TryGet(8192)
	require.Same(t, &b[0], &c[0])
	require.Same(t, &a[0], &d[0])
	require.Panics(t, func() { p.Put(make([]byte, 100)) })
	p.Put(c)
	p.Put(d)
	require.Panics(t, func() { p.Put(d) }, "more than was lent")
}

func TestPoolIsBounded(t *testing.T) {
	p := NewPool(64 << 10)
	var all [][]byte
	for range 16 {
		all = append(all, p.TryGet(4096))
	}
	require.Nil(t, p.TryGet(1))
	_, err := p.Get(context.Background(), 128<<10)
	require.ErrorIs(t, err, ErrPoolSize)
	_, err = NewPool(1<<40).Get(context.Background(), MaxPoolBuffer+1)
	require.ErrorIs(t, err, ErrPoolSize)
	require.Nil(t, NewPool(1<<40).TryGet(MaxPoolBuffer+1))
	for _, b := range all {
		p.Put(b)
	}
	// All its memory is idle in small buffers, and still serves a large one.
	require.Len(t, p.TryGet(64<<10), 64<<10)
	require.EqualValues(t, 64<<10, p.lent+p.idle)
}

func TestPoolWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(8192)
		ctx := context.Background()
		a, err := p.Get(ctx, 8192)
		require.NoError(t, err)
		got := make(chan int, 3)
		get := func(ctx context.Context, id, n int) {
			b, err := p.Get(ctx, n)
			if err == nil {
				got <- id
				p.Put(b)
			} else {
				got <- -id
			}
		}
		impatient, cancel := context.WithCancel(ctx)
		go get(impatient, 1, 8192)
		synctest.Wait()
		go get(ctx, 2, 4096)
		synctest.Wait()
		go get(ctx, 3, 8192)
		synctest.Wait()
		require.Nil(t, p.TryGet(4096), "those who wait come first")
		cancel()
		require.Equal(t, -1, <-got)
		require.Empty(t, got)
		p.Put(a)
		require.Equal(t, 2, <-got)
		require.Equal(t, 3, <-got)

		a, err = p.Get(ctx, 8192)
		require.NoError(t, err)
		go get(ctx, 4, 1)
		synctest.Wait()
		require.NoError(t, p.Close())
		require.Equal(t, -4, <-got)
		_, err = p.Get(ctx, 1)
		require.ErrorIs(t, err, ErrClosed)
		require.Nil(t, p.TryGet(1))
		p.Put(a)
		require.Zero(t, p.Lent())
	})
}

func TestPoolAllocations(t *testing.T) {
	p := NewPool(1 << 20)
	ctx := context.Background()
	for _, n := range []int{4096, 100 << 10} {
		b, _ := p.Get(ctx, n)
		p.Put(b)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		a, _ := p.Get(ctx, 4096)
		b := p.TryGet(100 << 10)
		p.Put(a)
		p.Put(b)
	}))
	p.Trim()
	require.Zero(t, p.idle)
}
