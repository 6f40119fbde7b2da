// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// Every request on a small device whose last block is partial, against the definition
// sector by sector.
func TestTouchedAndCovered(t *testing.T) {
	for device := uint64(20); device <= 32; device++ {
		for sector := range device {
			for n := uint64(0); sector+n <= device; n++ {
				in := func(s uint64) bool { return s >= sector && s < sector+n }
				var touched, covered []uint64
				for b := range bitmap.BitsFor(device) {
					some, all := false, true
					for s := b * 8; s < min(b*8+8, device); s++ {
						some = some || in(s)
						all = all && in(s)
					}
					if some {
						touched = append(touched, b)
					}
					if all {
						covered = append(covered, b)
					}
				}
				require.Equal(t, touched, list(bitmap.Touched(sector, n)), "touched by %d+%d of %d", sector, n, device)
				require.Equal(t, covered, list(bitmap.Covered(sector, n, device)), "covered by %d+%d of %d", sector, n, device)
			}
		}
	}
}

func list(from, to uint64) (bits []uint64) {
	for b := from; b < to; b++ {
		bits = append(bits, b)
	}
	return bits
}
