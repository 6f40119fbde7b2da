// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"math/rand/v2"
	"regexp"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelTwoPrimaries: both sides are Primary and write at the same time, beside each
// other and over each other, until each of them has decided about conflicts. No
// connection breaks, and the disks are equal afterwards.
func kernelTwoPrimaries(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{
		config:      func(cfg *replica.Config) { cfg.Peers[0].AllowTwoPrimaries = true },
		net:         []string{"--allow-two-primaries=yes"},
		mayComplain: true, // see below
	})
	met := map[bool]uint64{} // conflicts, by whether the node decided about them
	for round := uint64(0); round < 12 && (met[true] == 0 || met[false] == 0); round++ {
		d.ctx = labContext(t)
		if round == 0 {
			d.connect()
		} else {
			d.reconnect()
		}
		resolver := d.node.Status().Peers[0].Resolver
		require.NoError(t, d.kernel.Primary(d.ctx))
		require.NoError(t, d.node.Promote(d.ctx))
		d.waitKernelState("Connected Primary/Primary UpToDate/UpToDate")
		d.writeBeside()
		d.writeOver(round)
		conflicts := d.status(0).Conflicts
		t.Logf("round %d: the node decides: %v, conflicts: %d", round, resolver, conflicts)
		met[resolver] += conflicts
		// Demotion waits for every ack, also of epochs with conflicts.
		require.NoError(t, d.node.Demote(d.ctx))
		require.NoError(t, d.kernel.Secondary(d.ctx))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Peer == protocol.Secondary })
		d.waitQuiet()
		d.requireSame()
		require.Zero(t, d.status(0).OutOfSync)
		d.requireUUIDsAgree()
		d.disconnect(round%2 == 0)
	}
	require.NotZero(t, met[true], "the node never decided")
	require.NotZero(t, met[false], "the kernel never decided")
	d.requireNoResync()
	for _, line := range d.kernelLog() {
		if complains(line) {
			require.Regexp(t, conflictComplaint, line)
		}
	}
}

// conflictComplaint is what 8.4.11 has to say about conflicts: when some of its writes are
// decided about, and, having decided itself, when it disconnects.
var conflictComplaint = regexp.MustCompile(`ASSERT\( req->rq_state & RQ_NET_PENDING \)|current_epoch->list not empty`)

// writeBeside lets both sides write at the same time, to different places.
func (d *duo) writeBeside() {
	d.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.lab.guest.Copy(d.ctx, "/dev/drbd0", 2<<20, "/dev/vdc", 0, 256<<10, 16<<10); err != nil {
			d.t.Errorf("write on the kernel: %v", err)
		}
	})
	for i := range int64(16) {
		wg.Go(func() {
			if _, err := d.vol().WriteAtContext(d.ctx, d.lab.pattern[i<<10:][:16<<10], 4<<20+i<<14); err != nil {
				d.t.Errorf("write on the node: %v", err)
			}
		})
	}
	wg.Wait()
}

// writeOver lets both sides write the same 256 KiB at the same time.
func (d *duo) writeOver(seed uint64) {
	d.t.Helper()
	const at, size = 8 << 20, 256 << 10
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range int64(2) {
			if err := d.lab.guest.Copy(d.ctx, "/dev/drbd0", at, "/dev/vdc", i<<20, size, 8<<10); err != nil {
				d.t.Errorf("write on the kernel: %v", err)
			}
		}
	})
	for i := range uint64(6) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, i))
			for {
				select {
				case <-done:
					return
				default:
				}
				n := int64(1+rng.IntN(48)) * 512
				off := rng.Int64N((size-n)/512) * 512
				if _, err := d.vol().WriteAtContext(d.ctx, d.lab.pattern[off+n:][:n], at+off); err != nil {
					d.t.Errorf("write on the node: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}
