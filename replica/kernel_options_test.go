// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// exchange writes on both sides and compares.
func (d *duo) exchange() {
	d.t.Helper()
	model := d.nodeContent(0)
	require.NoError(d.t, d.node.Promote(d.ctx))
	for i, size := range []int64{512, 4096, 33 * 512, 256 << 10} {
		off := int64(i)<<20 + 512
		d.nodeWrite(0, off, 512, size)
		copy(model[off:off+size], d.lab.pattern[512:])
	}
	require.NoError(d.t, d.vol().Flush(d.ctx))
	require.NoError(d.t, d.node.Demote(d.ctx))
	require.NoError(d.t, d.kernel.Primary(d.ctx))
	for i, size := range []int64{512, 4096, 33 * 512, 256 << 10} {
		off := int64(i+8)<<20 + 512
		d.kernelWrite(0, off, 1024, size, size)
		copy(model[off:off+size], d.lab.pattern[1024:])
	}
	require.NoError(d.t, d.kernel.Secondary(d.ctx))
	d.waitQuiet()
	d.requireBoth(model)
}

// kernelIntegrity: every block travels with a digest.
func kernelIntegrity(t *testing.T, lab *kernelLab) {
	for _, alg := range []string{"crc32c", "sha1", "md5", "xxhash64"} {
		t.Run(alg, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{fresh: true,
				config: func(cfg *replica.Config) { cfg.Peers[0].IntegrityAlg = alg },
				net:    []string{"--data-integrity-alg=" + alg},
			})
			d.connect()
			require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
			d.waitSync()
			require.NoError(t, d.vol().WriteZeroes(d.ctx, 20<<20, 64<<10))
			require.NoError(t, d.node.Demote(d.ctx))
			d.exchange()
		})
	}
	t.Run("broken, node writes", func(t *testing.T) { integrityBroken(t, lab, false) })
	t.Run("broken, kernel writes", func(t *testing.T) { integrityBroken(t, lab, true) })
}

// integrityBroken: one bit of a write flips on the way. Who receives it finds that out,
// breaks the connection and has the write again after a resync.
func integrityBroken(t *testing.T, lab *kernelLab, kernelWrites bool) {
	flip := &flippingTransport{writes: !kernelWrites}
	d := newDuo(t, lab, duoOptions{mayBreak: true, net: []string{"--data-integrity-alg=crc32c"},
		config: func(cfg *replica.Config) {
			cfg.Peers[0].IntegrityAlg = "crc32c"
			flip.Transport = cfg.Peers[0].Transport
			cfg.Peers[0].Transport = flip
		},
	})
	d.connect()
	model := d.nodeContent(0)
	copy(model[1<<20:], lab.pattern[:64<<10])
	if kernelWrites {
		require.NoError(t, d.kernel.Primary(d.ctx))
		flip.armed.Store(true)
		d.kernelWrite(0, 1<<20, 0, 64<<10, 64<<10)
	} else {
		require.NoError(t, d.node.Promote(d.ctx))
		flip.armed.Store(true)
		d.nodeWrite(0, 1<<20, 0, 64<<10)
	}
	d.waitNode(func(replica.VolumeStatus) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return slices.ContainsFunc(d.history, brokenConnection.MatchString)
	})
	require.False(t, flip.armed.Load())
	d.waitConnected()
	d.waitSync()
	d.waitQuiet()
	d.requireBoth(model)
	log := strings.Join(d.kernelLog(), "\n")
	if kernelWrites {
		require.NotContains(t, log, "Digest integrity check FAILED", "the node finds it")
		require.NoError(t, d.kernel.Secondary(d.ctx))
	} else {
		require.Contains(t, log, "Digest integrity check FAILED")
	}
}

// flippingTransport changes one bit of the next large piece of data, once it is armed: of
// what the node writes, or of what it reads.
type flippingTransport struct {
	transport.Transport
	writes bool
	armed  atomic.Bool
}

func (t *flippingTransport) Connect(ctx context.Context) (*transport.Pair, error) {
	pair, err := t.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	own := *pair
	own.Data = &flippingConn{Conn: pair.Data, t: t}
	return &own, nil
}

type flippingConn struct {
	net.Conn
	t *flippingTransport
}

func (c *flippingConn) Write(p []byte) (int, error) {
	if c.t.writes && len(p) >= 4096 && c.t.armed.CompareAndSwap(true, false) {
		p = slices.Clone(p)
		p[len(p)-1] ^= 4
	}
	return c.Conn.Write(p)
}

func (c *flippingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.t.writes && n >= 1024 && c.t.armed.CompareAndSwap(true, false) {
		p[n/2] ^= 4
	}
	return n, err
}

// kernelVersions: every protocol version in which something changed, and with some of them
// a full sync, in requests of 32 KiB, 128 KiB and 1 MiB.
func kernelVersions(t *testing.T, lab *kernelLab) {
	for _, v := range []protocol.Version{86, 87, 88, 89, 90, 94, 95, 96, 99, 100} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			full := v == 86 || v == 95 || v == 100
			d := newDuo(t, lab, duoOptions{fresh: full, config: func(cfg *replica.Config) { cfg.Peers[0].MaxVersion = v }})
			d.connect()
			require.Equal(t, v, d.node.Status().Peers[0].Version)
			if full {
				require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
				d.waitSync()
				require.NoError(t, d.kernel.Secondary(d.ctx))
			}
			d.exchange()
			// An outage, and a resync by bitmap in the other direction.
			require.NoError(t, d.node.Promote(d.ctx))
			d.disconnect(false)
			d.nodeWrite(0, 17<<20, 0, 4096)
			d.nodeWrite(0, 18<<20, 0, 1<<20)
			d.reconnect()
			d.waitSync()
			d.requireSame()
			require.Equal(t, 257, d.lastKernelResync())
			require.NoError(t, d.node.Demote(d.ctx))
			d.disconnect(true)
		})
	}
}
