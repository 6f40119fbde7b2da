// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package replica

import (
	"testing"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// In the steady state a write and a read allocate nothing, on neither node. (The
// race detector's sync.Pool forgets at random.)
func TestNoAllocations(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		t.Run(map[bool]string{false: "memory", true: "tcp"}[tcp], func(t *testing.T) {
			p := newPair(t, pairOptions{tcp: tcp})
			p.start(t)
			buf := blockdev.AlignedBuffer(4096)
			var off int64
			next := func() int64 {
				off = (off + 4096) % (4 << 20)
				return off
			}
			write := func() {
				_, err := p.alpha.vol.WriteAt(buf, next())
				require.NoError(t, err)
			}
			read := func() {
				_, err := p.alpha.vol.ReadAt(buf, next())
				require.NoError(t, err)
			}
			for range 3000 { // fill pools, rings and the memory disk
				write()
				read()
			}
			require.Zero(t, testing.AllocsPerRun(2000, write), "allocations per write")
			require.Zero(t, testing.AllocsPerRun(2000, read), "allocations per read")
		})
	}
}
