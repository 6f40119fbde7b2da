// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// kill ends a node by force: its metadata is left as after a crash.
func (n *node) kill(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, n.res.Shutdown(ctx))
}

// Nodes that were closed in order find each other in sync.
func TestReopen(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	writers := runWriters(t, p.alpha.vol, 4, steps(100), nil)
	p.stop(t)
	p.alpha.open()
	p.beta.open()
	events := p.beta.res.Events(testContext(t))
	p.start(t)
	verifyAll(t, p.alpha.vol, writers)
	p.stop(t)
	for ev := range events {
		require.NotEqual(t, EventResyncStart, ev.Kind, "nothing had to be copied")
	}
}

// After the crash of a Primary the blocks that may differ are copied, and every
// acknowledged write is there, on either node.
func TestCrashedPrimary(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		t.Run(map[bool]string{false: "comes back", true: "is taken over"}[takeover], func(t *testing.T) {
			defer goleak.VerifyNone(t)
			p := newPair(t, pairOptions{})
			p.start(t)
			ctx := testContext(t)
			writers := runWriters(t, p.alpha.vol, 4, steps(100), nil)
			p.alpha.kill(t)
			waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
			reader := p.alpha
			if takeover {
				reader = p.beta
				require.NoError(t, p.beta.res.Promote(ctx))
				verifyAll(t, p.beta.vol, writers)
				writers = runWriters(t, p.beta.vol, 4, steps(100), nil)
			}
			p.alpha.open()
			require.NoError(t, p.alpha.res.Connect(ctx))
			require.NoError(t, p.alpha.res.WaitSync(ctx))
			require.NoError(t, p.beta.res.WaitSync(ctx))
			if !takeover {
				require.NoError(t, p.alpha.res.Promote(ctx))
			}
			verifyAll(t, reader.vol, writers)
			p.stop(t)
			p.requireSame(t)
		})
	}
}

// Two nodes that were both Primary while apart are in split brain: both StandAlone,
// until an administrator picks the victim.
func TestSplitBrain(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	p.net.Cut("alpha", "beta")
	waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
	waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
	require.NoError(t, p.beta.res.Promote(ctx))
	winners := runWriters(t, p.alpha.vol, 4, 20, nil)
	runWriters(t, p.beta.vol, 2, 10, nil)
	events := p.alpha.res.Events(ctx)
	p.net.Heal("alpha", "beta")
	for ev := range events {
		if ev.Kind == EventSplitBrain {
			break
		}
	}
	for _, n := range []*node{p.alpha, p.beta} {
		waitFor(t, n.res, func(s protocol.State) bool { return s.Conn == protocol.StandAlone })
		require.ErrorIs(t, n.res.WaitConnected(ctx), ErrSplitBrain)
		require.ErrorIs(t, n.res.WaitConnected(ctx), ErrStandAlone)
		require.ErrorIs(t, n.res.Status().Peers[0].StandAloneReason, ErrSplitBrain)
	}
	require.Error(t, p.beta.res.Connect(ctx, DiscardMyData()), "not on a Primary")
	require.NoError(t, p.beta.res.Demote(ctx))
	require.NoError(t, p.beta.res.Connect(ctx, DiscardMyData()))
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.beta.res.WaitSync(ctx))
	require.NoError(t, p.alpha.res.WaitSync(ctx))
	verifyAll(t, p.alpha.vol, winners)
	p.stop(t)
	p.requireSame(t)
}

// A disk that fails is dropped, and no write fails: the peer has the data.
func TestDiskFails(t *testing.T) {
	for _, at := range []string{"alpha", "beta"} {
		t.Run(at, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			disks := map[string]*blockdev.Faulty{}
			p := newPair(t, pairOptions{disks: func(name string) blockdev.Device {
				disks[name] = blockdev.NewFaulty(blockdev.NewMemory(testDiskBytes))
				return disks[name]
			}})
			p.start(t)
			ctx := testContext(t)
			victim := p.alpha
			if at == "beta" {
				victim = p.beta
			}
			var stop atomic.Bool
			done := make(chan []*writer)
			go func() { done <- runWriters(t, p.alpha.vol, 4, 1<<30, &stop) }()
			disks[at].Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Off: 8 << 20, Len: 1 << 20})
			waitFor(t, victim.res, func(s protocol.State) bool { return s.Disk == protocol.Diskless })
			stop.Store(true)
			writers := <-done
			verifyAll(t, p.alpha.vol, writers)
			disks[at].Heal()
			require.NoError(t, victim.vol.Attach(ctx, Disk{}))
			// Where the disk had writes of the peer in its cache the nodes connect anew first.
			for _, n := range []*node{p.alpha, p.beta} {
				waitFor(t, n.res, func(s protocol.State) bool {
					return s.Conn == protocol.Connected && s.Disk == protocol.UpToDate && s.PeerDisk == protocol.UpToDate
				})
			}
			p.stop(t)
			p.requireSame(t)
		})
	}
}

// A disk may fail while a transaction of the activity log is on its way to it.
func TestDiskFailsDuringTransaction(t *testing.T) {
	defer goleak.VerifyNone(t)
	disk := blockdev.NewFaulty(blockdev.NewMemory(testDiskBytes))
	p := newPair(t, pairOptions{disks: func(name string) blockdev.Device {
		if name == "alpha" {
			return disk
		}
		return blockdev.NewMemory(testDiskBytes)
	}})
	p.start(t)
	layout, err := metadata.NewLayout(metadata.V08, metadata.Internal(), disk.Size(), metadata.Geometry{})
	require.NoError(t, err)
	buf := make([]byte, 4096)
	_, err = p.alpha.vol.WriteAt(buf, 0)
	require.NoError(t, err)
	writes := []blockdev.OpKind{blockdev.OpWrite}
	release := disk.Inject(blockdev.Fault{Kinds: writes, Off: layout.ActivityLogOffset, Len: layout.ActivityLogSize, Hang: true})
	result := make(chan error, 1)
	go func() {
		_, err := p.alpha.vol.WriteAt(buf, 8<<20) // a cold extent
		result <- err
	}()
	disk.WaitHung(1)
	disk.Inject(blockdev.Fault{Kinds: writes, Len: 4096})
	_, err = p.alpha.vol.WriteAt(buf, 0)
	require.NoError(t, err, "the peer has it")
	release()
	require.NoError(t, <-result, "the peer has it")
	waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Disk == protocol.Diskless })
	p.stop(t)
}

// Real files, with metadata on a file of its own on one node.
func TestFiles(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	file := func(name string) *blockdev.File {
		f, err := blockdev.Create(filepath.Join(dir, name), testDiskBytes, blockdev.Options{})
		require.NoError(t, err)
		return f
	}
	meta := file("meta")
	defer meta.Close()
	p := newPair(t, pairOptions{
		tcp:   true,
		fresh: true,
		disks: func(name string) blockdev.Device { return file(name) },
		config: func(name string, cfg *Config) {
			if name == "beta" {
				cfg.Volumes[0].MetaDisk, cfg.Volumes[0].MetaDevice = metadata.Indexed(0), meta
				meta, err := blockdev.Open(filepath.Join(dir, "meta"), blockdev.Options{})
				require.Nil(t, meta)
				require.ErrorIs(t, err, blockdev.ErrBusy)
			}
		},
	})
	p.connect(t)
	ctx := testContext(t)
	require.NoError(t, p.alpha.res.Promote(ctx, Force()))
	require.NoError(t, p.alpha.res.WaitSync(ctx))
	writers := runWriters(t, p.alpha.vol, 4, steps(100), nil)
	require.NoError(t, p.alpha.vol.Flush(ctx))
	require.NoError(t, p.beta.res.WaitSync(ctx))
	verifyAll(t, p.alpha.vol, writers)
	p.stop(t)
	p.requireSame(t)
}

// Protocols A and B complete writes earlier; the data arrives all the same.
func TestProtocolsAB(t *testing.T) {
	for _, proto := range []protocol.ReplicationProtocol{protocol.A, protocol.B} {
		t.Run(proto.String(), func(t *testing.T) {
			defer goleak.VerifyNone(t)
			p := newPair(t, pairOptions{config: func(_ string, cfg *Config) { cfg.Peers[0].Protocol = proto }})
			p.start(t)
			writers := runWriters(t, p.alpha.vol, 8, steps(200), nil)
			verifyAll(t, p.alpha.vol, writers)
			p.stop(t)
			p.requireSame(t)
		})
	}
}

// Authentication, integrity checksums and old protocol versions.
func TestPeerOptions(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*PeerConfig)
	}{
		{"authentication", func(c *PeerConfig) { c.CRAMAlg, c.Secret = "sha256", "open sesame" }},
		{"integrity", func(c *PeerConfig) { c.IntegrityAlg = "crc32c" }},
		{"version 86", func(c *PeerConfig) { c.MaxVersion = 86 }},
		{"version 95", func(c *PeerConfig) { c.MaxVersion = 95 }},
		{"version 96", func(c *PeerConfig) { c.MaxVersion = 96 }},
		{"no run-length code", func(c *PeerConfig) { c.DisableRLE = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			p := newPair(t, pairOptions{fresh: true, config: func(_ string, cfg *Config) { tc.set(&cfg.Peers[0]) }})
			p.connect(t)
			ctx := testContext(t)
			require.NoError(t, p.alpha.res.Promote(ctx, Force()))
			writers := runWriters(t, p.alpha.vol, 4, steps(50), nil)
			require.NoError(t, p.alpha.res.WaitSync(ctx))
			require.NoError(t, p.beta.res.WaitSync(ctx))
			verifyAll(t, p.alpha.vol, writers)
			p.stop(t)
			p.requireSame(t)
		})
	}
}
