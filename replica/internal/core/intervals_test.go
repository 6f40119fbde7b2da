// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestIntervals holds the list against its promise: overlapping entries, one of them a
// write, never run together, they run in order of arrival, and nobody waits for ever.
func TestIntervals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &volume{c: &Core{}}
		v.active.v = v
		running := map[*interval]int{}
		arrived := map[*interval]int{}
		overlap := func(a, b *interval) bool {
			return a.from < b.to && b.from < a.to && (a.write || b.write)
		}
		begin := func(i *interval) {
			for o := range running {
				if overlap(o, i) {
					t.Fatalf("%d..%d runs beside %d..%d", i.from, i.to, o.from, o.to)
				}
			}
			for o, n := range arrived {
				if _, runs := running[o]; !runs && o != i && n < arrived[i] && overlap(o, i) {
					t.Fatalf("%d..%d overtakes %d..%d", i.from, i.to, o.from, o.to)
				}
			}
			running[i] = arrived[i]
		}
		for n := range rapid.IntRange(1, 60).Draw(t, "n") {
			if len(running) > 0 && rapid.IntRange(0, 2).Draw(t, "end") == 0 {
				oldest := (*interval)(nil)
				skip := rapid.IntRange(0, len(running)-1).Draw(t, "which")
				for i := v.active.head; i != nil; i = i.next {
					if _, ok := running[i]; ok {
						if skip == 0 {
							oldest = i
							break
						}
						skip--
					}
				}
				delete(running, oldest)
				delete(arrived, oldest)
				v.active.remove(oldest)
				continue
			}
			from := rapid.Uint64Range(0, 40).Draw(t, "from")
			i := &interval{from: from, to: from + rapid.Uint64Range(1, 12).Draw(t, "len"), write: rapid.Bool().Draw(t, "write")}
			i.run = func(_ *Core, i *interval) { begin(i) }
			arrived[i] = n
			if v.active.add(i) {
				begin(i)
			}
		}
		for len(running) > 0 {
			for i := range running {
				delete(running, i)
				delete(arrived, i)
				v.active.remove(i)
				break
			}
		}
		if v.active.head != nil || v.active.nWaiting != 0 || len(arrived) != 0 {
			t.Fatalf("%d entries were never run", len(arrived))
		}
	})
}

func TestRequestTable(t *testing.T) {
	c := &Core{}
	seen := map[uint64]bool{}
	var old []uint64
	for range 1000 {
		r := c.newRequest()
		id := uint64(r.id)
		if seen[id] || id == ^uint64(0) {
			t.Fatalf("id %x twice, or ID_SYNCER", id)
		}
		seen[id] = true
		if c.requests.find(r.id) != r {
			t.Fatal("lost")
		}
		for _, o := range old {
			if c.requests.find(r.id+1<<40) != nil || o != id && c.requests.slots[o>>32] == nil {
				t.Fatal("an invented id finds a request")
			}
		}
		c.freeRequest(r)
		if c.requests.find(r.id) != nil {
			t.Fatal("a stale id finds a request")
		}
	}
}

// TestIntervalsOvertaking: a block that the target has asked for goes before an own
// write that waits for it, and the write does not begin before the block is here, even
// if the resync is given up in between.
func TestIntervalsOvertaking(t *testing.T) {
	v := &volume{c: &Core{}}
	v.active.v = v
	pd := &peerDevice{v: v, p: &peer{}}
	v.pds = []*peerDevice{pd}
	pd.resync.asked = []span{{sector: 8, size: 4096}}
	var order []string
	own := &interval{from: 10, to: 12, write: true, req: &request{}, run: func(*Core, *interval) { order = append(order, "own") }}
	require.False(t, v.active.add(own))
	block := &interval{from: 8, to: 16, write: true, peer: &peerReq{cmd: protocol.CmdRSDataReply}}
	require.True(t, v.active.add(block), "the block waits for what waits for it")
	mirrored := &interval{from: 8, to: 16, write: true, peer: &peerReq{cmd: protocol.CmdData},
		run: func(*Core, *interval) { order = append(order, "mirrored") }}
	require.False(t, v.active.add(mirrored))
	pd.resync.asked = nil
	v.active.wake()
	require.Empty(t, order, "the block is still being written")
	v.active.remove(block)
	require.Equal(t, []string{"mirrored"}, order, "an own write that has not begun waits for all that is here of the peer's")
	v.active.remove(mirrored)
	require.Equal(t, []string{"mirrored", "own"}, order)
}
