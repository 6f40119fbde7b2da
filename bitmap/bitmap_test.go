// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

func TestBitsFor(t *testing.T) {
	for sectors, want := range map[uint64]uint64{
		0: 0, 1: 1, 7: 1, 8: 1, 9: 2, 2097008: 262126, math.MaxUint64: 1 << 61,
	} {
		require.Equal(t, want, bitmap.BitsFor(sectors), "%d sectors", sectors)
	}
}

func TestSingleBits(t *testing.T) {
	m := bitmap.New(100000)
	for _, i := range []uint64{0, 1, 63, 64, 32767, 32768, 99999} {
		require.False(t, m.Test(i))
		require.True(t, m.Set(i))
		require.False(t, m.Set(i))
		require.True(t, m.Test(i))
	}
	require.Equal(t, uint64(7), m.Count())
	require.True(t, m.Clear(64))
	require.False(t, m.Clear(64))
	require.Equal(t, uint64(6), m.Count())
}

// Nothing outside the bitmap can be set, cleared, counted or found.
func TestOutside(t *testing.T) {
	for _, n := range []uint64{0, 1, 63, 64, 65, bitmap.PageBits - 1, bitmap.PageBits, bitmap.PageBits + 1} {
		m := bitmap.New(n)
		for _, i := range []uint64{n, n + 1, n + 64, n + bitmap.PageBits, math.MaxUint64} {
			require.False(t, m.Set(i))
			require.False(t, m.Test(i))
			require.False(t, m.Clear(i))
			require.Zero(t, m.SetRange(i, math.MaxUint64))
			require.Zero(t, m.ClearRange(i, math.MaxUint64))
			require.Zero(t, m.CountRange(i, math.MaxUint64))
			_, ok := m.NextSet(i)
			require.False(t, ok)
			_, ok = m.NextClear(i)
			require.False(t, ok)
		}
		require.Zero(t, m.DirtyCount())
		require.Equal(t, n, m.SetRange(0, math.MaxUint64))
		require.Equal(t, n, m.Count())
		_, ok := m.NextClear(0)
		require.False(t, ok, "%d bits", n)
		require.Equal(t, n, m.CountRange(0, math.MaxUint64))
		require.Zero(t, m.SetRange(5, 5))
		require.Zero(t, m.ClearRange(9, 3))
		require.Equal(t, n, m.ClearRange(0, math.MaxUint64))
		_, ok = m.NextSet(0)
		require.False(t, ok)
	}
}

func TestRangesAcrossPages(t *testing.T) {
	m := bitmap.New(5*bitmap.PageBits + 17)
	require.Equal(t, uint64(3*bitmap.PageBits), m.SetRange(bitmap.PageBits-100, 4*bitmap.PageBits-100))
	require.Equal(t, []span{{bitmap.PageBits - 100, 4*bitmap.PageBits - 100}}, spansOf(m))
	require.Equal(t, 4, m.DirtyCount())
	m.Clear(2 * bitmap.PageBits)
	m.Set(5*bitmap.PageBits + 16)
	require.Equal(t, []span{
		{bitmap.PageBits - 100, 2 * bitmap.PageBits},
		{2*bitmap.PageBits + 1, 4*bitmap.PageBits - 100},
		{5*bitmap.PageBits + 16, 5*bitmap.PageBits + 17},
	}, spansOf(m))
	i, ok := m.NextClear(bitmap.PageBits)
	require.True(t, ok)
	require.Equal(t, uint64(2*bitmap.PageBits), i)
}

// A search may stop early, and the bitmap may change under it.
func TestRangesWhileChanging(t *testing.T) {
	m := every(1000, 10)
	seen := 0
	for from, to := range m.Ranges() {
		m.ClearRange(from, to)
		if seen++; seen == 30 {
			break
		}
	}
	require.Equal(t, uint64(70), m.Count())
	for from := range m.Ranges() {
		m.Clear(from)
	}
	require.Zero(t, m.Count())
}

func TestOrOfDifferentLengths(t *testing.T) {
	short, long := bitmap.New(100), bitmap.New(3*bitmap.PageBits)
	long.SetAll()
	require.Equal(t, uint64(100), short.Or(long))
	require.Equal(t, []span{{0, 100}}, spansOf(short))
	long.ClearAll()
	require.Equal(t, uint64(100), long.Or(short))
	require.Equal(t, uint64(0), long.Or(short))
	require.Equal(t, []span{{0, 100}}, spansOf(long))
}

func TestNewTooLarge(t *testing.T) {
	require.Panics(t, func() { bitmap.New(math.MaxUint64) })
}

// 1 TiB of storage costs at most 33 MiB of memory, and it is really there.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := bitmap.New(tebibyteBits)
	runtime.ReadMemStats(&after)
	used := after.TotalAlloc - before.TotalAlloc
	require.LessOrEqual(t, used, uint64(33<<20))
	require.GreaterOrEqual(t, used, uint64(tebibyteBits/8))
	t.Logf("1 TiB of storage: %d bytes, %.3f MiB", used, float64(used)/(1<<20))
	m.SetAll()
	require.Equal(t, uint64(tebibyteBits), m.Count())
	runtime.KeepAlive(m)
}

// The hot paths allocate nothing.
func TestAllocations(t *testing.T) {
	m, o := scattered(1<<20), every(1<<20, 3)
	buf := make([]byte, 0, 4096)
	var page [4096]byte
	var sum uint64
	body, ok := bitmap.NewEncoder(m).Next(nil, 4080)
	require.True(t, ok)
	chunk := m.AppendPlain(nil, 0, 4080)
	for name, f := range map[string]func(){
		"Set":        func() { m.Set(77) },
		"Clear":      func() { m.Clear(77) },
		"Test":       func() { m.Test(77) },
		"SetRange":   func() { m.SetRange(100, 200000) },
		"ClearRange": func() { m.ClearRange(100, 200000) },
		"CountRange": func() { m.CountRange(100, 200000) },
		"NextSet":    func() { m.NextSet(0) },
		"NextClear":  func() { m.NextClear(0) },
		"Or":         func() { m.Or(o) },
		"Ranges": func() {
			for from, to := range m.Ranges() {
				sum += to - from
			}
		},
		"DirtyPages": func() {
			for p := range m.DirtyPages() {
				sum += uint64(p)
			}
		},
		"Page":        func() { m.Page(1, &page) },
		"LoadPage":    func() { m.LoadPage(1, &page) },
		"AppendPlain": func() { m.AppendPlain(buf, 0, 4080) },
		"MergePlain":  func() { _, _ = m.MergePlain(0, chunk) },
		"Encoder": func() {
			e := bitmap.NewEncoder(m)
			e.Next(buf, 4080)
			e.Plain(buf, 4080)
		},
		"Decoder": func() {
			d := bitmap.NewDecoder(m)
			_ = d.Compressed(body, 4080)
		},
	} {
		require.Zero(t, testing.AllocsPerRun(20, f), name)
	}
	require.NotZero(t, sum)
}
