// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// TestRefusedDiscard: a disk that refuses a discard gets zeroes, and is not given up for it.
func TestRefusedDiscard(t *testing.T) {
	for i := range 2 {
		s := skipped(t, testOptions())
		s.promote(s.a)
		s.write(s.a, 4096, 7, 4096)
		n := s.Nodes[i]
		n.disks[0].NoDiscard = true
		require.NoError(t, s.io(s.a, &core.IO{Kind: core.IODiscard, Off: 4096, Len: 4096}))
		require.Equal(t, protocol.UpToDate, s.st(n).Disk)
		require.Zero(t, s.oos(s.a))
		require.Equal(t, make([]byte, 4096), n.disks[0].Bytes()[4096:8192])
		s.equal()
	}
}
