// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

const (
	full     = activitylog.HoldFull
	starving = activitylog.HoldStarving
	tooWide  = activitylog.HoldTooWide
	pending  = activitylog.HoldPending
	hot      = activitylog.HoldHot
)

// commitAll brings everything that is pending through.
func commitAll(t require.TestingT, l *activitylog.Log) (evicted []extent) {
	for l.Pending() > 0 {
		var block [4096]byte
		var ok bool
		_, evicted, ok = l.Prepare(&block, evicted)
		require.True(t, ok)
		l.Commit()
	}
	return evicted
}

// filled returns a log of 67 slots in which the extents 0..66 are hot and free to go,
// 0 first.
func filled(t require.TestingT) *activitylog.Log {
	l := activitylog.New(67, activitylog.Geometry{})
	for e := range extent(67) {
		require.Equal(t, pending, l.TryHold(e))
	}
	commitAll(t, l)
	for e := range extent(67) {
		l.Release(e)
	}
	return l
}

func TestHoldLifecycle(t *testing.T) {
	l := activitylog.New(0, activitylog.Geometry{})
	require.Equal(t, activitylog.DefaultExtents, l.Extents())
	require.Equal(t, activitylog.Geometry{Stripes: 1, StripeSize4k: 8}, l.Geometry())
	require.Equal(t, pending, l.TryHold(5))
	require.Equal(t, pending, l.TryHold(5), "the second one waits for the same change")
	require.Equal(t, 1, l.Pending())
	require.Equal(t, 2, l.Refs(5))
	require.False(t, l.IsHot(5))
	require.False(t, l.Granted(5, 5))

	var block [4096]byte
	tr, evicted, ok := l.Prepare(&block, nil)
	require.True(t, ok)
	require.Empty(t, evicted)
	require.Equal(t, activitylog.Transaction{Number: 0, BlockIndex: 0, NUpdates: 1}, tr)
	require.False(t, l.Granted(5, 5), "not before it is durable")
	_, _, ok = l.Prepare(&block, nil)
	require.False(t, ok, "one at a time")
	l.Commit()
	require.True(t, l.Granted(5, 5))
	require.True(t, l.IsHot(5))
	require.Equal(t, hot, l.TryHold(5))
	require.Equal(t, 1, l.Referenced())
	for range 3 {
		l.Release(5)
	}
	require.True(t, l.IsHot(5), "hot until evicted")
	require.False(t, l.Granted(5, 5))
	require.Zero(t, l.Refs(5))
	require.Zero(t, l.Referenced())
	_, _, ok = l.Prepare(&block, nil)
	require.False(t, ok, "nothing to do")
}

// Slots go from the highest number down on a fresh log, as the kernel does (spec:
// on-disk 5.4), and the context is the state before the changes.
func TestTransactionContent(t *testing.T) {
	l := activitylog.New(1237, activitylog.Geometry{})
	var raw [4096]byte
	for k := range extent(4) {
		l.TryHold(100 + k)
		tr, _, ok := l.Prepare(&raw, nil)
		require.True(t, ok)
		l.Commit()
		b, err := activitylog.DecodeBlock(&raw)
		require.NoError(t, err)
		require.Equal(t, uint32(k), b.Number)
		require.Equal(t, tr.Number, b.Number)
		require.Equal(t, activitylog.TypeUpdate, b.Type)
		require.Equal(t, uint16(1), b.NUpdates)
		require.Equal(t, uint16(1237), b.ContextSize)
		require.Equal(t, uint16(k%2*919), b.ContextStart, "the window alternates")
		require.Equal(t, uint16(1236-k), b.UpdateSlot[0])
		require.Equal(t, 100+k, b.UpdateExtent[0])
		require.Equal(t, uint16(0xffff), b.UpdateSlot[1])
		require.Equal(t, activitylog.Free, b.UpdateExtent[1])
		for i, e := range b.Context {
			want := activitylog.Free
			if s := int(b.ContextStart) + i; s < 1237 && s > 1236-int(k) {
				want = 100 + extent(1236-s)
			}
			require.Equal(t, want, e, "slot %d before change %d", int(b.ContextStart)+i, k)
		}
	}
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	l := filled(t)
	require.Equal(t, hot, l.TryHold(0))
	l.Release(0) // 0 is the youngest now
	for e := range extent(3) {
		require.Equal(t, pending, l.TryHold(1000+e))
	}
	require.Equal(t, []extent{1, 2, 3}, commitAll(t, l))
	require.True(t, l.IsHot(0))
	require.False(t, l.IsHot(1))
	require.Equal(t, 67, l.Len())
}

// 64 changes fit in one transaction; the rest waits for the next.
func TestManyChanges(t *testing.T) {
	l := activitylog.New(200, activitylog.Geometry{})
	for e := range extent(150) {
		require.Equal(t, pending, l.TryHold(e))
	}
	var block [4096]byte
	for _, want := range []int{64, 64, 22} {
		tr, _, ok := l.Prepare(&block, nil)
		require.True(t, ok)
		require.Equal(t, want, tr.NUpdates)
		l.Commit()
	}
	require.True(t, l.Granted(0, 149))
}

// An extent whose eviction is only queued is taken back; one whose eviction is in
// flight has to be logged anew.
func TestEvictedExtentIsAskedFor(t *testing.T) {
	l := filled(t)
	require.Equal(t, pending, l.TryHold(100)) // will evict 0
	require.Equal(t, hot, l.TryHold(0))       // evicts 1 instead
	require.Equal(t, []extent{1}, commitAll(t, l))
	require.True(t, l.Granted(0, 0))
	require.True(t, l.Granted(100, 100))

	require.Equal(t, pending, l.TryHold(101)) // will evict 2
	var block [4096]byte
	_, evicted, _ := l.Prepare(&block, nil)
	require.Equal(t, []extent{2}, evicted)
	require.True(t, l.IsHot(2), "until the commit")
	require.Equal(t, pending, l.TryHold(2))
	require.False(t, l.Granted(2, 2))
	require.Equal(t, 1, l.Refs(2))
	l.Commit()
	require.False(t, l.IsHot(2))
	require.Equal(t, []extent{3}, commitAll(t, l))
	require.True(t, l.Granted(2, 2))
	l.Release(2)
}

// A failed write leaves it open what the disk says.
func TestAbort(t *testing.T) {
	l := filled(t)
	require.Equal(t, pending, l.TryHold(100)) // evicts 0
	var first, second [4096]byte
	tr, _, _ := l.Prepare(&first, nil)
	require.Equal(t, pending, l.TryHold(101)) // evicts 1
	l.Abort()
	require.Equal(t, 2, l.Pending())
	require.True(t, l.IsHot(0))
	require.Equal(t, pending, l.TryHold(0), "no write may go to it unless it is logged again") // evicts 2
	l.Release(100)
	l.Release(101)
	require.Equal(t, 2, l.Pending(), "a change that may be on disk cannot be dropped")

	require.ErrorIs(t, l.Resize(200), activitylog.ErrBusy)

	again, evicted, ok := l.Prepare(&second, nil)
	require.True(t, ok)
	require.Equal(t, tr.Number, again.Number)
	require.Equal(t, tr.BlockIndex, again.BlockIndex)
	require.Equal(t, 2, again.NUpdates)
	require.Equal(t, []extent{0, 2}, evicted)
	l.Commit()
	require.True(t, l.Granted(0, 0))
	require.True(t, l.IsHot(100))
	require.Zero(t, l.Refs(100))
	require.True(t, l.IsHot(1), "its eviction was dropped")
}

func TestReleaseBeforeCommit(t *testing.T) {
	l := filled(t)
	l.TryHold(100)
	l.Release(100)
	require.Zero(t, l.Pending())
	require.Equal(t, pending, l.TryHold(101))
	var block [4096]byte
	_, evicted, _ := l.Prepare(&block, nil)
	require.Equal(t, []extent{0}, evicted)
	l.Release(101)
	require.Equal(t, pending, l.TryHold(101), "still in flight")
	l.Commit()
	require.True(t, l.Granted(101, 101))
}

func TestFullAndStarving(t *testing.T) {
	l := filled(t)
	for e := range extent(67) {
		require.Equal(t, hot, l.TryHold(e))
	}
	require.Equal(t, 67, l.Referenced())
	require.Equal(t, hot, l.TryHold(3), "the fast path is open")
	require.Equal(t, full, l.TryHold(100))
	require.True(t, l.Starving())
	require.Equal(t, starving, l.TryHold(3))
	require.Equal(t, starving, l.TryHoldRange(3, 4))
	require.Equal(t, full, l.TryHold(100))
	l.Release(3)
	require.Equal(t, full, l.TryHold(100), "two had it")
	l.Release(3)
	require.Equal(t, starving, l.TryHold(5))
	require.Equal(t, pending, l.TryHold(100))
	require.Equal(t, starving, l.TryHold(5), "until the transaction got through")
	commitAll(t, l)
	require.Equal(t, hot, l.TryHold(5))

	// Whoever starved may give up. When nobody holds anything, nobody starves.
	require.Equal(t, full, l.TryHold(101))
	l.Release(5)
	for e := range extent(67) {
		if e != 3 {
			l.Release(e)
		}
	}
	require.True(t, l.Starving())
	l.Release(100)
	require.False(t, l.Starving())
	require.Equal(t, hot, l.TryHold(5))
}

// A range is held as a whole or not at all, and does not evict itself.
func TestRange(t *testing.T) {
	l := filled(t)
	require.Equal(t, hot, l.TryHoldRange(0, 1))
	require.Equal(t, pending, l.TryHoldRange(66, 67))
	require.Equal(t, []extent{2}, commitAll(t, l))
	require.True(t, l.Granted(66, 67))
	l.ReleaseRange(66, 67)

	for e := extent(3); e < 66; e++ {
		require.Equal(t, hot, l.TryHold(e))
	}
	// Idle are 66 and 67. The range 66..68 needs one more.
	require.Equal(t, full, l.TryHoldRange(66, 68))
	require.Zero(t, l.Refs(66))
	require.Equal(t, 65, l.Referenced())
	require.Zero(t, l.Pending())
	require.Equal(t, pending, l.TryHoldRange(68, 69))
	require.Equal(t, 67, l.Referenced())

	require.Equal(t, tooWide, l.TryHoldRange(0, 67))
	require.False(t, tooWide.Held())
	require.Equal(t, tooWide, l.TryHoldRange(0, activitylog.Free-1))
	for h, name := range map[activitylog.Hold]string{hot: "hot", pending: "pending", full: "full", starving: "starving", tooWide: "too wide", 9: "Hold(9)"} {
		require.Equal(t, name, h.String())
	}
}

func TestMisuse(t *testing.T) {
	var l *activitylog.Log
	for name, f := range map[string]func(){
		"release of what is not held":     func() { l.Release(1) },
		"release of what is free to go":   func() { filled(t).Release(1) },
		"release of what is evicted":      func() { f := inFlight(t); f.Release(0) },
		"commit of nothing":               func() { l.Commit() },
		"abort of nothing":                func() { l.Abort() },
		"the free mark":                   func() { l.TryHold(activitylog.Free) },
		"a range up to the free mark":     func() { l.TryHoldRange(5, activitylog.Free) },
		"a range backwards":               func() { l.TryHoldRange(5, 4) },
		"an impossible ring":              func() { activitylog.New(67, activitylog.Geometry{Stripes: 1, StripeSize4k: 7}) },
		"a new counter for a log in use":  func() { filled(t).Continue(7) },
		"a new counter with a change due": func() { l.TryHold(1); l.Continue(7) },
	} {
		l = activitylog.New(67, activitylog.Geometry{})
		require.Panics(t, f, name)
	}
	l = activitylog.New(67, activitylog.Geometry{})
	var block [4096]byte
	_, ok := l.PrepareContext(&block)
	require.True(t, ok)
	_, ok = l.PrepareContext(&block)
	require.False(t, ok)
}

// inFlight returns a log in which the eviction of extent 0 is in flight.
func inFlight(t require.TestingT) *activitylog.Log {
	l := filled(t)
	l.TryHold(100)
	var block [4096]byte
	_, _, ok := l.Prepare(&block, nil)
	require.True(t, ok)
	return l
}

func TestResizeDropRestart(t *testing.T) {
	l := filled(t)
	l.TryHold(0)
	require.ErrorIs(t, l.Resize(200), activitylog.ErrBusy)
	l.Release(0)
	var block [4096]byte
	tr, ok := l.PrepareContext(&block)
	require.True(t, ok)
	require.ErrorIs(t, l.Resize(200), activitylog.ErrBusy)
	l.Commit()
	require.NoError(t, l.Resize(200))
	require.Equal(t, 200, l.Extents())
	require.Zero(t, l.Len())
	next, ok := l.PrepareContext(&block)
	require.True(t, ok)
	require.Equal(t, tr.Number+1, next.Number, "the counter goes on")
	l.Commit()
	require.NoError(t, l.Resize(1))
	require.Equal(t, activitylog.MinExtents, l.Extents())
	require.NoError(t, l.Resize(1<<20))
	require.Equal(t, 7*919, l.Extents())

	l = inFlight(t)
	l.Abort()
	l.Release(100)
	require.Zero(t, l.Referenced())
	require.ErrorIs(t, l.Resize(200), activitylog.ErrBusy, "the disk may say either")

	l = inFlight(t)
	l.DropAll()
	require.Zero(t, l.Len()+l.Referenced()+l.Pending())
	require.False(t, l.Prepared())
	require.Equal(t, pending, l.TryHold(0))
	tr, _, ok = l.Prepare(&block, nil)
	require.True(t, ok)
	require.NotZero(t, tr.Number)
	l.Restart()
	l.TryHold(0)
	tr, _, ok = l.Prepare(&block, nil)
	require.True(t, ok)
	require.Zero(t, tr.Number)
}

// Many more writers than slots, wide and narrow, hot and cold: served in the order in
// which they came, each gets through.
func TestEverybodyGetsThrough(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	w := newWorld(67, activitylog.Geometry{})
	type writer struct{ first, last extent }
	var waiting []writer
	done, transactions := 0, 0
	for step := 0; done < 3000; step++ {
		require.Less(t, step, 100000, "%d done, %d waiting", done, len(waiting))
		for len(waiting) < 100 {
			first := extent(rnd.Uint32N(10)) // hot spot
			if rnd.IntN(3) == 0 {
				first = extent(rnd.Uint32N(1000))
			}
			wide := extent(0)
			if rnd.IntN(20) == 0 {
				wide = extent(rnd.Uint32N(60))
			}
			waiting = append(waiting, writer{first, first + wide})
		}
		for len(waiting) > 0 && w.hold(waiting[0].first, waiting[0].last).Held() {
			waiting = waiting[1:]
		}
		if _, ok := w.prepare(false); ok {
			transactions++
			w.commit()
		}
		for i := len(w.held) - 1; i >= 0; i-- {
			if w.l.Granted(w.held[i][0], w.held[i][1]) && rnd.IntN(4) == 0 {
				w.release(i)
				done++
			}
		}
		if step%50 == 0 {
			w.check(t)
		}
	}
	require.Positive(t, transactions)
}

// The largest log that a ring can describe: every window of the context is needed,
// and the block that is being overwritten is torn at each transaction, across the
// wrap of the counter, in rings whose length is a power of two or is not.
func TestEveryWindowCounts(t *testing.T) {
	for _, g := range []activitylog.Geometry{
		{Stripes: 1, StripeSize4k: 8}, {Stripes: 3, StripeSize4k: 3}, {Stripes: 1, StripeSize4k: 11},
	} {
		rnd := rand.New(rand.NewPCG(3, 4))
		w := newWorld(1<<20, g)
		require.Equal(t, int(g.Blocks()-1)*919, w.l.Extents())
		w.l.Continue(^uint32(0) - 140)
		for range g.Blocks() {
			w.prepare(true)
			w.commit()
		}
		for e := range extent(w.l.Extents()) {
			require.Equal(t, pending, w.hold(e, e))
		}
		numbers := []uint32{}
		for k := range 200 {
			_, ok := w.prepare(false)
			if !ok {
				// Everything is held. Exchange a few.
				for range 5 {
					w.release(rnd.IntN(len(w.held)))
					e := extent(100000 + rnd.Uint32N(1000000))
					require.Equal(t, pending, w.hold(e, e))
				}
				_, ok = w.prepare(false)
				require.True(t, ok)
			}
			numbers = append(numbers, w.flight.Number)
			if k > 100 && k%3 == 0 {
				w.check(t)
			}
			w.commit()
		}
		require.Contains(t, numbers, ^uint32(0))
		require.False(t, slices.IsSorted(numbers), "it wrapped")
	}
}

func TestAllocations(t *testing.T) {
	l := filled(t)
	next := extent(1000)
	evicted := make([]extent, 0, 64)
	var block [4096]byte
	sum := extent(0)
	for name, f := range map[string]func(){
		"hot":   func() { l.TryHold(5); l.Release(5) },
		"range": func() { l.TryHoldRange(7, 9); l.ReleaseRange(7, 9) },
		"queries": func() {
			l.IsHot(5)
			l.Refs(5)
			l.Granted(5, 9)
			for e := range l.Hot() {
				sum += e
			}
		},
		"cold": func() {
			l.TryHold(next)
			_, _, ok := l.Prepare(&block, evicted)
			if !ok {
				panic("nothing to do")
			}
			l.Abort()
			l.Prepare(&block, evicted)
			l.Commit()
			l.Release(next)
			next++
		},
		"context": func() { l.PrepareContext(&block); l.Commit() },
	} {
		if name == "hot" || name == "range" {
			l.DropAll()
			require.Equal(t, pending, l.TryHoldRange(5, 9))
			commitAll(t, l)
			l.ReleaseRange(5, 9)
		}
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
	require.NotZero(t, sum+1)
}
