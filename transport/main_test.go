// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nodes counts the addresses given out.
var nodes atomic.Uint32

// freeAddr returns an address of this machine that nobody listens on. On Linux each
// has an IP address of its own, so that no other program takes the port meanwhile.
func freeAddr(t testing.TB) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		pid, n := os.Getpid(), nodes.Add(1)
		host = net.IPv4(127, byte(1+pid>>8%200), byte(pid), byte(1+n%250)).String()
	}
	ln, err := net.Listen("tcp", host+":0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// testContext ends after a time that no test reaches unless it hangs.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// result is what a Connect returned.
type result struct {
	pair *Pair
	err  error
}

// connectBoth connects two transports at the same time.
func connectBoth(ctx context.Context, a, b Transport) (ra, rb result) {
	var wg sync.WaitGroup
	wg.Go(func() { ra.pair, ra.err = a.Connect(ctx) })
	wg.Go(func() { rb.pair, rb.err = b.Connect(ctx) })
	wg.Wait()
	return ra, rb
}

// requireJoined checks that two pairs are the two ends of one connection.
func requireJoined(t testing.TB, a, b *Pair) {
	t.Helper()
	require.NotEqual(t, a.Resolver, b.Resolver, "exactly one end decides ties")
	requireStream(t, a.Data, b.Data)
	requireStream(t, b.Data, a.Data)
	requireStream(t, a.Meta, b.Meta)
	requireStream(t, b.Meta, a.Meta)
}

// requireStream sends a few bytes from one stream to the other.
func requireStream(t testing.TB, from, to net.Conn) {
	t.Helper()
	sent := []byte(from.LocalAddr().String())
	_, err := from.Write(sent)
	require.NoError(t, err)
	got := make([]byte, len(sent))
	require.NoError(t, to.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = io.ReadFull(to, got)
	require.NoError(t, err)
	require.Equal(t, string(sent), string(got))
	require.NoError(t, to.SetReadDeadline(time.Time{}))
}
