// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

func TestGeometryCheck(t *testing.T) {
	for g, ok := range map[activitylog.Geometry]bool{
		{}: true, {1, 8}: true, {1, 7}: false, {0, 8}: false, {1, 0}: false, {2, 4}: true,
		{1024, 4096}: true, {1024, 4097}: false, {math.MaxUint32, math.MaxUint32}: false, {65536, 65536}: false,
	} {
		if err := g.Check(); ok {
			require.NoError(t, err, "%v", g)
		} else {
			require.ErrorIs(t, err, activitylog.ErrGeometry, "%v", g)
		}
	}
}

// Spec: on-disk 5.2.
func TestPosition(t *testing.T) {
	two := activitylog.Geometry{Stripes: 2, StripeSize4k: 16}
	for tr, want := range map[uint32]uint32{0: 0, 1: 16, 2: 1, 3: 17, 31: 31, 32: 0, 33: 16, math.MaxUint32: 31} {
		require.Equal(t, want, two.Position(tr), "transaction %d", tr)
	}
	require.Equal(t, uint32(5), activitylog.Geometry{}.Position(13))
	require.Equal(t, int64(32*4096), two.Bytes())
}

// Every ring position has one block, and numbers go round the ring one by one, also
// where the counter wraps.
func TestPositionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := activitylog.Geometry{
			Stripes:      rapid.Uint32Range(1, 20).Draw(t, "stripes"),
			StripeSize4k: rapid.Uint32Range(8, 40).Draw(t, "size"),
		}
		require.NoError(t, g.Check())
		n := g.Blocks()
		tr := rapid.SampledFrom([]uint32{0, 1<<31 - 100, math.MaxUint32 - n/2, math.MaxUint32}).Draw(t, "tr")
		seen := map[uint32]bool{}
		for range n {
			p := g.Position(tr)
			require.Less(t, p, n)
			require.False(t, seen[p], "position %d came too early", p)
			seen[p] = true
			next := g.Next(tr)
			require.Positive(t, int32(next-tr), "a later number is a greater one")
			require.Less(t, next-tr, n+1)
			require.Equal(t, (tr%n+1)%n, next%n, "the ring goes on by one")
			tr = next
		}
	})
}

// Spec: on-disk 5.3.
func TestExtentLimits(t *testing.T) {
	for _, tc := range []struct {
		g   activitylog.Geometry
		max int
	}{
		{activitylog.Geometry{}, 6433},
		{activitylog.Geometry{Stripes: 2, StripeSize4k: 16}, 31 * 919},
		{activitylog.Geometry{Stripes: 1, StripeSize4k: 72}, 71 * 919},
		{activitylog.Geometry{Stripes: 1, StripeSize4k: 73}, 65534},
		{activitylog.Geometry{Stripes: 1024, StripeSize4k: 4096}, 65534},
	} {
		require.Equal(t, tc.max, tc.g.MaxExtents())
		require.Equal(t, tc.max, tc.g.Clamp(1<<30))
		require.Equal(t, 67, tc.g.Clamp(-1))
		require.Equal(t, 257, tc.g.Clamp(257))
	}
}

func TestExtentRange(t *testing.T) {
	require.Equal(t, extent(0), activitylog.ExtentOf(8191))
	require.Equal(t, extent(1), activitylog.ExtentOf(8192))
	first, last := activitylog.ExtentRange(8184, 8)
	require.Equal(t, [2]extent{0, 0}, [2]extent{first, last})
	first, last = activitylog.ExtentRange(8184, 16)
	require.Equal(t, [2]extent{0, 1}, [2]extent{first, last})
}
