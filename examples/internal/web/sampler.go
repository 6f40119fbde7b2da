// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// historyLen is how many samples of a second are kept: five minutes.
const historyLen = 300

// Sample is what a node's clients saw in one second.
type Sample struct {
	Unix  int64   `json:"t"`
	Read  float64 `json:"r"` // bytes
	Write float64 `json:"w"` // bytes
	// Mean and the 99th percentile of the time that writes and flushes took, in
	// milliseconds; the percentile is the upper end of a bucket of the histogram.
	Mean float64 `json:"mean"`
	P99  float64 `json:"p99"`
}

// Sampler takes a sample every second while it runs.
type Sampler struct {
	n    *node.Node
	mu   sync.Mutex
	ring []Sample
	last totals
	subs map[chan Sample]struct{}
}

type totals struct {
	at          time.Time
	read, write int64
	lat         node.Latencies
}

// NewSampler returns a sampler for a node. It does nothing before Run.
func NewSampler(n *node.Node) *Sampler {
	return &Sampler{n: n, subs: map[chan Sample]struct{}{}}
}

// Run takes samples until ctx ends.
func (s *Sampler) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	s.take(time.Now())
	for {
		select {
		case now := <-tick.C:
			s.take(now)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Sampler) totals(now time.Time) totals {
	t := totals{at: now}
	for _, d := range s.n.Devices() {
		r := d.Latency(node.Read).Load()
		t.read += r.Bytes
		for _, k := range []node.Kind{node.Write, node.Flush} {
			l := d.Latency(k).Load()
			t.write += l.Bytes
			t.lat.Sum += l.Sum
			for i, c := range l.Counts {
				t.lat.Counts[i] += c
			}
		}
	}
	return t
}

// take takes one sample. The first call only sets the start.
func (s *Sampler) take(now time.Time) {
	t := s.totals(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	s.last = t
	if last.at.IsZero() {
		return
	}
	sec := max(now.Sub(last.at).Seconds(), 0.001)
	// A resource that was taken away makes totals smaller.
	out := Sample{Unix: now.Unix(), Read: float64(max(t.read-last.read, 0)) / sec, Write: float64(max(t.write-last.write, 0)) / sec}
	var counts node.Latencies
	for i := range t.lat.Counts {
		if t.lat.Counts[i] >= last.lat.Counts[i] {
			counts.Counts[i] = t.lat.Counts[i] - last.lat.Counts[i]
		}
	}
	if n := counts.Total(); n > 0 && t.lat.Sum >= last.lat.Sum {
		out.Mean = float64((t.lat.Sum - last.lat.Sum).Microseconds()) / float64(n) / 1000
		out.P99 = percentile(counts, 0.99)
	}
	if len(s.ring) == historyLen {
		s.ring = s.ring[1:]
	}
	s.ring = append(s.ring, out)
	for c := range s.subs {
		select {
		case c <- out:
		default: // a reader that is slow misses it
		}
	}
}

// percentile returns the upper end of the bucket that holds the q-th request, in ms.
func percentile(l node.Latencies, q float64) float64 {
	bounds := node.LatencyBounds()
	want, sum := uint64(q*float64(l.Total())), uint64(0)
	for i, c := range l.Counts {
		sum += c
		if sum > want || i == len(bounds) {
			return float64(bounds[min(i, len(bounds)-1)].Microseconds()) / 1000
		}
	}
	return 0
}

// subscribe returns the history, and a channel with what follows.
func (s *Sampler) subscribe() ([]Sample, chan Sample) {
	c := make(chan Sample, 4)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[c] = struct{}{}
	return append([]Sample{}, s.ring...), c
}

func (s *Sampler) unsubscribe(c chan Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subs, c)
}
