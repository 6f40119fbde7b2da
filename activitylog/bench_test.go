// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"testing"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// A write to a hot extent: what every application write costs.
func BenchmarkHoldHot(b *testing.B) {
	l := filled(b)
	var e extent
	for b.Loop() {
		e = (e + 7) % 67
		l.TryHold(e)
		l.Release(e)
	}
}

func BenchmarkHoldHotLargest(b *testing.B) {
	l := activitylog.New(1<<20, activitylog.Geometry{Stripes: 1, StripeSize4k: 128})
	n := extent(l.Extents())
	for e := range n {
		l.TryHold(e)
	}
	commitAll(b, l)
	for e := range n {
		l.Release(e)
	}
	var e extent
	for b.Loop() {
		e = (e + 7919) % n
		l.TryHold(e)
		l.Release(e)
	}
}

// A transaction of one change, without its I/O.
func BenchmarkTransaction(b *testing.B) {
	l := filled(b)
	var block [4096]byte
	evicted := make([]extent, 0, 64)
	e := extent(1000)
	for b.Loop() {
		l.TryHold(e)
		l.Prepare(&block, evicted)
		l.Commit()
		l.Release(e)
		e++
	}
}

func BenchmarkReplay(b *testing.B) {
	raw := golden(b, "v08-internal-crash")
	for b.Loop() {
		if _, err := activitylog.Replay(bytes.NewReader(raw), 36864, eight); err != nil {
			b.Fatal(err)
		}
	}
}
