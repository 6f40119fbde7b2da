// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// naive is the log without an index, linked lists or a disk: the rules as prose.
type naive struct {
	places   []*place
	idle     []*place // least recently used last
	queue    []*place
	flight   []*place
	starving bool
}

type place struct {
	committed, pending extent
	refs               int
	evicting           bool // or may have evicted: not to be taken back
}

func newNaive(slots int) *naive {
	n := &naive{}
	for range slots {
		n.places = append(n.places, &place{committed: activitylog.Free, pending: activitylog.Free})
	}
	n.idle = slices.Clone(n.places)
	return n
}

func (n *naive) find(e extent) (committed, pending *place) {
	for _, p := range n.places {
		if p.committed == e {
			committed = p
		}
		if p.pending == e {
			pending = p
		}
	}
	return committed, pending
}

func (n *naive) victim() *place {
	p := n.idle[len(n.idle)-1]
	n.idle = n.idle[:len(n.idle)-1]
	return p
}

func (n *naive) hold(first, last extent) activitylog.Hold {
	if int(last-first)+1 > len(n.places) {
		return activitylog.HoldTooWide
	}
	// May all of it be had?
	need, have := 0, len(n.idle)
	for e := first; e <= last; e++ {
		committed, pending := n.find(e)
		switch {
		case pending != nil:
		case committed == nil || committed.evicting:
			need++
		case n.starving:
			return activitylog.HoldStarving
		case committed.pending != activitylog.Free:
			need++
		case committed.refs == 0:
			have--
		}
	}
	if need > have {
		n.starving = true
		return activitylog.HoldFull
	}
	// Then take it: what is hot or on its way first.
	outcome := activitylog.HoldHot
	var rest []extent
	for e := first; e <= last; e++ {
		committed, pending := n.find(e)
		switch {
		case pending != nil:
			pending.refs++
			outcome = activitylog.HoldPending
		case committed != nil && committed.pending == activitylog.Free:
			committed.refs++
			n.idle = slices.DeleteFunc(n.idle, func(p *place) bool { return p == committed })
		default:
			rest = append(rest, e)
		}
	}
	for _, e := range rest {
		p := n.victim()
		if committed, _ := n.find(e); committed != nil && !committed.evicting {
			p.pending, p.refs = committed.pending, committed.refs
			n.queue[slices.Index(n.queue, committed)] = p
			committed.pending, committed.refs = activitylog.Free, 1
			continue
		}
		p.pending, p.refs = e, 1
		n.queue = append(n.queue, p)
		outcome = activitylog.HoldPending
	}
	return outcome
}

func (n *naive) release(first, last extent) {
	for e := first; e <= last; e++ {
		p, pending := n.find(e)
		if pending != nil {
			p = pending
		}
		if p.refs--; p.refs > 0 {
			continue
		}
		if n.referenced() == 0 {
			n.starving = false
		}
		switch {
		case p.pending == activitylog.Free:
			n.idle = slices.Insert(n.idle, 0, p)
		case !p.evicting:
			n.queue = slices.DeleteFunc(n.queue, func(q *place) bool { return q == p })
			p.pending = activitylog.Free
			n.idle = append(n.idle, p)
		}
	}
}

func (n *naive) prepare() (evicted []extent) {
	k := min(64, len(n.queue))
	n.flight, n.queue = slices.Clone(n.queue[:k]), slices.Clone(n.queue[k:])
	for _, p := range n.flight {
		p.evicting = true
		if p.committed != activitylog.Free {
			evicted = append(evicted, p.committed)
		}
	}
	return evicted
}

func (n *naive) commit() {
	if len(n.flight) > 0 {
		n.starving = false
	}
	for _, p := range n.flight {
		p.committed, p.pending, p.evicting = p.pending, activitylog.Free, false
		if p.refs == 0 {
			n.idle = slices.Insert(n.idle, 0, p)
		}
	}
	n.flight = nil
}

func (n *naive) abort() {
	n.queue = append(n.flight, n.queue...)
	n.flight = nil
}

func (n *naive) referenced() (k int) {
	for _, p := range n.places {
		if p.refs > 0 {
			k++
		}
	}
	return k
}

func (n *naive) hot() (list []extent) {
	for _, p := range n.places {
		if p.committed != activitylog.Free {
			list = append(list, p.committed)
		}
	}
	slices.Sort(list)
	return list
}

// machine runs the log, the model and the disk side by side.
type machine struct {
	*world
	n        *naive
	universe extent
}

func (m *machine) Hold(t *rapid.T) {
	first := extent(rapid.Uint32Range(0, uint32(m.universe)).Draw(t, "first"))
	wide := rapid.SampledFrom([]uint32{0, 0, 0, 0, 1, 2, 30, 70}).Draw(t, "wide")
	last := first + extent(wide)
	want := m.n.hold(first, last)
	require.Equal(t, want, m.hold(first, last))
	require.Equal(t, want == activitylog.HoldHot, want.Held() && m.l.Granted(first, last))
}

// HoldMany makes the log full.
func (m *machine) HoldMany(t *rapid.T) {
	step := rapid.Uint32Range(1, 3).Draw(t, "step")
	first := rapid.Uint32Range(0, uint32(m.universe)).Draw(t, "first")
	for i := range uint32(70) {
		e := extent((first + i*step) % uint32(m.universe))
		require.Equal(t, m.n.hold(e, e), m.hold(e, e))
	}
}

func (m *machine) Release(t *rapid.T) {
	for range rapid.SampledFrom([]int{1, 1, 3, 50, 200}).Draw(t, "how many") {
		if len(m.held) == 0 {
			return
		}
		i := rapid.IntRange(0, len(m.held)-1).Draw(t, "which")
		m.n.release(m.held[i][0], m.held[i][1])
		m.release(i)
	}
}

func (m *machine) Prepare(t *rapid.T) {
	context := rapid.IntRange(0, 4).Draw(t, "context") == 0
	busy := m.l.Prepared()
	queued := len(m.n.queue)
	evicted, ok := m.prepare(context)
	require.Equal(t, !busy && (context || queued > 0), ok)
	if ok && !context {
		require.Equal(t, m.n.prepare(), evicted)
		require.Equal(t, min(64, queued), m.flight.NUpdates)
	}
}

func (m *machine) Finish(t *rapid.T) {
	if !m.l.Prepared() {
		return
	}
	if rapid.IntRange(0, 3).Draw(t, "abort") == 0 {
		m.abort(rapid.SampledFrom(fates).Draw(t, "fate"))
		m.n.abort()
	} else {
		m.commit()
		m.n.commit()
	}
}

func (m *machine) Check(t *rapid.T) {
	hot := slices.Sorted(m.l.Hot())
	require.Equal(t, m.n.hot(), hot)
	require.Len(t, hot, m.l.Len())
	require.Equal(t, len(m.n.queue), m.l.Pending())
	require.Equal(t, m.n.referenced(), m.l.Referenced())
	require.Equal(t, m.n.starving, m.l.Starving())
	for e := range m.universe {
		committed, pending := m.n.find(e)
		require.Equal(t, committed != nil, m.l.IsHot(e))
		refs := 0
		if pending != nil {
			refs = pending.refs
		} else if committed != nil && committed.pending == activitylog.Free {
			refs = committed.refs
		}
		require.Equal(t, refs, m.l.Refs(e))
	}
	m.check(t)
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom([]activitylog.Geometry{{}, {Stripes: 2, StripeSize4k: 16}, {Stripes: 3, StripeSize4k: 3}}).Draw(t, "geometry")
		m := &machine{world: newWorld(67, g), n: newNaive(67), universe: 150}
		start := rapid.SampledFrom([]uint32{0, 0, 1<<31 - 3, 1<<32 - 5}).Draw(t, "start")
		if start > 0 {
			// A ring that has been in use, for else a torn block would be no torn first one.
			m.l.Continue(start - g.Blocks())
			for range g.Blocks() {
				m.prepare(true)
				m.commit()
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"hold": m.Hold, "holdMany": m.HoldMany, "release": m.Release,
			"prepare": m.Prepare, "prepare2": m.Prepare, "finish": m.Finish, "finish2": m.Finish, "": m.Check,
		})
	})
}
