// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"container/heap"
	"time"
)

// clock runs events in virtual time, those of one instant in the order in which
// they were made.
type clock struct {
	now   time.Duration
	seq   uint64
	queue eventHeap
}

type event struct {
	at  time.Duration
	seq uint64
	run func()
}

func (c *clock) after(d time.Duration, run func()) {
	c.seq++
	heap.Push(&c.queue, event{at: c.now + d, seq: c.seq, run: run})
}

// step runs the next event; it reports false if there is none.
func (c *clock) step() bool {
	if len(c.queue) == 0 {
		return false
	}
	e := heap.Pop(&c.queue).(event)
	c.now = max(c.now, e.at)
	e.run()
	return true
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}
