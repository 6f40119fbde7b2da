// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// resyncTime is how long a full resync of 16 MiB takes, in virtual time over a link of 100
// MiB/s, idle or while the application writes 2 MiB/s.
func resyncTime(t testing.TB, speed core.VolumeConfig, busy bool) time.Duration {
	opt := testOptions()
	opt.DiskBytes, opt.Trace, opt.Delay = 16<<20, false, time.Millisecond
	speed.DiskFlushes = true
	opt.Volume = speed
	s := skipped(t, opt)
	s.promote(s.a)
	s.net.bytes = 100 << 20 / 1000
	var w *pacedWriter
	if busy {
		w = &pacedWriter{s: s, n: s.a, every: 8 * time.Millisecond, size: 16 << 10, from: 0, end: 8 << 20}
		w.start()
	}
	began := s.now
	s.b.mustDo(t, "invalidate", func(cmd *core.Command) { s.b.core.Invalidate(cmd, 0) })
	s.Until("resync", 2*time.Hour, func() bool { return s.bothUpToDate() && s.st(s.b).Conn == protocol.Connected })
	must(t, s.Cluster)
	took := s.now - began
	if w != nil {
		w.stop()
		require.NoError(t, w.failed)
	}
	return took
}

// defaultSpeeds are ours, and DRBD's.
var defaultSpeeds = map[string]core.VolumeConfig{
	"ours": {ResyncRate: 102400, CPlanAhead: 20, CDelay: 10, CFill: 2048, CMaxRate: 102400, CMinRate: 10240},
	"DRBD": {ResyncRate: 250, CPlanAhead: 20, CDelay: 10, CFill: 100, CMaxRate: 102400, CMinRate: 250},
}

// BenchmarkDefaultSpeed reports how long a resync of 16 MiB takes in virtual time, over a
// line of 100 MiB/s, with our defaults and with DRBD's.
func BenchmarkDefaultSpeed(b *testing.B) {
	for _, load := range []string{"idle", "writing"} {
		for _, whose := range []string{"ours", "DRBD"} {
			b.Run(load+"/"+whose, func(b *testing.B) {
				var took time.Duration
				for range b.N {
					took += resyncTime(b, defaultSpeeds[whose], load == "writing")
				}
				b.ReportMetric(took.Seconds()/float64(b.N), "virtual-s/op")
			})
		}
	}
}

// TestDefaultSpeed is the benchmark behind our defaults of the resync's speed, which are not
// DRBD's (docs/divergence.md): all that time there is one good copy.
func TestDefaultSpeed(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("a figure, not a race")
	}
	for name, busy := range map[string]bool{"idle": false, "writing": true} {
		a, b := resyncTime(t, defaultSpeeds["ours"], busy), resyncTime(t, defaultSpeeds["DRBD"], busy)
		t.Logf("16 MiB, %s: %.1f s with our defaults, %.1f s with DRBD's", name, a.Seconds(), b.Seconds())
		require.Less(t, 2*a, b, name)
	}
}
