// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// recorder notes which handlers have run on which node.
type recorder struct {
	mu    sync.Mutex
	names []string
}

func (r *recorder) note(node string) func(context.Context, HandlerCall) {
	return func(_ context.Context, call HandlerCall) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.names = append(r.names, node+" "+call.Name)
	}
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.names...)
}

func (r *recorder) handlers(node string) Handlers {
	n := r.note(node)
	strict := func(ctx context.Context, call HandlerCall) error { n(ctx, call); return nil }
	return Handlers{BeforeResyncTarget: strict, BeforeResyncSource: strict, LocalIOError: n, AfterResyncTarget: n,
		InitialSplitBrain: n, SplitBrain: n, PriLost: n, PriLostAfterSB: n, PriOnInconDegr: n, OutOfSync: n, QuorumLost: n}
}

// The handlers of a resync, of a split brain, and of lost data, in DRBD's order.
func TestHandlerOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPair(t, pairOptions{config: func(name string, cfg *Config) { cfg.Handlers = rec.handlers(name) }})
		p.start(t)
		ctx := testContext(t)
		p.net.Cut("alpha", "beta")
		waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
		_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
		require.NoError(t, err)
		p.net.Heal("alpha", "beta")
		require.NoError(t, p.alpha.res.WaitSync(ctx))
		require.NoError(t, p.beta.res.WaitSync(ctx))
		synctest.Wait()
		require.ElementsMatch(t, []string{"alpha before-resync-source", "beta before-resync-target", "beta after-resync-target"}, rec.all())

		rec.mu.Lock()
		rec.names = nil
		rec.mu.Unlock()
		p.net.Cut("alpha", "beta")
		waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
		require.NoError(t, p.beta.res.Promote(ctx))
		require.NoError(t, p.beta.res.Demote(ctx))
		p.net.Heal("alpha", "beta")
		waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.StandAlone })
		waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.StandAlone })
		synctest.Wait()
		for _, n := range []string{"alpha ", "beta "} {
			var mine []string
			for _, name := range rec.all() {
				if strings.HasPrefix(name, n) {
					mine = append(mine, strings.TrimPrefix(name, n))
				}
			}
			require.Equal(t, []string{"initial-split-brain", "split-brain"}, mine)
		}

		require.NoError(t, p.beta.res.Connect(ctx, DiscardMyData()))
		require.NoError(t, p.alpha.res.Connect(ctx))
		require.NoError(t, p.alpha.res.WaitSync(ctx))
		require.NoError(t, p.alpha.vol.Detach(ctx))
		synctest.Wait()
		rec.mu.Lock()
		rec.names = nil
		rec.mu.Unlock()
		p.net.Cut("alpha", "beta")
		waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
		synctest.Wait()
		require.Equal(t, []string{"alpha pri-on-incon-degr"}, rec.all())
		p.stop(t)
	})
}

// A handler that refuses a resync, or does not end, keeps the data as it is.
func TestHandlerRefusesResync(t *testing.T) {
	for _, tc := range []struct {
		name   string
		handle func(context.Context, HandlerCall) error
	}{
		{"error", func(context.Context, HandlerCall) error { return errors.New("no room for a snapshot") }},
		{"hangs", func(context.Context, HandlerCall) error { time.Sleep(time.Hour); return nil }},
		{"ends with its context", func(ctx context.Context, _ HandlerCall) error { <-ctx.Done(); return ctx.Err() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pairOptions{config: func(name string, cfg *Config) {
					if name == "beta" {
						cfg.Handlers.BeforeResyncTarget, cfg.HandlerTimeout = tc.handle, 20*time.Second
					}
				}})
				p.start(t)
				p.net.Cut("alpha", "beta")
				waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
				_, err := p.alpha.vol.WriteAt(bytes.Repeat([]byte{1}, 1<<20), 0)
				require.NoError(t, err)
				p.net.Heal("alpha", "beta")
				waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.StandAlone })
				require.ErrorIs(t, p.beta.res.Status().Peers[0].StandAloneReason, ErrHandler)
				require.Equal(t, make([]byte, 1<<20), p.beta.content(1<<20))
				p.stop(t)
				time.Sleep(2 * time.Hour) // of the bubble's clock: what hung ends
			})
		})
	}
}

// The handler of a failed disk runs before the peer is told.
func TestLocalIOErrorHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := blockdev.NewFaulty(blockdev.NewMemory(testDiskBytes))
		var p *pair
		var seen protocol.DiskState
		p = newPair(t, pairOptions{
			disks: func(name string) blockdev.Device {
				if name == "alpha" {
					return disk
				}
				return blockdev.NewMemory(testDiskBytes)
			},
			config: func(name string, cfg *Config) {
				cfg.Volumes[0].OnIOError = CallLocalIOError
				if name == "alpha" {
					cfg.Handlers.LocalIOError = func(context.Context, HandlerCall) {
						time.Sleep(3 * time.Second) // of the bubble's clock
						seen = p.beta.res.Status().Volumes[0].State.PeerDisk
					}
				}
			},
		})
		p.start(t)
		disk.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Err: errors.New("bad sector")})
		_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
		require.NoError(t, err, "the peer has it")
		waitFor(t, p.beta.res, func(s protocol.State) bool { return s.PeerDisk == protocol.Diskless })
		require.Equal(t, protocol.UpToDate, seen)
		p.alpha.mayFail = true
		require.NoError(t, p.alpha.res.Close())
		require.NoError(t, p.beta.res.Close())
	})
}

// script writes a program for the tests.
func script(t *testing.T, text string) string {
	if runtime.GOOS == "windows" {
		t.Skip("needs /bin/sh")
	}
	file := filepath.Join(t.TempDir(), "handler")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
	return file
}

// Programs get DRBD's environment and nothing else, and their exit code counts.
func TestExecHandlers(t *testing.T) {
	t.Setenv("SECRET_OF_THE_PARENT", "x")
	out := filepath.Join(t.TempDir(), "env")
	e := &ExecHandlers{
		Commands: map[string][]string{
			"fence-peer":           {script(t, `env | sort > "$1"; exit 4`), out},
			"unfence-peer":         {"/nonexistent/program"},
			"before-resync-source": {script(t, "exit 3")},
			"split-brain":          {script(t, "echo '$(id)' `echo no shell` >&2; exit 0"), "$(touch /nonexistent)", ";"},
			"local-io-error":       {script(t, "kill -9 $$")},
		},
		Disks: map[uint16]string{0: "/dev/sda1"}, Conf: "/etc/drbd.conf", Env: []string{"DRBD_MINOR_MAX=9"},
	}
	var said bytes.Buffer
	e.Output = &said
	call := HandlerCall{Name: "fence-peer", Resource: "r0", Peer: "beta", WholeResource: true, Remote: "192.0.2.7:7788",
		Volumes: []HandlerVolume{{ID: 0, Minor: 1000}, {ID: 7, Minor: 1007}}}
	ctx := testContext(t)
	res, err := e.FencePeer(ctx, call)
	require.NoError(t, err)
	require.Equal(t, PeerOutdated, res)
	env, err := os.ReadFile(out)
	require.NoError(t, err)
	for _, want := range []string{"HOME=/", "TERM=linux", "PATH=/sbin:/usr/sbin:/bin:/usr/bin", "DRBD_RESOURCE=r0", "DRBD_VOLUME=0 7",
		"DRBD_MINOR=1000 1007", "DRBD_LL_DISK=/dev/sda1 none", "DRBD_PEER=beta", "DRBD_PEERS=beta", "DRBD_PEER_AF=ipv4",
		"DRBD_PEER_ADDRESS=192.0.2.7", "DRBD_CONF=/etc/drbd.conf", "DRBD_MINOR_MAX=9"} {
		require.Contains(t, strings.Split(string(env), "\n"), want)
	}
	require.NotContains(t, string(env), "SECRET_OF_THE_PARENT")
	call.Remote = "[2001:db8::1]:7788"
	require.Contains(t, e.Environ(call), "DRBD_PEER_AF=ipv6")
	call.Remote = ""
	require.NotContains(t, strings.Join(e.Environ(call), "\n"), "DRBD_PEER_A")

	var exit *ExitError
	call.Name = "unfence-peer"
	require.ErrorIs(t, e.UnfencePeer(ctx, call), os.ErrNotExist)
	call.Name = "before-resync-source"
	err = e.Run(ctx, call)
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.Code)
	require.Equal(t, 3, exitCode(err))
	call.Name = "split-brain"
	require.NoError(t, e.Run(ctx, call))
	require.Equal(t, "$(id) no shell\n", said.String())
	call.Name = "local-io-error"
	require.ErrorAs(t, e.Run(ctx, call), &exit)
	require.Equal(t, 1, exit.Code)
	require.Error(t, exit.Err)
	call.Name = "out-of-sync"
	require.NoError(t, e.Run(ctx, call), "none is configured")

	h := e.Handlers()
	require.NotNil(t, h.BeforeResyncSource)
	require.NotNil(t, h.SplitBrain)
	require.Nil(t, h.BeforeResyncTarget)
	require.Nil(t, h.OutOfSync)
}

// A program that does not end is killed, with what it has started.
func TestExecTimeout(t *testing.T) {
	e := &ExecHandlers{Commands: map[string][]string{"fence-peer": {script(t, "trap '' TERM; while :; do sleep 1000; done")}}, Output: &bytes.Buffer{}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	res, err := e.FencePeer(ctx, HandlerCall{Name: "fence-peer"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Zero(t, res)
}
