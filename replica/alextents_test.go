// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// scatter writes 4 KiB to each of the first extents of the volume, and returns how many
// transactions of the activity log that took.
func scatter(t testing.TB, n *node, extents int, round int64) uint64 {
	before := n.res.Status().Volumes[0].ALWrites
	buf := blockdev.AlignedBuffer(4096)
	for i := range int64(extents) {
		if _, err := n.vol.WriteAt(buf, i<<22+round*4096); err != nil {
			t.Fatal(err)
		}
	}
	return n.res.Status().Volumes[0].ALWrites - before
}

// TestALExtentsDefault: without al-extents the log covers the volume, as far as its ring has
// room, and a second pass over all of it does not write the log any more.
func TestALExtentsDefault(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct {
		size     int64
		set      int
		extents  int
		rewrites bool // a second pass over the first 2000 extents writes the log
	}{
		{1 * gib, 0, 1237, false},
		{5 * gib, 0, 1280, false},
		{20 * gib, 0, 5120, false},
		{20 * gib, 1237, 1237, true}, // DRBD's default
		{100 * gib, 0, 6433, false},
		{100 * gib, 65534, 6433, false},
	} {
		t.Run(fmt.Sprintf("%dGiB/%d", tc.size/gib, tc.set), func(t *testing.T) {
			p := newPair(t, pairOptions{size: tc.size, config: func(_ string, cfg *Config) { cfg.Volumes[0].ALExtents = tc.set }})
			p.start(t)
			extents := min(2000, int(tc.size>>22)-1)
			require.NotZero(t, scatter(t, p.alpha, extents, 0))
			require.Equal(t, tc.rewrites, scatter(t, p.alpha, extents, 1) > 0)
			if tc.set == 0 { // the default comes back, too
				ctx := testContext(t)
				for _, set := range []int{67, 0} {
					require.NoError(t, p.alpha.vol.Change(ctx, func(v *VolumeConfig) { v.ALExtents = set }))
				}
				scatter(t, p.alpha, extents, 2)
				require.Zero(t, scatter(t, p.alpha, extents, 3))
			}
			p.stop(t)
			sb, _, err := metadata.Read(p.alpha.disk, metadata.Internal(), tc.size)
			require.NoError(t, err)
			require.Equal(t, uint32(tc.extents), sb.ALExtents)
		})
	}
}

// BenchmarkScatteredWrites shows what the default of al-extents is for: writes of 4 KiB all
// over a volume of 20 GiB, on files, with DRBD's default and with ours. The metric al/op is
// how many transactions of the activity log a write takes, and crash-GiB what is copied
// when the Primary crashes then.
func BenchmarkScatteredWrites(b *testing.B) {
	for _, depth := range []int{1, 32} {
		for _, extents := range []int{1237, 0} {
			name := fmt.Sprintf("QD%d/al-extents=%d", depth, extents)
			if extents == 0 {
				name = fmt.Sprintf("QD%d/al-extents=default", depth)
			}
			b.Run(name, func(b *testing.B) { benchmarkScattered(b, depth, extents) })
		}
	}
}

func benchmarkScattered(b *testing.B, depth, extents int) {
	const size = 20 << 30
	dir := b.TempDir()
	o := pairOptions{size: size, config: func(_ string, cfg *Config) { cfg.Volumes[0].ALExtents = extents }}
	o.disks = func(name string) blockdev.Device {
		f, err := blockdev.Create(filepath.Join(dir, name), size, blockdev.Options{})
		if err != nil {
			b.Skip(err)
		}
		return f
	}
	p := newPair(b, o)
	p.start(b)
	const all = size>>22 - 1
	scatter(b, p.alpha, all, 0) // both logs are as full as they get
	before := p.alpha.res.Status().Volumes[0].ALWrites
	ctx := context.Background()
	var wg sync.WaitGroup
	b.SetBytes(4096)
	b.ResetTimer()
	for lane := range depth {
		wg.Go(func() {
			buf := blockdev.AlignedBuffer(4096)
			for i := lane; i < b.N; i += depth {
				off := int64(i)*2741%all<<22 + int64(i)%1000*4096 // 2741 is prime: every extent has its turn
				if _, err := p.alpha.vol.WriteAtContext(ctx, buf, off); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(p.alpha.res.Status().Volumes[0].ALWrites-before)/float64(b.N), "al/op")
	if extents == 0 {
		extents = all + 1
	}
	b.ReportMetric(float64(extents)*4/1024, "crash-GiB")
}
