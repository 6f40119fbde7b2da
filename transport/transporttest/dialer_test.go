// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/transport"
)

// TestPairingAgrees: whenever and however slowly two nodes dial each other, if the
// check interval exceeds the round trip both end with the same two streams, and
// one resolver.
func TestPairingAgrees(t *testing.T) {
	for seed := range uint64(500) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 9))
			n := NewNetwork(seed)
			n.Path("alpha", "beta").SetDelay(time.Duration(rng.IntN(20)) * time.Millisecond)
			n.Path("beta", "alpha").SetDelay(time.Duration(rng.IntN(20)) * time.Millisecond)
			later := time.Duration(max(0, rng.IntN(60)-40)) * time.Millisecond
			var mu sync.Mutex
			cfg := transport.PairingConfig{
				SocketCheckTimeout: time.Duration(40+rng.IntN(100)) * time.Millisecond,
				Rand: func() uint64 {
					mu.Lock()
					defer mu.Unlock()
					return rng.Uint64()
				},
			}
			ta, tb := n.Dialer("alpha", "beta", cfg), n.Dialer("beta", "alpha", cfg)
			var a, b *transport.Pair
			var ea, eb error
			var wg sync.WaitGroup
			wg.Go(func() { a, ea = ta.Connect(context.Background()) })
			time.Sleep(later) // virtual time
			wg.Go(func() { b, eb = tb.Connect(context.Background()) })
			wg.Wait()
			require.NoError(t, ea)
			require.NoError(t, eb)
			require.Equal(t, a.Data.LocalAddr(), b.Data.RemoteAddr(), "seed %d", seed)
			require.Equal(t, a.Meta.LocalAddr(), b.Meta.RemoteAddr(), "seed %d", seed)
			require.NotEqual(t, a.Resolver, b.Resolver, "seed %d", seed)
			a.Close()
			b.Close()
		})
	}
}
