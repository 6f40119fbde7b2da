// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// node is one of the two nodes of a test.
type node struct {
	t    testing.TB
	name string
	res  *Resource
	vol  *Volume
	disk blockdev.Device
	cfg  Config

	mayFail bool // Close may return an error at the end of the test
}

// testLogger shows the logs of a failing test, or of all with BLOCKMIRROR_TEST_LOG.
func testLogger(t testing.TB, name string) *slog.Logger {
	if os.Getenv("BLOCKMIRROR_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
	}
	return nil
}

// pairOptions changes what the two nodes of a test have in common.
type pairOptions struct {
	size   int64
	disks  func(name string) blockdev.Device
	config func(name string, cfg *Config)
	tcp    bool
	fresh  bool // metadata as create-md leaves it; else as if the two disks were in sync
}

// metadata says that the disks of both nodes are equal and good, or nothing.
func (o *pairOptions) metadata(t testing.TB, disk blockdev.Device) metadata.CreateOptions {
	if o.fresh {
		return metadata.CreateOptions{}
	}
	l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), disk.Size(), metadata.Geometry{})
	require.NoError(t, err)
	return metadata.CreateOptions{
		EffectiveSize: l.UsableSectors, Current: 0x0123456789abcdee,
		Flags: metadata.Consistent | metadata.WasUpToDate,
	}
}

// pair is two nodes on a network in memory, or over loopback TCP.
type pair struct {
	net         *transporttest.Network
	alpha, beta *node
}

const testDiskBytes = 32 << 20

// newPair opens two nodes. They are not connected.
func newPair(t testing.TB, o pairOptions) *pair {
	t.Helper()
	if o.size == 0 {
		o.size = testDiskBytes
	}
	if o.disks == nil {
		o.disks = func(string) blockdev.Device { return blockdev.NewMemory(o.size) }
	}
	p := &pair{net: transporttest.NewNetwork(1)}
	t.Cleanup(func() { p.net.Close() })
	trans := func(local, remote string) transport.Transport { return p.net.Transport(local, remote) }
	if o.tcp {
		trans = loopback(t)
	}
	p.alpha = newNode(t, "alpha", "beta", trans("alpha", "beta"), o)
	p.beta = newNode(t, "beta", "alpha", trans("beta", "alpha"), o)
	return p
}

func newNode(t testing.TB, name, peer string, tr transport.Transport, o pairOptions) *node {
	t.Helper()
	n := &node{t: t, name: name, disk: o.disks(name)}
	t.Cleanup(func() { n.disk.Close() })
	n.cfg = Config{
		Name:    "r0",
		Volumes: []VolumeConfig{{Disk: n.disk, Resync: ResyncConfig{PlanAhead: -1, Rate: 4 << 30}}},
		Peers:   []PeerConfig{{Name: peer, Transport: tr}},
		Logger:  testLogger(t, name),
	}
	if o.config != nil {
		o.config(name, &n.cfg)
	}
	if v := n.cfg.Volumes[0]; v.Disk != nil {
		require.NoError(t, CreateMetadata(Disk{v.Disk, v.MetaDisk, v.MetaDevice}, o.metadata(t, n.disk)))
	}
	n.open()
	return n
}

// open opens the node, and closes it at the end of the test.
func (n *node) open() {
	n.t.Helper()
	res, err := Open(context.Background(), n.cfg)
	require.NoError(n.t, err)
	n.res, n.vol = res, res.Volume(0)
	n.t.Cleanup(func() {
		if err := res.Close(); !n.mayFail {
			require.NoError(n.t, err)
		}
	})
}

// loopback returns transports over TCP between "alpha" and "beta".
func loopback(t testing.TB) func(local, remote string) transport.Transport {
	addrs := map[string]string{}
	for _, name := range []string{"alpha", "beta"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addrs[name] = ln.Addr().String()
		require.NoError(t, ln.Close())
	}
	return func(local, remote string) transport.Transport {
		tr, err := transport.NewTCP(transport.TCPConfig{
			Local: addrs[local], Remote: addrs[remote],
			ConnectInterval: 100 * time.Millisecond, SocketCheckTimeout: 10 * time.Millisecond,
		})
		require.NoError(t, err)
		t.Cleanup(func() { tr.Close() })
		return tr
	}
}

// ctx limits what a test waits for, generously.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connect connects both nodes.
func (p *pair) connect(t testing.TB) {
	t.Helper()
	ctx := testContext(t)
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.beta.res.Connect(ctx))
	require.NoError(t, p.alpha.res.WaitConnected(ctx))
	require.NoError(t, p.beta.res.WaitConnected(ctx))
}

// start connects the nodes and makes alpha Primary.
func (p *pair) start(t testing.TB) {
	t.Helper()
	ctx := testContext(t)
	p.connect(t)
	require.NoError(t, p.alpha.res.Promote(ctx))
}

// stop closes both nodes, the Primary first.
func (p *pair) stop(t testing.TB) {
	t.Helper()
	require.NoError(t, p.alpha.res.Close())
	require.NoError(t, p.beta.res.Close())
}

// content reads what a node's disk holds where the volume lies.
func (n *node) content(size int64) []byte {
	n.t.Helper()
	b := make([]byte, size)
	_, err := n.disk.ReadAt(b, 0)
	require.NoError(n.t, err)
	return b
}

// requireSame compares the data of both disks.
func (p *pair) requireSame(t testing.TB) {
	t.Helper()
	size := p.alpha.vol.Size()
	require.Equal(t, size, p.beta.vol.Size())
	require.NotZero(t, size)
	if !bytes.Equal(p.alpha.content(size), p.beta.content(size)) {
		t.Fatal("the two disks differ")
	}
}

func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func TestPairMirrorsWrites(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		t.Run(map[bool]string{false: "memory", true: "tcp"}[tcp], func(t *testing.T) {
			defer goleak.VerifyNone(t)
			p := newPair(t, pairOptions{tcp: tcp})
			p.start(t)
			data := randomBytes(4096, 1)
			_, err := p.alpha.vol.WriteAt(data, 8192)
			require.NoError(t, err)
			got := make([]byte, 4096)
			_, err = p.alpha.vol.ReadAt(got, 8192)
			require.NoError(t, err)
			require.Equal(t, data, got)
			p.stop(t)
			p.requireSame(t)
			require.Equal(t, data, p.beta.content(16384)[8192:12288])
		})
	}
}
