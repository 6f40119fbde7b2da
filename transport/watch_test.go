// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWaitMeta: the end of a meta stream that nobody reads yet is noticed, and no byte of
// it is lost.
func TestWaitMeta(t *testing.T) {
	a, b := newTCPPair(t, 100*time.Millisecond)
	plain, plainPeer := net.Pipe()
	ra, rb := connectBoth(testContext(t), a, b)
	require.NoError(t, ra.err)
	require.NoError(t, rb.err)
	defer ra.pair.Close()
	defer rb.pair.Close()
	for name, c := range map[string]struct {
		pair *Pair
		peer net.Conn
	}{
		"TCP":     {ra.pair, rb.pair.Meta},
		"wrapped": {&Pair{Meta: &peeked{Conn: plain}}, plainPeer},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(testContext(t))
			cancel()
			require.NoError(t, c.pair.WaitMeta(ctx), "nothing has come")

			wrote := make(chan error, 1)
			go func() {
				_, err := c.peer.Write([]byte("ab"))
				wrote <- err
			}()
			require.NoError(t, c.pair.WaitMeta(testContext(t)))
			var got [2]byte
			_, err := io.ReadFull(c.pair.Meta, got[:])
			require.NoError(t, err)
			require.Equal(t, "ab", string(got[:]))
			require.NoError(t, <-wrote)

			ended := make(chan error, 1)
			go func() { ended <- c.pair.WaitMeta(testContext(t)) }()
			require.NoError(t, c.peer.Close())
			require.ErrorIs(t, <-ended, io.EOF)
		})
	}

	// One that cannot wait says nothing.
	x, y := net.Pipe()
	defer x.Close()
	require.NoError(t, y.Close())
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	require.NoError(t, (&Pair{Meta: x}).WaitMeta(ctx))
}
