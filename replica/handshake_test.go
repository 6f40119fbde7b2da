// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// TestMetaEndsEarly: where dials crossed the peer may have dropped the connection that is
// the meta stream here, and keep the data stream while it dials the other anew. It is not
// waited for as long as for one that is only slow.
func TestMetaEndsEarly(t *testing.T) {
	const timeout = 30 * time.Second
	synctest.Test(t, func(t *testing.T) {
		network := transporttest.NewNetwork(1)
		defer network.Close()
		alpha := newNode(t, "alpha", "beta", network.Transport("alpha", "beta"), pairOptions{
			size: testDiskBytes, disks: func(string) blockdev.Device { return blockdev.NewMemory(testDiskBytes) },
			config: func(_ string, cfg *Config) { cfg.Peers[0].PingTimeout = timeout },
		})
		ctx := context.Background()
		require.NoError(t, alpha.res.Connect(ctx))
		peer := network.Transport("beta", "alpha")
		defer peer.Close()
		first, err := peer.Connect(ctx)
		require.NoError(t, err)
		defer first.Close()
		began := time.Now()
		require.NoError(t, first.Meta.Close())
		second, err := peer.Connect(ctx)
		require.NoError(t, err)
		defer second.Close()
		require.Less(t, time.Since(began), 2*timeout)
		require.NoError(t, alpha.res.Close())
	})
}
