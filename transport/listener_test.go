// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func listen(t testing.TB, cfg ListenerConfig) *Listener {
	t.Helper()
	l, err := Listen(testContext(t), "tcp", "127.0.0.1:0", cfg)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// TestSharedListener connects 50 resources over two ports at the same time.
func TestSharedListener(t *testing.T) {
	ca := newAuthority(t, "site")
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			config := func(node string) ListenerConfig {
				cfg := ListenerConfig{SocketCheckTimeout: 200 * time.Millisecond}
				if secure {
					cfg.TLS = ca.node(t, node)
				}
				return cfg
			}
			a, b := listen(t, config("alpha")), listen(t, config("beta"))
			ctx := testContext(t)
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					name := fmt.Sprintf("r%d", i)
					ta := a.Resource(name, b.Addr().String(), PeerName("beta"))
					tb := b.Resource(name, a.Addr().String(), PeerName("alpha"))
					defer ta.Close()
					defer tb.Close()
					connectMatched(ctx, t, ta, tb)
				})
			}
			wg.Wait()
			require.Empty(t, a.resources, "closed resources give up their names")
			require.NoError(t, a.Close())
			require.ErrorIs(t, a.Close(), ErrClosed)
		})
	}
}

// connectMatched connects until both ends hold the same pair, which on a busy
// machine may take more than one try, and checks it.
func connectMatched(ctx context.Context, t testing.TB, ta, tb Transport) {
	t.Helper()
	for {
		ra, rb := connectBoth(ctx, ta, tb)
		require.NoError(t, ra.err)
		require.NoError(t, rb.err)
		ok := joined(ra.pair, rb.pair)
		if ok {
			requireJoined(t, ra.pair, rb.pair)
		}
		ra.pair.Close()
		rb.pair.Close()
		if ok {
			return
		}
	}
}

func TestSharedListenerPlainIsTCP(t *testing.T) {
	a, b := listen(t, ListenerConfig{}), listen(t, ListenerConfig{})
	ra, rb := connectBoth(testContext(t), a.Resource("r0", b.Addr().String()), b.Resource("r0", a.Addr().String()))
	require.NoError(t, ra.err)
	require.NoError(t, rb.err)
	require.IsType(t, &net.TCPConn{}, ra.pair.Data)
	ra.pair.Close()
	rb.pair.Close()
}

func TestSharedListenerUnknownResource(t *testing.T) {
	logs := newErrorLog()
	a := listen(t, ListenerConfig{})
	b := listen(t, ListenerConfig{Logger: slog.New(logs)})
	ctx, cancel := context.WithCancel(testContext(t))
	var wg sync.WaitGroup
	dialLog := newErrorLog()
	r := a.Resource("r1", b.Addr().String()).(*resource)
	r.cfg.Logger = slog.New(dialLog)
	wg.Go(func() {
		_, err := r.Connect(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, ErrUnknownResource)
	})
	require.ErrorContains(t, logs.wait(errUnknownHere), `"r1"`)
	require.ErrorContains(t, dialLog.wait(ErrUnknownResource), `resource "r1"`)
	cancel()
	wg.Wait()
}

func TestSharedListenerNotWaiting(t *testing.T) {
	a, b := listen(t, ListenerConfig{}), listen(t, ListenerConfig{})
	defer b.Resource("r0", a.Addr().String()).Close() // exists, does not connect
	r := a.Resource("r0", b.Addr().String()).(*resource)
	defer r.Close()
	_, err := r.Dial(testContext(t))
	require.ErrorIs(t, err, ErrNotWaiting)
}

func TestSharedListenerIdentity(t *testing.T) {
	ca := newAuthority(t, "site")
	logs := newErrorLog()
	a := listen(t, ListenerConfig{TLS: ca.node(t, "alpha")})
	b := listen(t, ListenerConfig{TLS: ca.node(t, "beta"), Logger: slog.New(logs)})
	// b's resource belongs to gamma; alpha has a good certificate and still no business here.
	rb := b.Resource("r0", a.Addr().String(), PeerName("gamma"))
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := rb.Connect(context.Background())
		require.ErrorIs(t, err, ErrClosed)
	})
	ra := a.Resource("r0", b.Addr().String(), PeerName("beta")).(*resource)
	_, err := ra.Dial(testContext(t))
	require.ErrorIs(t, err, ErrCertificateRefused)
	require.ErrorContains(t, logs.wait(ErrPeerIdentity), "gamma")
	// And a client that expects someone else than b.
	rx := a.Resource("r1", b.Addr().String(), PeerName("delta")).(*resource)
	_, err = rx.Dial(testContext(t))
	require.ErrorIs(t, err, ErrPeerIdentity)
	// Without an option the host of the address is the name.
	ry := a.Resource("r2", b.Addr().String()).(*resource)
	_, err = ry.Dial(testContext(t))
	require.ErrorContains(t, err, "127.0.0.1")
	require.NoError(t, rb.Close())
	wg.Wait()
}

func TestSharedListenerNames(t *testing.T) {
	l := listen(t, ListenerConfig{})
	ctx := testContext(t)
	for _, name := range []string{"", strings.Repeat("x", 256), "a\nb", "\xff"} {
		_, err := l.Resource(name, "127.0.0.1:1").Connect(ctx)
		require.ErrorContains(t, err, "resource name")
	}
	_, err := l.Resource("r0", "nowhere").Connect(ctx)
	require.ErrorContains(t, err, "nowhere")
	first := l.Resource("r0", "127.0.0.1:1")
	second := l.Resource("r0", "127.0.0.1:1")
	_, err = second.Connect(ctx)
	require.ErrorContains(t, err, "already a resource")
	require.NoError(t, second.Close())
	require.Len(t, l.resources, 1, "the first one keeps the name")
	require.NoError(t, first.Close())
	require.Empty(t, l.resources)
	require.NoError(t, l.Close())
	_, err = l.Resource("r1", "127.0.0.1:1").Connect(ctx)
	require.ErrorIs(t, err, ErrClosed)
}

func TestSharedListenerClose(t *testing.T) {
	a := listen(t, ListenerConfig{})
	var wg sync.WaitGroup
	started := newErrorLog()
	for i := range 5 {
		r := a.Resource(fmt.Sprint(i), freeAddr(t)).(*resource)
		r.cfg.Logger = slog.New(started)
		wg.Go(func() {
			_, err := r.Connect(context.Background())
			require.ErrorIs(t, err, ErrClosed)
		})
	}
	c, err := net.Dial("tcp", a.Addr().String()) // says nothing
	require.NoError(t, err)
	defer c.Close()
	started.mu.Lock()
	for len(started.errs) < 5 {
		started.more.Wait() // each has failed to dial
	}
	started.mu.Unlock()
	require.NoError(t, a.Close())
	wg.Wait()
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
}

// TestSharedListenerHostile sends what no node of ours would.
func TestSharedListenerHostile(t *testing.T) {
	logs := newErrorLog()
	l := listen(t, ListenerConfig{MaxPending: 8, Logger: slog.New(logs)})
	peer := listen(t, ListenerConfig{})
	send := func(s string) []byte {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte(s))
		require.NoError(t, err)
		answer, _ := io.ReadAll(c) // until it is closed
		return answer
	}
	malformed := string(appendStatus(nil, statusMalformed))
	require.Equal(t, malformed, string(send("GET / HTTP/1.0\r\n\r\n"))[:8])
	require.Equal(t, malformed, string(send("BMIR\x02\x00\x00\x01x")), "a newer version")
	require.Equal(t, malformed, string(send("BMIR\x01\x00\xff\xff")), "a long name")
	require.Equal(t, malformed, string(send("BMIR\x01\x00\x00\x00")), "no name")
	require.Empty(t, send(string(appendInitial(nil, roleData))), "a kernel is not answered")
	require.ErrorContains(t, logs.wait(errKernelPeer), "port of its own")
	require.Equal(t, string(appendStatus(nil, statusUnknown)), string(send("BMIR\x01\x00\x00\x01x")))

	// A flood of silent connections does not keep a node out.
	var silent []net.Conn
	for range 50 {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		silent = append(silent, c)
	}
	connectMatched(testContext(t), t, l.Resource("r", peer.Addr().String()), peer.Resource("r", l.Addr().String()))
	for _, c := range silent {
		c.Close()
	}
}

func TestDialPlainPort(t *testing.T) {
	// The other end is not a shared listener: it closes after our preface.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := ln.Accept()
		require.NoError(t, err)
		_, err = readInitial(c, 10*time.Second)
		require.ErrorIs(t, err, ErrFirstPacket)
		_, _ = io.CopyN(io.Discard, c, 2) // the rest of the preface, so that it is not reset
		c.Close()
	})
	r := listen(t, ListenerConfig{}).Resource("r0", ln.Addr().String()).(*resource)
	_, err = r.Dial(testContext(t))
	require.ErrorIs(t, err, ErrPreface)
	wg.Wait()
}

func TestListenErrors(t *testing.T) {
	ctx := testContext(t)
	_, err := Listen(ctx, "tcp", "nowhere", ListenerConfig{})
	require.Error(t, err)
	_, err = Listen(ctx, "tcp", "127.0.0.1:0", ListenerConfig{TLS: &tls.Config{}})
	require.ErrorContains(t, err, "neither RootCAs nor ClientCAs")
	l := listen(t, ListenerConfig{})
	_, err = Listen(ctx, "tcp", l.Addr().String(), ListenerConfig{})
	require.Error(t, err)
}

func FuzzPreface(f *testing.F) {
	f.Add(appendPreface(nil, "r0"))
	f.Add(appendPreface(nil, strings.Repeat("n", MaxResourceName)))
	f.Add(appendInitial(nil, roleMeta))
	f.Add([]byte("BMIR\x01\x00\xff\xffxxxxxxxxx"))
	f.Add([]byte("BMIR\x01\x00\x00\x02a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		name, err := readPreface(r)
		used := len(b) - r.Len()
		require.LessOrEqual(t, used, prefaceHeader+MaxResourceName)
		if err != nil {
			require.Empty(t, name)
			return
		}
		require.NoError(t, checkName(name))
		require.Equal(t, b[:used], appendPreface(nil, name), "what is accepted is canonical")
	})
}

func FuzzStatus(f *testing.F) {
	for s := statusOK; s <= statusMalformed+1; s++ {
		f.Add(appendStatus(nil, s))
	}
	f.Add([]byte("HTTP/1.1 400"))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := readStatus(bytes.NewReader(b))
		if err == nil {
			require.Equal(t, prefaceMagic, string(b[:4]))
			require.Zero(t, b[5])
		}
	})
}

func TestPrefaceGolden(t *testing.T) {
	require.Equal(t, "BMIR\x01\x00\x00\x02r0", string(appendPreface(nil, "r0")))
	require.Equal(t, "BMIR\x01\x02\x00\x00", string(appendStatus(nil, statusNotWaiting)))
	for s, want := range map[prefaceStatus]error{
		statusUnknown: ErrUnknownResource, statusNotWaiting: ErrNotWaiting,
		statusIdentity: ErrCertificateRefused, statusMalformed: ErrPreface, 99: ErrPreface,
	} {
		require.ErrorIs(t, s.err(), want)
		require.True(t, errors.Is(readStatus(bytes.NewReader(appendStatus(nil, s))), want))
	}
	require.NoError(t, readStatus(bytes.NewReader(appendStatus(nil, statusOK))))
}
