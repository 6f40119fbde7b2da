// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

type extent = activitylog.Extent

// fate is what becomes of a block whose write was cut short.
type fate int

const (
	lost fate = iota
	torn
	landed
)

var fates = []fate{lost, torn, landed}

// world is a log with its ring on disk and the writes that hold extents. It can
// crash at any instant: check asserts that a replay finds every extent in which a
// write may be going on.
type world struct {
	l    *activitylog.Log
	g    activitylog.Geometry
	ring []byte

	held   [][2]extent // ranges that are held, granted or not
	flight activitylog.Transaction
	block  [4096]byte
}

func newWorld(slots int, g activitylog.Geometry) *world {
	w := &world{l: activitylog.New(slots, g), g: g, ring: make([]byte, g.Bytes())}
	for i := range g.Blocks() {
		activitylog.InitBlock((*[4096]byte)(w.ring[4096*i:]))
	}
	return w
}

func (w *world) hold(first, last extent) activitylog.Hold {
	h := w.l.TryHoldRange(first, last)
	if h.Held() {
		w.held = append(w.held, [2]extent{first, last})
	}
	return h
}

func (w *world) release(i int) {
	w.l.ReleaseRange(w.held[i][0], w.held[i][1])
	w.held = slices.Delete(w.held, i, i+1)
}

// prepare is Prepare or PrepareContext; it returns the evicted extents.
func (w *world) prepare(context bool) (evicted []extent, ok bool) {
	var tr activitylog.Transaction
	if context {
		tr, ok = w.l.PrepareContext(&w.block)
	} else {
		tr, evicted, ok = w.l.Prepare(&w.block, nil)
	}
	if ok {
		w.flight = tr
	}
	return evicted, ok
}

func (w *world) put(ring []byte, f fate) {
	at := ring[w.flight.Offset():]
	switch f {
	case torn:
		copy(at[:512], w.block[:512]) // one sector of eight
		at[511] ^= 1                  // which differs, whatever was there
	case landed:
		copy(at, w.block[:])
	}
}

func (w *world) commit() {
	w.put(w.ring, landed)
	w.l.Commit()
}

func (w *world) abort(f fate) {
	w.put(w.ring, f)
	w.l.Abort()
}

// check crashes the node in every way that is possible now.
func (w *world) check(t require.TestingT) {
	w.crash(t, w.ring)
	if w.l.Prepared() {
		for _, f := range fates[1:] {
			ring := slices.Clone(w.ring)
			w.put(ring, f)
			w.crash(t, ring)
		}
	}
}

func (w *world) crash(t require.TestingT, ring []byte) {
	res, err := activitylog.Replay(bytes.NewReader(ring), 0, w.g)
	require.NoError(t, err)
	for _, r := range w.held {
		if !w.l.Granted(r[0], r[1]) {
			continue
		}
		for e := r[0]; e <= r[1]; e++ {
			if _, ok := slices.BinarySearch(res.Hot, e); !ok {
				t.Errorf("a write may be going on in extent %d, but the log does not have it", e)
				t.FailNow()
			}
		}
	}
}
