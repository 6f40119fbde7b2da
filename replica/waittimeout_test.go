// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Which timeout counts, by what the node knows (spec: behaviour 6.11).
func TestWaitTimeouts(t *testing.T) {
	s := time.Second
	for _, tc := range []struct {
		name               string
		w                  WaitTimeouts
		degraded, outdated bool
		want               time.Duration
	}{
		{"none", WaitTimeouts{}, true, true, 0},
		{"wfc", WaitTimeouts{WFC: 100 * s, Degraded: 60 * s, Outdated: 20 * s}, false, false, 100 * s},
		{"degr", WaitTimeouts{WFC: 100 * s, Degraded: 60 * s, Outdated: 20 * s}, true, false, 60 * s},
		{"outdated", WaitTimeouts{WFC: 100 * s, Degraded: 60 * s, Outdated: 20 * s}, true, true, 20 * s},
		{"degr is clipped to wfc", WaitTimeouts{WFC: 10 * s, Degraded: 60 * s}, true, false, 10 * s},
		{"outdated is clipped to degr", WaitTimeouts{WFC: 100 * s, Degraded: 5 * s, Outdated: 20 * s}, false, true, 5 * s},
		{"only degr", WaitTimeouts{Degraded: 60 * s}, false, false, 0},
		{"only degr, degraded", WaitTimeouts{Degraded: 60 * s}, true, false, 60 * s},
	} {
		snap := core.Snapshot{Volumes: []core.VolumeSnapshot{{}, {Degraded: tc.degraded}}}
		if tc.outdated {
			snap.Volumes[1].State.PeerDisk = protocol.Outdated
		}
		require.Equal(t, tc.want, tc.w.limit(&snap), tc.name)
	}
}

// A node that waits for a peer that does not come.
func TestStartupContext(t *testing.T) {
	for _, degraded := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, pairOptions{})
			if degraded { // as a crash leaves a Primary that was alone
				require.NoError(t, p.alpha.res.Close())
				sb, layout, err := metadata.Read(p.alpha.disk, metadata.Internal(), p.alpha.disk.Size())
				require.NoError(t, err)
				sb.Flags |= metadata.PrimaryInd
				var block [metadata.BlockSize]byte
				sb.Encode(&block)
				_, err = p.alpha.disk.WriteAt(block[:], layout.SuperblockOffset)
				require.NoError(t, err)
				p.alpha.open()
			}
			ctx, cancel := p.alpha.res.StartupContext(t.Context(), WaitTimeouts{WFC: 100 * time.Second, Degraded: 30 * time.Second})
			defer cancel()
			require.NoError(t, p.alpha.res.Connect(ctx))
			began := time.Now()
			err := p.alpha.res.WaitConnected(ctx)
			require.ErrorIs(t, err, ErrWaitTimeout)
			require.Equal(t, 5, ExitCode(err))
			want := 100 * time.Second
			if degraded {
				want = 30 * time.Second
			}
			require.Equal(t, want, time.Since(began))
			require.ErrorIs(t, p.alpha.res.WaitSync(ctx), ErrWaitTimeout)
			p.stop(t)
		})
	}
}
