// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"sync/atomic"
	"time"
)

// Kind is what a client of a device asks for.
type Kind uint8

// The kinds of requests.
const (
	Read Kind = iota
	Write
	Flush
	Discard
	Zero
	kinds
)

// Kinds is how many there are.
const Kinds = int(kinds)

// String returns the name, as the metrics have it.
func (k Kind) String() string {
	return [...]string{"read", "write", "flush", "discard", "write_zeroes"}[k]
}

// LatencyBounds are the upper ends of a histogram's buckets: powers of two from 16 us
// to about 17 s. What is slower counts only in the sum.
func LatencyBounds() []time.Duration {
	out := make([]time.Duration, buckets)
	for i := range out {
		out[i] = 16 * time.Microsecond << i
	}
	return out
}

const buckets = 21

// Histogram counts requests by the time they took. Safe for concurrent use.
type Histogram struct {
	bucket [buckets + 1]atomic.Uint64
	nanos  atomic.Int64
	bytes  atomic.Int64
}

// Latencies is what a Histogram held at one time. Counts are not cumulative; the last
// one is of those slower than every bound.
type Latencies struct {
	Counts [buckets + 1]uint64
	Sum    time.Duration
	Bytes  int64
}

// Total returns the number of requests.
func (l *Latencies) Total() (n uint64) {
	for _, c := range l.Counts {
		n += c
	}
	return n
}

func (h *Histogram) add(d time.Duration, bytes int64) {
	i := 0
	for i < buckets && d > 16*time.Microsecond<<i {
		i++
	}
	h.bucket[i].Add(1)
	h.nanos.Add(int64(d))
	h.bytes.Add(bytes)
}

// Load returns what was counted so far.
func (h *Histogram) Load() (l Latencies) {
	for i := range h.bucket {
		l.Counts[i] = h.bucket[i].Load()
	}
	l.Sum, l.Bytes = time.Duration(h.nanos.Load()), h.bytes.Load()
	return l
}
