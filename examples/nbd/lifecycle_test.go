// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hooks is an export that tells of its hooks.
func hooks(name string, b Backend) (Export, chan string) {
	calls := make(chan string, 100)
	return Export{
		Name: name, Backend: b,
		Open:  func(context.Context) error { calls <- "open"; return nil },
		Close: func() error { calls <- "close"; return nil },
	}, calls
}

// The first client opens, the last one closes, and then it begins again.
func TestHooks(t *testing.T) {
	e, calls := hooks("disk", NewMemory(1<<20))
	addr := listen(t, newServer(t, Config{}, e))
	for range 2 {
		a, b := open(t, addr, "disk", true), open(t, addr, "disk", true)
		require.Equal(t, "open", <-calls)
		a.send(request{command: cmdDisc}, nil)
		a.gone()
		require.Zero(t, b.do(cmdWrite, 0, 0, 512, make([]byte, 512)).errno)
		require.Empty(t, calls)
		b.nc.Close()
		require.Equal(t, "close", <-calls)
	}
}

// A client that comes while the first one opens waits, and is let in without a second
// Open. One whose Open fails leaves the export closed.
func TestOpenOnce(t *testing.T) {
	began, result := make(chan struct{}), make(chan error)
	e := memory("disk", 1<<20)
	e.Open = func(context.Context) error { began <- struct{}{}; return <-result }
	addr := listen(t, newServer(t, Config{}, e))
	a, b := dial(t, addr, flagFixedNewstyle), dial(t, addr, flagFixedNewstyle)
	a.write(encodeOption(optGo, encodeInfo("disk")))
	<-began
	b.write(encodeOption(optGo, encodeInfo("disk")))
	result <- errors.New("not now")
	<-began // for b
	result <- nil
	a.read(20)
	c := open(t, addr, "disk", false)
	require.Zero(t, c.do(cmdRead, 0, 0, 512, nil).errno)
}

// Remove answers what is under way, and then the client is gone.
func TestRemove(t *testing.T) {
	g := newGate()
	e, calls := hooks("disk", g)
	s := newServer(t, Config{}, e, memory("other", 1<<20))
	addr := listen(t, s)
	c, other := open(t, addr, "disk", false), open(t, addr, "other", false)
	c.send(request{command: cmdRead, length: 512}, nil)
	<-g.came
	removed := make(chan error)
	go func() { removed <- s.Remove(context.Background(), "disk") }()
	for len(s.Exports()) == 2 {
		runtime.Gosched() // until Remove has begun
	}
	require.EqualValues(t, repErrUnknown, dial(t, addr, flagFixedNewstyle).one(optGo, encodeInfo("disk")))
	require.Equal(t, "open", <-calls)
	require.Empty(t, calls)
	close(g.leave)
	require.NoError(t, <-removed)
	require.Equal(t, "close", <-calls)
	require.Zero(t, c.receive(512).errno)
	c.gone()
	require.Zero(t, other.do(cmdRead, 0, 0, 512, nil).errno)
	require.NoError(t, s.Add(e), "it may come again")
	open(t, addr, "disk", false)
}

// Remove reaches a client whose Open takes its time.
func TestRemoveWhileOpening(t *testing.T) {
	began := make(chan struct{})
	e := memory("disk", 1<<20)
	e.Open = func(ctx context.Context) error { close(began); <-ctx.Done(); return ctx.Err() }
	s := newServer(t, Config{}, e)
	c := dial(t, listen(t, s), flagFixedNewstyle)
	c.write(encodeOption(optGo, encodeInfo("disk")))
	<-began
	require.NoError(t, s.Remove(t.Context(), "disk"))
}

// A request that hangs delays Shutdown until its context ends.
func TestShutdownThatTakesTooLong(t *testing.T) {
	g := newGate()
	e, calls := hooks("disk", g)
	s := newServer(t, Config{}, e)
	c := open(t, listen(t, s), "disk", false)
	c.send(request{command: cmdRead, length: 512}, nil)
	<-g.came
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
	require.Equal(t, "open", <-calls)
	require.Equal(t, "close", <-calls)
	require.ErrorIs(t, s.Add(memory("x", 1)), ErrServerClosed)
}

func TestShutdown(t *testing.T) {
	g := newGate()
	s := newServer(t, Config{}, Export{Backend: g})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "nbd.sock"))
	require.NoError(t, err)
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	idle, busy, early := open(t, l.Addr(), "", true), open(t, l.Addr(), "", false), dial(t, l.Addr(), flagFixedNewstyle)
	busy.send(request{command: cmdRead, length: 512}, nil)
	<-g.came
	down := make(chan error)
	go func() { down <- s.Shutdown(context.Background()) }()
	require.ErrorIs(t, <-served, ErrServerClosed)
	idle.gone()
	early.gone()
	close(g.leave)
	require.Zero(t, busy.receive(512).errno)
	require.NoError(t, <-down)
	busy.gone()
	require.ErrorIs(t, s.Serve(l), ErrServerClosed)
	require.ErrorIs(t, s.ServeConn(early.nc), ErrServerClosed)
}

// Who says nothing does not stay, and neither does who comes when all places are taken.
func TestLimits(t *testing.T) {
	addr := listen(t, newServer(t, Config{HandshakeTimeout: 300 * time.Millisecond}))
	dial(t, addr, flagFixedNewstyle).gone()

	addr = listen(t, newServer(t, Config{MaxConns: 1}, memory("", 1<<20)))
	first := open(t, addr, "", false)
	nc, err := net.Dial(addr.Network(), addr.String())
	require.NoError(t, err)
	(&client{t: t, nc: nc, r: dialReader(nc)}).gone()
	require.Zero(t, first.do(cmdRead, 0, 0, 512, nil).errno)
}

// ServeConn says why it ended.
func TestServeConn(t *testing.T) {
	s := newServer(t, Config{}, memory("", 1<<20))
	for _, test := range []struct {
		bytes []byte
		want  error
	}{
		{[]byte{0, 0, 0, 3}, nil},
		{[]byte{1, 0, 0, 3}, ErrProtocol},
		{append([]byte{0, 0, 0, 3}, encodeOption(optAbort, nil)...), nil},
	} {
		var log bytes.Buffer
		s.log = slog.New(slog.NewTextHandler(&log, nil))
		err := s.ServeConn(newScript(test.bytes))
		if test.want != nil {
			require.ErrorIs(t, err, test.want)
		}
	}
}

// TestSlowHandshake: a client that is always busy with the handshake has no more time for
// it than one that says nothing.
func TestSlowHandshake(t *testing.T) {
	s := newServer(t, Config{HandshakeTimeout: time.Millisecond})
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		go func() { _, _ = io.Copy(io.Discard, near) }()
		_, err := near.Write(binary.BigEndian.AppendUint32(nil, flagFixedNewstyle))
		for err == nil {
			_, err = near.Write(encodeOption(99, nil))
		}
	}()
	require.ErrorIs(t, s.ServeConn(far), os.ErrDeadlineExceeded)
	<-done
	require.NoError(t, near.Close())
}
