// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// TestStopsReading: while a disk stands still, a node takes in only so many requests of
// its peer. The rest waits there, and all of them complete when the disk goes on.
func TestStopsReading(t *testing.T) {
	const (
		size     = 16 << 20
		requests = 20000
	)
	synctest.Test(t, func(t *testing.T) {
		betas := blockdev.NewFaulty(blockdev.NewMemory(size))
		p := newPair(t, pairOptions{size: size, disks: func(name string) blockdev.Device {
			if name == "beta" {
				return betas
			}
			return blockdev.NewMemory(size)
		}, config: func(_ string, cfg *Config) {
			cfg.Volumes[0].DiskTimeout = time.Minute // or the reader itself may stand still in its first request
		}})
		p.start(t)
		betas.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpZero}, Hang: true})
		var wg sync.WaitGroup
		for i := range requests {
			wg.Go(func() {
				require.NoError(t, p.alpha.vol.WriteZeroes(context.Background(), int64(i)*512, 512))
			})
		}
		synctest.Wait()
		link := func() (full bool, waiting int) {
			p.beta.res.mu.Lock()
			defer p.beta.res.mu.Unlock()
			return p.beta.res.links[0].full, p.beta.res.core.Snapshot().Volumes[0].Unacked
		}
		full, waiting := link()
		require.True(t, full)
		require.Less(t, waiting, requests)
		betas.Heal()
		wg.Wait()
		synctest.Wait()
		full, waiting = link()
		require.False(t, full)
		require.Zero(t, waiting)
		p.requireSame(t)
	})
}
