// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-blockmirror/blockmirror/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pairUp connects alpha and beta.
func pairUp(t testing.TB, n *Network) (a, b *transport.Pair) {
	t.Helper()
	return connect(t, n.Transport("alpha", "beta"), n.Transport("beta", "alpha"))
}

func connect(t testing.TB, ta, tb transport.Transport) (a, b *transport.Pair) {
	t.Helper()
	var wg sync.WaitGroup
	var ea, eb error
	wg.Go(func() { a, ea = ta.Connect(context.Background()) })
	wg.Go(func() { b, eb = tb.Connect(context.Background()) })
	wg.Wait()
	require.NoError(t, ea)
	require.NoError(t, eb)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func readN(t testing.TB, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	return string(b)
}

func write(t testing.TB, c net.Conn, s string) {
	t.Helper()
	n, err := c.Write([]byte(s))
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

func TestPairByAppointment(t *testing.T) {
	var resolvers []bool
	for range 2 {
		n := NewNetwork(42)
		for range 10 {
			a, b := pairUp(t, n)
			require.NotEqual(t, a.Resolver, b.Resolver)
			resolvers = append(resolvers, a.Resolver)
			write(t, a.Data, "data")
			write(t, b.Meta, "meta")
			require.Equal(t, "data", readN(t, b.Data, 4))
			require.Equal(t, "meta", readN(t, a.Meta, 4))
		}
		require.EqualValues(t, 40, n.Path("alpha", "beta").Bytes())
	}
	require.Equal(t, resolvers[:10], resolvers[10:], "the same seed gives the same coins")
	require.Contains(t, resolvers, true)
	require.Contains(t, resolvers, false)

	n := NewNetwork(1)
	n.SetResolver("beta")
	for range 5 {
		a, b := pairUp(t, n)
		require.False(t, a.Resolver)
		require.True(t, b.Resolver)
	}
}

func TestConnectEnds(t *testing.T) {
	n := NewNetwork(1)
	ta := n.Transport("alpha", "beta")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := ta.Connect(ctx)
	require.ErrorIs(t, err, context.Canceled)

	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		ta := n.Transport("alpha", "beta")
		errs := make(chan error, 1)
		go func() {
			_, err := ta.Connect(context.Background())
			errs <- err
		}()
		synctest.Wait()
		_, err := ta.Connect(context.Background())
		require.ErrorIs(t, err, transport.ErrConnecting)
		_, err = n.Transport("alpha", "beta").Connect(context.Background())
		require.ErrorIs(t, err, transport.ErrConnecting)
		require.NoError(t, ta.Close())
		require.ErrorIs(t, <-errs, transport.ErrClosed)
		_, err = ta.Connect(context.Background())
		require.ErrorIs(t, err, transport.ErrClosed)

		go func() {
			_, err := n.Transport("beta", "alpha").Connect(context.Background())
			errs <- err
		}()
		synctest.Wait()
		n.Close()
		require.ErrorIs(t, <-errs, transport.ErrClosed)
		_, err = n.Transport("x", "y").Connect(context.Background())
		require.ErrorIs(t, err, transport.ErrClosed)
	})
}

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b := pairUp(t, n)
		write(t, a.Data, "last")
		n.Cut("beta", "alpha")
		for _, c := range []net.Conn{a.Data, a.Meta, b.Data, b.Meta} {
			_, err := c.Write([]byte("x"))
			require.ErrorIs(t, err, ErrReset)
		}
		require.Equal(t, "last", readN(t, b.Data, 4), "what had arrived can be read")
		_, err := b.Data.Read(make([]byte, 1))
		require.ErrorIs(t, err, ErrReset)

		// No pair while the link is down.
		got := make(chan *transport.Pair, 2)
		for _, ends := range [][2]string{{"alpha", "beta"}, {"beta", "alpha"}} {
			go func() {
				p, err := n.Transport(ends[0], ends[1]).Connect(context.Background())
				require.NoError(t, err)
				got <- p
			}()
		}
		synctest.Wait()
		require.Empty(t, got)
		n.Heal("alpha", "beta")
		p, q := <-got, <-got
		write(t, p.Data, "again")
		require.Equal(t, "again", readN(t, q.Data, 5))
		p.Close()
		q.Close()
	})
}

func TestCutAfter(t *testing.T) {
	n := NewNetwork(1)
	a, b := pairUp(t, n)
	write(t, a.Data, "12345")
	n.Path("alpha", "beta").CutAfter(4)
	write(t, a.Meta, "6")
	k, err := a.Data.Write([]byte("789abc"))
	require.Equal(t, 3, k)
	require.ErrorIs(t, err, ErrReset)
	require.Equal(t, "12345789", readN(t, b.Data, 8))
	_, err = b.Data.Read(make([]byte, 1))
	require.ErrorIs(t, err, ErrReset)
	require.Equal(t, "6", readN(t, b.Meta, 1))
	_, err = b.Meta.Write([]byte("x"))
	require.ErrorIs(t, err, ErrReset, "the whole link was cut")

	n.Heal("alpha", "beta")
	a, b = pairUp(t, n)
	a.Data.(*Conn).ResetAfter(2)
	k, err = a.Data.Write([]byte("xyz"))
	require.Equal(t, 2, k)
	require.ErrorIs(t, err, ErrReset)
	require.Equal(t, "xy", readN(t, b.Data, 2))
	write(t, a.Meta, "alive")
	require.Equal(t, "alive", readN(t, b.Meta, 5), "only one connection was reset")
	n.Reset("alpha", "beta")
	_, err = b.Meta.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	pairUp(t, n) // the link is up
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		n.SetBuffer(1000)
		a, b := pairUp(t, n)
		n.Path("alpha", "beta").Stall()

		// The buffer takes what it can, then the writer waits, until its deadline.
		require.NoError(t, a.Data.SetWriteDeadline(time.Now().Add(time.Second)))
		k, err := a.Data.Write(bytes.Repeat([]byte("x"), 3000))
		require.Equal(t, 1000, k)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var ne net.Error
		require.ErrorAs(t, err, &ne)
		require.True(t, ne.Timeout())

		// Nothing arrives, while the other direction works.
		require.NoError(t, b.Data.SetReadDeadline(time.Now().Add(time.Hour)))
		_, err = b.Data.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		write(t, b.Data, "back")
		require.Equal(t, "back", readN(t, a.Data, 4))

		// Half-open: a's close is not noticed by b.
		require.NoError(t, a.Data.Close())
		write(t, b.Data, "still")
		require.NoError(t, b.Data.SetReadDeadline(time.Time{}))
		n.Path("alpha", "beta").Resume()
		require.Len(t, readN(t, b.Data, 1000), 1000)
		_, err = b.Data.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		_, err = b.Data.Write([]byte("gone"))
		require.ErrorIs(t, err, ErrReset)
	})
}

func TestStalledWriterEndsWithLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		n.SetBuffer(10)
		a, _ := pairUp(t, n)
		n.Path("alpha", "beta").Stall()
		errs := make(chan error)
		go func() {
			_, err := a.Data.Write(make([]byte, 11))
			errs <- err
		}()
		synctest.Wait()
		n.Cut("alpha", "beta")
		require.ErrorIs(t, <-errs, ErrReset)
	})
}

func TestHalfClose(t *testing.T) {
	n := NewNetwork(1)
	a, b := pairUp(t, n)
	write(t, a.Data, "bye")
	require.NoError(t, a.Data.(*Conn).CloseWrite())
	_, err := a.Data.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, "bye", readN(t, b.Data, 3))
	_, err = b.Data.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	write(t, b.Data, "answer")
	require.Equal(t, "answer", readN(t, a.Data, 6))
	require.NoError(t, a.Data.Close())
	require.ErrorIs(t, a.Data.Close(), net.ErrClosed)
	_, err = a.Data.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestDelayAndBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b := pairUp(t, n)
		n.Path("alpha", "beta").SetDelay(30 * time.Millisecond)
		start := time.Now()
		write(t, a.Data, "one")
		write(t, a.Meta, "two")
		require.Zero(t, time.Since(start))
		require.Equal(t, "one", readN(t, b.Data, 3))
		require.Equal(t, "two", readN(t, b.Meta, 3))
		require.Equal(t, 30*time.Millisecond, time.Since(start))

		n.Path("alpha", "beta").SetBandwidth(1000)
		start = time.Now()
		write(t, a.Data, string(make([]byte, 500)))
		write(t, a.Data, string(make([]byte, 500)))
		readN(t, b.Data, 1000)
		require.Equal(t, time.Second+30*time.Millisecond, time.Since(start))

		// The end of a stream is as slow as its bytes, and stays behind them.
		start = time.Now()
		write(t, a.Meta, string(make([]byte, 100)))
		a.Meta.Close()
		readN(t, b.Meta, 100)
		_, err := b.Meta.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.Equal(t, 130*time.Millisecond, time.Since(start))
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b := pairUp(t, n)
		start := time.Now()
		require.NoError(t, a.Data.SetDeadline(start.Add(time.Minute)))
		_, err := a.Data.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		_, err = a.Data.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		// Reset in the future and in the past, under a waiting Read.
		require.NoError(t, a.Data.SetDeadline(time.Time{}))
		errs := make(chan error)
		go func() {
			_, err := a.Data.Read(make([]byte, 1))
			errs <- err
		}()
		synctest.Wait()
		require.NoError(t, a.Data.SetReadDeadline(time.Now().Add(-time.Second)))
		require.ErrorIs(t, <-errs, os.ErrDeadlineExceeded)
		require.NoError(t, a.Data.SetReadDeadline(time.Time{}))
		write(t, b.Data, "y")
		require.Equal(t, "y", readN(t, a.Data, 1))
	})
}

// TestStreamIntegrity sends random sizes through a small ring, with and without a
// delay, and compares.
func TestStreamIntegrity(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			n := NewNetwork(7)
			n.SetBuffer(5000)
			n.Path("alpha", "beta").SetDelay(delay)
			a, b := pairUp(t, n)
			sent := make([]byte, 300_000)
			for i := range sent {
				sent[i] = byte(n.rng.Uint32())
			}
			go func() {
				for p := sent; len(p) > 0; {
					k := min(len(p), 1+n.rng.IntN(9000))
					_, err := a.Data.Write(p[:k])
					require.NoError(t, err)
					p = p[k:]
				}
				a.Data.Close()
			}()
			got, err := io.ReadAll(b.Data)
			require.NoError(t, err)
			require.True(t, bytes.Equal(sent, got))
		})
	}
}

// TestDialer forms pairs by the real rules, with crossings, delays and cut links.
func TestDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(3)
		cfg := transport.PairingConfig{SocketCheckTimeout: 50 * time.Millisecond}
		n.Path("alpha", "beta").SetDelay(5 * time.Millisecond)
		n.Path("beta", "alpha").SetDelay(7 * time.Millisecond)
		ta, tb := n.Dialer("alpha", "beta", cfg), n.Dialer("beta", "alpha", cfg)
		for range 50 {
			a, b := connect(t, ta, tb)
			require.NotEqual(t, a.Resolver, b.Resolver)
			require.Equal(t, a.Data.LocalAddr(), b.Data.RemoteAddr())
			require.Equal(t, a.Meta.LocalAddr(), b.Meta.RemoteAddr())
			require.IsType(t, &Conn{}, a.Data)
			write(t, a.Meta, "hello")
			require.Equal(t, "hello", readN(t, b.Meta, 5))
			a.Close()
			b.Close()
			n.Cut("alpha", "beta")
			time.AfterFunc(3*time.Second, func() { n.Heal("alpha", "beta") })
		}
		_, err := n.listen("alpha", "beta")
		require.NoError(t, err)
		_, err = ta.Connect(context.Background())
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	})
}

func TestDialerEndsWithNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(3)
		errs := make(chan error)
		go func() {
			_, err := n.Dialer("alpha", "beta", transport.PairingConfig{}).Connect(context.Background())
			errs <- err
		}()
		synctest.Wait()
		n.Close()
		err := <-errs
		require.ErrorIs(t, err, transport.ErrClosed)
		require.True(t, errors.Is(err, net.ErrClosed))
	})
}
