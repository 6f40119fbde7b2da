// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
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
}

// kernelVersions: every protocol version in which something changed.
func kernelVersions(t *testing.T, lab *kernelLab) {
	for _, v := range []protocol.Version{86, 87, 88, 89, 90, 94, 95, 96, 99, 100} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{fresh: true, config: func(cfg *replica.Config) { cfg.Peers[0].MaxVersion = v }})
			d.connect()
			require.Equal(t, v, d.node.Status().Peers[0].Version)
			require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
			d.waitSync()
			require.NoError(t, d.kernel.Secondary(d.ctx))
			d.exchange()
			// An outage, and a resync by bitmap in the other direction.
			require.NoError(t, d.node.Promote(d.ctx))
			d.disconnect(false)
			d.nodeWrite(0, 17<<20, 0, 4096)
			d.reconnect()
			d.waitSync()
			d.requireSame()
			require.Equal(t, 1, d.lastKernelResync())
			require.NoError(t, d.node.Demote(d.ctx))
			d.disconnect(true)
		})
	}
}
