// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiscardOp: how a discard reaches disks of different kinds.
func TestDiscardOp(t *testing.T) {
	for _, row := range []struct {
		name              string
		can, zeroes, noIf bool
		want              Op
	}{
		{"a disk that cannot", false, false, false, Op{Kind: OpZero, MayUnmap: true}},
		{"one that reads zeroes", true, true, false, Op{Kind: OpDiscard}},
		{"the same, discard-zeroes-if-aligned no", true, true, true, Op{Kind: OpDiscard}},
		{"one that promises nothing", true, false, false, Op{Kind: OpDiscard, ZeroEdges: true}},
		{"the same, discard-zeroes-if-aligned no", true, false, true, Op{Kind: OpZero, MayUnmap: true}},
	} {
		v := &volume{limits: DiskLimits{Discard: row.can, DiscardZeroes: row.zeroes}, cfg: VolumeConfig{NoDiscardZeroes: row.noIf}}
		got := &Op{}
		v.discard(got)
		require.Equal(t, &row.want, got, row.name)
	}
}
