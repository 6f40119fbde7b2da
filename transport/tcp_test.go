// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newTCPPair returns the transports of two nodes with a short check interval.
func newTCPPair(t testing.TB, check time.Duration) (a, b *TCP) {
	t.Helper()
	la, lb := freeAddr(t), freeAddr(t)
	mk := func(local, remote string) *TCP {
		tr, err := NewTCP(TCPConfig{Local: local, Remote: remote, SocketCheckTimeout: check})
		require.NoError(t, err)
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	return mk(la, lb), mk(lb, la)
}

func TestTCPConnect(t *testing.T) {
	a, b := newTCPPair(t, 100*time.Millisecond)
	ra, rb := connectBoth(testContext(t), a, b)
	require.NoError(t, ra.err)
	require.NoError(t, rb.err)
	defer ra.pair.Close()
	defer rb.pair.Close()
	requireJoined(t, ra.pair, rb.pair)
	require.IsType(t, &net.TCPConn{}, ra.pair.Data, "net.Buffers must become one writev")
	require.NotEmpty(t, ra.pair.Local)
	require.NotEmpty(t, ra.pair.Remote)

	// While connected, nobody listens.
	_, err := net.Dial("tcp", a.streams.(*tcpStreams).local)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)

	// What was closed can be formed again, on the same ports.
	require.NoError(t, ra.pair.Close())
	require.NoError(t, ra.pair.Close(), "closing twice is fine")
	require.NoError(t, rb.pair.Close())
	ra2, rb2 := connectBoth(testContext(t), a, b)
	require.NoError(t, ra2.err)
	require.NoError(t, rb2.err)
	requireJoined(t, ra2.pair, rb2.pair)
	ra2.pair.Close()
	rb2.pair.Close()
}

// TestTCPCrossingStorm lets both sides dial at the same moment, again and again.
func TestTCPCrossingStorm(t *testing.T) {
	a, b := newTCPPair(t, 5*time.Millisecond)
	ctx := testContext(t)
	broken := 0
	for good := 0; good < 100; {
		ra, rb := connectBoth(ctx, a, b)
		require.NoError(t, ra.err)
		require.NoError(t, rb.err)
		if joined(ra.pair, rb.pair) {
			requireJoined(t, ra.pair, rb.pair)
			good++
		} else {
			broken++ // on a busy machine so short a check interval may be over too early
		}
		ra.pair.Close()
		rb.pair.Close()
	}
	t.Logf("100 pairs matched, %d did not", broken)
}

// joined tells by their addresses whether two pairs are ends of one connection.
func joined(a, b *Pair) bool {
	same := func(x, y net.Conn) bool {
		return x.LocalAddr().String() == y.RemoteAddr().String() && x.RemoteAddr().String() == y.LocalAddr().String()
	}
	return same(a.Data, b.Data) && same(a.Meta, b.Meta)
}

func TestTCPConnectEnds(t *testing.T) {
	a, _ := newTCPPair(t, 10*time.Millisecond)

	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		logs := newErrorLog()
		a.cfg.Logger = slog.New(logs)
		done := make(chan error)
		go func() {
			_, err := a.Connect(ctx)
			done <- err
		}()
		_ = logs.wait(syscall.ECONNREFUSED)
		_, err := a.Connect(ctx)
		require.ErrorIs(t, err, ErrConnecting)
		cancel()
		err = <-done
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "the last failure is told: %v", err)
	})
	t.Run("ended before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := a.Connect(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("close", func(t *testing.T) {
		done := make(chan error)
		go func() {
			_, err := a.Connect(context.Background())
			done <- err
		}()
		waitListening(t, a)
		require.NoError(t, a.Close())
		require.ErrorIs(t, <-done, ErrClosed)
		_, err := a.Connect(context.Background())
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// waitListening returns when a's port accepts connections.
func waitListening(t testing.TB, a *TCP) {
	t.Helper()
	var d net.Dialer
	ctx := testContext(t)
	for {
		c, err := d.DialContext(ctx, "tcp", a.streams.(*tcpStreams).local)
		if err == nil {
			c.Close()
			return
		}
		require.NoError(t, ctx.Err())
	}
}

func TestTCPListenFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	a, err := NewTCP(TCPConfig{Local: ln.Addr().String(), Remote: freeAddr(t)})
	require.NoError(t, err)
	_, err = a.Connect(testContext(t))
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestTCPBadAddress(t *testing.T) {
	_, err := NewTCP(TCPConfig{Local: "nowhere", Remote: "127.0.0.1:7789"})
	require.ErrorContains(t, err, "local address")
	_, err = NewTCP(TCPConfig{Local: "127.0.0.1:7789", Remote: "nowhere"})
	require.ErrorContains(t, err, "remote address")
}

// TestKernelPeer pairs with models of the kernel in all its verified variants.
func TestKernelPeer(t *testing.T) {
	tests := []struct {
		name     string
		noDial   bool
		noListen bool
	}{
		{name: "dials and listens"},
		{name: "only listens", noDial: true},
		{name: "only dials", noListen: true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(20) {
				la, lb := freeAddr(t), freeAddr(t)
				rng := rand.New(rand.NewPCG(seed, 1))
				k := &kernelModel{
					local: lb, remote: la, noDial: tc.noDial, noListen: tc.noListen, rand: rng,
					connectInt: 50 * time.Millisecond, pingTimeout: 10 * time.Millisecond,
				}
				us, err := NewTCP(TCPConfig{
					Local: la, Remote: lb, PingTimeout: 10 * time.Millisecond, ConnectInterval: 50 * time.Millisecond,
				})
				require.NoError(t, err)
				tryKernel(t, us, k)
			}
		})
	}
}

// tryKernel connects until both sides hold the same pair: as with two kernels, one
// side may take a pair that the other has just given up, and then tries again.
func tryKernel(t *testing.T, us *TCP, k *kernelModel) {
	ctx := testContext(t)
	for range 5 {
		var pair *Pair
		var err error
		done := make(chan result)
		go func() {
			p, err := k.connect(ctx)
			done <- result{p, err}
		}()
		pair, err = us.Connect(ctx)
		kr := <-done
		require.NoError(t, err)
		require.NoError(t, kr.err)
		ok := joined(pair, kr.pair)
		if ok {
			requireJoined(t, pair, kr.pair)
		}
		pair.Close()
		kr.pair.Close()
		k.data, k.meta = nil, nil
		if ok {
			return
		}
	}
	t.Fatal("no pair in five tries")
}

// sendFirst dials addr until somebody listens and sends the first packet.
func sendFirst(t *testing.T, addr string, r role) net.Conn {
	t.Helper()
	var d net.Dialer
	ctx := testContext(t)
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			_, err = c.Write(appendInitial(nil, r))
			require.NoError(t, err)
			return c
		}
		require.NoError(t, ctx.Err())
	}
}

// takeFirst accepts connections until one begins as a stream of role want.
func takeFirst(t *testing.T, ln net.Listener, want role) net.Conn {
	t.Helper()
	for {
		c, err := ln.Accept()
		require.NoError(t, err)
		got, err := readInitial(c, 10*time.Second)
		if err == nil && got == want {
			return c
		}
		c.Close()
	}
}

// TestScriptedPeers plays the rows of the table in spec: wire 1.3 packet by packet.
func TestScriptedPeers(t *testing.T) {
	type ends struct{ data, meta net.Conn }
	tests := []struct {
		name     string
		listen   bool // the peer can be dialled
		resolver bool // we are, then
		play     func(t *testing.T, addr string, ln net.Listener) ends
	}{
		{"peer dials both, data first", false, true, func(t *testing.T, addr string, _ net.Listener) ends {
			d := sendFirst(t, addr, roleData)
			return ends{d, sendFirst(t, addr, roleMeta)}
		}},
		{"peer dials both, meta first", false, true, func(t *testing.T, addr string, _ net.Listener) ends {
			m := sendFirst(t, addr, roleMeta)
			return ends{sendFirst(t, addr, roleData), m}
		}},
		{"we dial both", true, false, func(t *testing.T, _ string, ln net.Listener) ends {
			d := takeFirst(t, ln, roleData)
			return ends{d, takeFirst(t, ln, roleMeta)}
		}},
		{"we dial data, peer dials meta", true, true, func(t *testing.T, addr string, ln net.Listener) ends {
			d := takeFirst(t, ln, roleData)
			return ends{d, sendFirst(t, addr, roleMeta)}
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			la, lb := freeAddr(t), freeAddr(t)
			var ln net.Listener
			if tc.listen {
				var err error
				ln, err = net.Listen("tcp", lb)
				require.NoError(t, err)
				defer ln.Close()
			}
			us, err := NewTCP(TCPConfig{Local: la, Remote: lb, SocketCheckTimeout: 50 * time.Millisecond})
			require.NoError(t, err)
			got := make(chan result, 1)
			go func() {
				p, err := us.Connect(testContext(t))
				got <- result{p, err}
			}()
			e := tc.play(t, la, ln)
			defer e.data.Close()
			defer e.meta.Close()
			r := <-got
			require.NoError(t, r.err)
			defer r.pair.Close()
			requireJoined(t, r.pair, &Pair{Data: e.data, Meta: e.meta, Resolver: !tc.resolver})
			require.Equal(t, tc.resolver, r.pair.Resolver)
		})
	}
}

// TestHostileFirstPackets: each closes its own connection and no other.
func TestHostileFirstPackets(t *testing.T) {
	a, b := newTCPPair(t, 100*time.Millisecond)
	addr := a.streams.(*tcpStreams).local
	got := make(chan result, 1)
	go func() {
		p, err := a.Connect(testContext(t))
		got <- result{p, err}
	}()
	waitListening(t, a)
	for _, first := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x83\x74\x02\x67\xff\xf2\x00\x01", // a body
		"\x83\x74\x02\x67\x00\x00\x00\x00", // P_DATA
		"\x86\x20\xec\x20\x00\x00\xff\xf2", // h100
	} {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		_, err = c.Write([]byte(first))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.Error(t, err, "%q", first)
		require.False(t, errors.Is(err, context.DeadlineExceeded))
		c.Close()
	}
	// Silent ones, more than may be pending: they displace each other only.
	var silent []net.Conn
	for range 40 {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		silent = append(silent, c)
	}
	_, err := silent[0].Read(make([]byte, 1))
	require.Error(t, err, "the oldest was dropped")
	p, err := b.Connect(testContext(t))
	require.NoError(t, err)
	defer p.Close()
	r := <-got
	require.NoError(t, r.err)
	defer r.pair.Close()
	requireJoined(t, r.pair, p)
	for _, c := range silent {
		c.Close()
	}
}

func TestFirstPacketTimeout(t *testing.T) {
	a, err := NewTCP(TCPConfig{Local: freeAddr(t), Remote: freeAddr(t), PingTimeout: 5 * time.Millisecond})
	require.NoError(t, err)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(testContext(t))
	wg.Go(func() {
		_, err := a.Connect(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
	waitListening(t, a)
	c, err := net.Dial("tcp", a.streams.(*tcpStreams).local)
	require.NoError(t, err)
	_, err = c.Write([]byte("\x83\x74\x02\x67")) // and nothing more
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "closed when 4 x ping-timeout are over")
	c.Close()
	cancel()
	wg.Wait()
}

func TestAllowRemote(t *testing.T) {
	la := freeAddr(t)
	var asked []netip.Addr
	a, err := NewTCP(TCPConfig{Local: la, Remote: freeAddr(t), AllowRemote: func(ip netip.Addr) bool {
		asked = append(asked, ip)
		return false
	}})
	require.NoError(t, err)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(testContext(t))
	wg.Go(func() { _, _ = a.Connect(ctx) })
	waitListening(t, a)
	c, err := net.Dial("tcp", la)
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	c.Close()
	cancel()
	wg.Wait()
	require.NotEmpty(t, asked)
	require.Equal(t, netip.MustParseAddr("127.0.0.1"), asked[0])
}

// TestEarlyBytesStay: what a fast peer sends before our check interval is over is
// there for the first Read.
func TestEarlyBytesStay(t *testing.T) {
	la, lb := freeAddr(t), freeAddr(t)
	a, err := NewTCP(TCPConfig{Local: la, Remote: lb, SocketCheckTimeout: 100 * time.Millisecond})
	require.NoError(t, err)
	b, err := NewTCP(TCPConfig{Local: lb, Remote: la, SocketCheckTimeout: time.Millisecond})
	require.NoError(t, err)
	got := make(chan result, 1)
	go func() {
		p, err := a.Connect(testContext(t))
		got <- result{p, err}
	}()
	waitListening(t, a)
	pb, err := b.Connect(testContext(t))
	require.NoError(t, err)
	defer pb.Close()
	_, err = pb.Data.Write([]byte("features"))
	require.NoError(t, err)
	r := <-got
	require.NoError(t, r.err)
	defer r.pair.Close()
	buf := make([]byte, 8)
	_, err = io.ReadFull(r.pair.Data, buf)
	require.NoError(t, err)
	require.Equal(t, "features", string(buf))
}

func FuzzDecodeInitial(f *testing.F) {
	f.Add(appendInitial(nil, roleData))
	f.Add(appendInitial(nil, roleMeta))
	f.Add([]byte("\x83\x5a\xff\xf1\x00\x00\x00\x00"))
	f.Add([]byte("\x83\x74\x02\x67\xff\xf2\x00\x01"))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeInitial(b)
		if err != nil {
			require.ErrorIs(t, err, ErrFirstPacket)
			require.Zero(t, r)
			return
		}
		require.Contains(t, []role{roleData, roleMeta}, r)
		again, err := decodeInitial(appendInitial(nil, r))
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func TestInitialGolden(t *testing.T) {
	require.Equal(t, "\x83\x74\x02\x67\xff\xf2\x00\x00", string(appendInitial(nil, roleData)))
	require.Equal(t, "\x83\x74\x02\x67\xff\xf1\x00\x00", string(appendInitial(nil, roleMeta)))
}
