// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// TestStatusTellsWhatIsSlow: a line that takes nothing, a disk that has all that it may
// have, and writes that are not let in show in Status and in /proc/drbd, and go again.
func TestStatusTellsWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, depth = 8 << 20, 4
		disk := blockdev.NewFaulty(blockdev.NewMemory(size))
		p := newPair(t, pairOptions{size: size,
			disks: func(name string) blockdev.Device {
				if name == "alpha" {
					return disk
				}
				return blockdev.NewMemory(size)
			},
			config: func(_ string, cfg *Config) { cfg.Peers[0].Protocol, cfg.Volumes[0].QueueDepth = protocol.A, depth }})
		p.start(t)
		_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0) // what follows does not wait for the activity log
		require.NoError(t, err)
		look := func(net, disk, blocked bool, flags string) {
			t.Helper()
			synctest.Wait()
			st := p.alpha.res.Status()
			v := st.Volumes[0]
			require.Equal(t, []bool{net, net, disk, blocked}, []bool{v.NetCongested, st.Peers[0].Congested, v.DiskCongested, v.Blocked})
			require.Contains(t, st.String(), " "+flags+"\n")
		}
		var wg sync.WaitGroup
		write := func(from, n, bytes int) {
			for i := from; i < from+n; i++ {
				wg.Go(func() {
					_, err := p.alpha.vol.WriteAt(make([]byte, bytes), int64(i*bytes))
					require.NoError(t, err)
				})
			}
		}
		look(false, false, false, "r-----")

		p.net.Path("alpha", "beta").Stall()
		write(0, 16, 64<<10)
		synctest.Wait() // some of it is being sent: the others wait behind that
		write(16, 16, 64<<10)
		look(true, false, false, "r---n-")
		p.net.Path("alpha", "beta").Resume()
		wg.Wait()
		look(false, false, false, "r-----")

		thaw := disk.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Hang: true})
		write(0, depth+2, 4096)
		look(false, true, false, "r---b-")
		thaw()
		wg.Wait()

		require.NoError(t, p.alpha.res.SuspendIO(t.Context()))
		look(false, false, true, "s-----")
		require.NoError(t, p.alpha.res.ResumeIO(t.Context()))
		look(false, false, false, "r-----")
		p.stop(t)
	})
}
