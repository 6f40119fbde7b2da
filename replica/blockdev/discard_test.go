// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// unitDisk discards whole units only, and leaves the rest as it is.
type unitDisk struct {
	*Memory
	unit      int64
	discarded int64
}

func (d *unitDisk) Limits() Limits {
	l := d.Memory.Limits()
	l.DiscardGranularity, l.DiscardZeroes = d.unit, false
	return l
}

func (d *unitDisk) Discard(off, n int64) error {
	from, to := (off+d.unit-1)/d.unit*d.unit, (off+n)/d.unit*d.unit
	if from >= to {
		return nil
	}
	d.discarded += to - from
	return d.Memory.Discard(from, to-from)
}

// TestDiscardZeroesEdges: what a disk does not discard is zeroed (spec: behaviour 5.11).
func TestDiscardZeroesEdges(t *testing.T) {
	const size = 1 << 20
	for _, row := range []struct{ off, n, whole int64 }{
		{0, 64 << 10, 64 << 10}, {512, 128 << 10, 64 << 10}, {64 << 10, 65 << 10, 64 << 10},
		{1024, 4096, 0}, {60 << 10, 8 << 10, 0}, {100 << 10, 300 << 10, 256 << 10},
	} {
		d := &unitDisk{Memory: NewMemory(size), unit: 64 << 10}
		_, err := d.WriteAt(bytes.Repeat([]byte{7}, size), 0)
		require.NoError(t, err)
		q := NewPoolQueue(d, 1)
		require.NoError(t, submit(q, &Op{Kind: OpDiscard, Off: row.off, N: row.n, ZeroEdges: true}))
		require.NoError(t, q.Close())
		got := make([]byte, size)
		_, err = d.ReadAt(got, 0)
		require.NoError(t, err)
		want := bytes.Repeat([]byte{7}, size)
		clear(want[row.off : row.off+row.n])
		require.True(t, bytes.Equal(want, got), "%v", row)
		require.Equal(t, row.whole, d.discarded, "%v", row)
	}
}
