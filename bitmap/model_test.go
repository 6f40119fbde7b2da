// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// model is the plainest bitmap there can be, with the disk beside it: for each page
// the bits that were last loaded or marked clean, if they are known.
type model struct {
	n    uint64
	set  map[uint64]bool
	disk map[int]map[uint64]bool
}

// machine runs a bitmap and the model side by side.
type machine struct {
	b *bitmap.Bitmap
	m model
}

func (s *machine) bit(t *rapid.T) uint64 {
	// Near the borders of words, pages and the bitmap, or anywhere.
	at := rapid.OneOf(
		rapid.Uint64Range(0, s.m.n+70),
		rapid.Custom(func(t *rapid.T) uint64 {
			edge := rapid.SampledFrom([]uint64{64, bitmap.PageBits, 2 * bitmap.PageBits, s.m.n}).Draw(t, "edge")
			return edge + 2 - min(edge, rapid.Uint64Range(0, 4).Draw(t, "before"))
		}),
	)
	return at.Draw(t, "bit")
}

func (s *machine) Set(t *rapid.T) {
	i := s.bit(t)
	want := i < s.m.n && !s.m.set[i]
	require.Equal(t, want, s.b.Set(i))
	s.put(i, i+1, true)
}

func (s *machine) Clear(t *rapid.T) {
	i := s.bit(t)
	require.Equal(t, s.m.set[i], s.b.Clear(i))
	s.put(i, i+1, false)
}

func (s *machine) SetRange(t *rapid.T) {
	from, to := s.bit(t), s.bit(t)
	require.Equal(t, s.put(from, to, true), s.b.SetRange(from, to))
}

func (s *machine) ClearRange(t *rapid.T) {
	from, to := s.bit(t), s.bit(t)
	require.Equal(t, s.put(from, to, false), s.b.ClearRange(from, to))
}

func (s *machine) All(t *rapid.T) {
	if rapid.Bool().Draw(t, "set") {
		s.b.SetAll()
		s.put(0, s.m.n, true)
	} else {
		s.b.ClearAll()
		s.put(0, s.m.n, false)
	}
}

func (s *machine) Or(t *rapid.T) {
	other := bitmap.New(rapid.Uint64Range(0, s.m.n+70).Draw(t, "other bits"))
	var want uint64
	for range rapid.IntRange(0, 5).Draw(t, "ranges") {
		from, to := s.bit(t), s.bit(t)
		other.SetRange(from, to)
		want += s.put(from, min(to, other.Len()), true)
	}
	require.Equal(t, want, s.b.Or(other))
}

func (s *machine) Search(t *rapid.T) {
	from, to := s.bit(t), s.bit(t)
	var want uint64
	for i := from; i < min(to, s.m.n); i++ {
		if s.m.set[i] {
			want++
		}
	}
	require.Equal(t, want, s.b.CountRange(from, to))
	for _, value := range []bool{true, false} {
		next := from
		for next < s.m.n && s.m.set[next] != value {
			next++
		}
		find := s.b.NextSet
		if !value {
			find = s.b.NextClear
		}
		got, ok := find(from)
		require.Equal(t, next < s.m.n, ok)
		if ok {
			require.Equal(t, next, got)
		}
	}
}

func (s *machine) Resize(t *rapid.T) {
	n, setNew := rapid.Uint64Range(0, s.m.n+bitmap.PageBits/4).Draw(t, "new bits"), rapid.Bool().Draw(t, "set new")
	s.b.Resize(n, setNew)
	old, pages := s.m.n, s.b.Pages()
	s.put(n, old, false)
	s.m.n = n
	if n > old && setNew {
		s.put(old, n, true)
	}
	for p := range s.m.disk {
		if p >= pages {
			delete(s.m.disk, p)
		}
	}
}

// WritePage copies a page to the model's disk and back.
func (s *machine) WritePage(t *rapid.T) {
	if s.b.Pages() == 0 {
		return
	}
	p := rapid.IntRange(0, s.b.Pages()-1).Draw(t, "page")
	var raw [4096]byte
	for i := range raw {
		raw[i] = 0xa5
	}
	s.b.Page(p, &raw)
	on := s.page(p)
	var want [4096]byte
	for i := range on {
		want[i%bitmap.PageBits/8] |= 1 << (i % 8)
	}
	require.Equal(t, want, raw)
	s.b.MarkClean(p)
	s.m.disk[p] = on
}

// LoadPage loads a page of noise.
func (s *machine) LoadPage(t *rapid.T) {
	if s.b.Pages() == 0 {
		return
	}
	p := rapid.IntRange(0, s.b.Pages()-1).Draw(t, "page")
	var raw [4096]byte
	noise := rapid.SliceOfN(rapid.Byte(), 7, 7).Draw(t, "noise")
	for i := range raw {
		raw[i] = noise[i%7]
	}
	s.b.LoadPage(p, &raw)
	first := uint64(p) * bitmap.PageBits
	for i := range uint64(bitmap.PageBits) {
		s.put(first+i, first+i+1, raw[i/8]>>(i%8)&1 == 1)
	}
	s.m.disk[p] = s.page(p)
}

func (s *machine) MarkDirty(t *rapid.T) {
	if rapid.Bool().Draw(t, "all") {
		s.b.MarkAllDirty()
		clear(s.m.disk)
	} else if s.b.Pages() > 0 {
		p := rapid.IntRange(0, s.b.Pages()-1).Draw(t, "page")
		s.b.MarkDirty(p)
		delete(s.m.disk, p)
	}
}

func (s *machine) put(from, to uint64, value bool) (changed uint64) {
	for i := from; i < min(to, s.m.n); i++ {
		if s.m.set[i] == value {
			continue
		}
		changed++
		if value {
			s.m.set[i] = true
		} else {
			delete(s.m.set, i)
		}
	}
	return changed
}

func (s *machine) page(p int) map[uint64]bool {
	set := map[uint64]bool{}
	for i := range s.m.set {
		if i/bitmap.PageBits == uint64(p) {
			set[i] = true
		}
	}
	return set
}

// Check compares everything that can be seen.
func (s *machine) Check(t *rapid.T) {
	require.Equal(t, s.m.n, s.b.Len())
	require.Equal(t, uint64(len(s.m.set)), s.b.Count())
	var at, total uint64
	for from, to := range s.b.Ranges() {
		require.Less(t, from, to)
		require.True(t, from > at || at == 0, "ranges are maximal and ascend")
		for i := from; i < to; i++ {
			if !s.m.set[i] {
				t.Fatalf("bit %d is set", i)
			}
		}
		at, total = to, total+to-from
	}
	require.Equal(t, uint64(len(s.m.set)), total)

	// Clean means that the disk has it. Dirty may be too cautious, but a page that was
	// never touched since is clean.
	dirty := slices.Collect(s.b.DirtyPages())
	require.Len(t, dirty, s.b.DirtyCount())
	require.True(t, slices.IsSorted(dirty))
	for p := range s.b.Pages() {
		require.Equal(t, slices.Contains(dirty, p), s.b.PageDirty(p))
		if !s.b.PageDirty(p) {
			on, known := s.m.disk[p]
			require.True(t, known, "page %d is clean", p)
			require.Equal(t, on, s.page(p), "page %d is clean", p)
		}
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Uint64Range(0, 200), rapid.Uint64Range(bitmap.PageBits-70, 2*bitmap.PageBits+70)).Draw(t, "bits")
		s := &machine{b: bitmap.New(n)}
		s.m = model{n: n, set: map[uint64]bool{}, disk: map[int]map[uint64]bool{}}
		for p := range s.b.Pages() {
			s.m.disk[p] = map[uint64]bool{}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": s.Set, "clear": s.Clear, "setRange": s.SetRange, "clearRange": s.ClearRange, "all": s.All,
			"or": s.Or, "search": s.Search, "resize": s.Resize, "writePage": s.WritePage, "loadPage": s.LoadPage,
			"markDirty": s.MarkDirty, "": s.Check,
		})
	})
}

// A page is dirty exactly if one of its bits changed.
func TestDirtyIsExact(t *testing.T) {
	m := bitmap.New(10 * bitmap.PageBits)
	dirty := func() []int { return slices.Collect(m.DirtyPages()) }
	require.Empty(t, dirty())
	m.ClearAll()
	m.Clear(5)
	require.Empty(t, dirty())
	m.SetRange(2*bitmap.PageBits+5, 4*bitmap.PageBits+1)
	require.Equal(t, []int{2, 3, 4}, dirty())
	p, ok := m.NextDirty(3)
	require.True(t, ok)
	require.Equal(t, 3, p)
	_, ok = m.NextDirty(5)
	require.False(t, ok)
	for p := range m.DirtyPages() {
		m.MarkClean(p)
	}
	require.Zero(t, m.DirtyCount())
	m.SetRange(3*bitmap.PageBits, 4*bitmap.PageBits)
	require.Empty(t, dirty(), "was set already")
	m.Clear(m.Len() - 1)
	require.Empty(t, dirty(), "was clear already")
	m.Set(m.Len() - 1)
	require.Equal(t, []int{9}, dirty())
	require.Equal(t, 9, m.PageOfBit(m.Len()-1))
}

// What growing and shrinking does to the marks.
func TestResizeMarks(t *testing.T) {
	m := bitmap.New(bitmap.PageBits + 100)
	m.Set(7)
	m.MarkClean(0)
	m.Resize(3*bitmap.PageBits, false)
	require.Equal(t, []int{2}, slices.Collect(m.DirtyPages()), "only new pages, for no bit changed")
	m.Resize(3*bitmap.PageBits+1, true)
	require.Equal(t, []int{2, 3}, slices.Collect(m.DirtyPages()))
	require.True(t, m.Test(3*bitmap.PageBits))
	m.MarkClean(2)
	m.MarkClean(3)
	m.Resize(7, false)
	require.Equal(t, []int{0}, slices.Collect(m.DirtyPages()), "bit 7 was cut off")
	require.Zero(t, m.Count())
}
