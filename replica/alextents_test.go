// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

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
// over a volume of 20 GiB, on files, with our default. Beside it, in the same run, the same
// with DRBD's default: x-1237 is its time by ours, al-1237 how many transactions of the
// activity log it takes for a write (ours takes none), and crash-GiB what is copied at most
// when the Primary crashes, with DRBD's default and ours.
func BenchmarkScatteredWrites(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("QD%d", depth), func(b *testing.B) { benchmarkScattered(b, depth) })
	}
}

const (
	scatteredSize = 20 << 30
	scatteredAll  = scatteredSize>>22 - 1 // extents that are written to
)

func scatteredPair(b *testing.B, extents int) *pair {
	dir := b.TempDir()
	p := newPair(b, pairOptions{size: scatteredSize, config: func(_ string, cfg *Config) { cfg.Volumes[0].ALExtents = extents },
		disks: func(name string) blockdev.Device {
			f, err := blockdev.Create(filepath.Join(dir, name), scatteredSize, blockdev.Options{})
			if err != nil {
				b.Skip(err)
			}
			return f
		}})
	p.start(b)
	scatterAt(b, p, 0, scatteredAll, 64) // the log is as full as it gets
	return p
}

// scatterAt makes n writes of 4 KiB, so many at one time, and returns how long they took.
func scatterAt(b *testing.B, p *pair, from, n, depth int) time.Duration {
	start := time.Now()
	var wg sync.WaitGroup
	for lane := range depth {
		wg.Go(func() {
			buf := blockdev.AlignedBuffer(4096)
			for i := from + lane; i < from+n; i += depth {
				off := int64(i)*2741%scatteredAll<<22 + int64(i)/scatteredAll%1000*4096 // 2741 is prime: every extent has its turn
				if _, err := p.alpha.vol.WriteAt(buf, off); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func benchmarkScattered(b *testing.B, depth int) {
	few, all := scatteredPair(b, 1237), scatteredPair(b, 0)
	alWrites := func(p *pair) uint64 { return p.alpha.res.Status().Volumes[0].ALWrites }
	before, beforeAll := alWrites(few), alWrites(all)
	var other time.Duration
	b.SetBytes(4096)
	b.ResetTimer()
	for done := 0; done < b.N; {
		n := min(8*depth, b.N-done)
		b.StopTimer()
		other += scatterAt(b, few, scatteredAll+done, n, depth)
		b.StartTimer()
		scatterAt(b, all, scatteredAll+done, n, depth)
		done += n
	}
	b.StopTimer()
	if alWrites(all) != beforeAll {
		b.Error("the default does not cover the volume")
	}
	b.ReportMetric(float64(other)/float64(b.Elapsed()), "x-1237")
	b.ReportMetric(float64(alWrites(few)-before)/float64(b.N), "al-1237")
	b.ReportMetric(1237*4/1024., "crash-GiB-1237")
	b.ReportMetric(scatteredSize>>30, "crash-GiB")
}
