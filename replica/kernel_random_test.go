// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelRandom: writes, cuts of every kind, also in the middle of a resync and of
// writing, and changing roles, in random order. After each round both disks hold what was
// written. BLOCKMIRROR_KERNEL_ROUNDS sets the number of rounds, BLOCKMIRROR_KERNEL_SEED
// repeats a run as far as the two machines' timing does.
func kernelRandom(t *testing.T, lab *kernelLab) {
	rounds, seed := 6, rand.Uint64()
	if v, err := strconv.Atoi(os.Getenv("BLOCKMIRROR_KERNEL_ROUNDS")); err == nil {
		rounds = v
	}
	if v, err := strconv.ParseUint(os.Getenv("BLOCKMIRROR_KERNEL_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("BLOCKMIRROR_KERNEL_SEED=%d", seed)
	p := []protocol.ReplicationProtocol{protocol.A, protocol.B, protocol.C}[seed%3]
	r := &randomDuo{
		duo: newDuo(t, lab, duoOptions{mayBreak: true, protocol: p}),
		rng: rand.New(rand.NewPCG(seed, 0)),
	}
	r.connect()
	r.model = r.nodeContent(0)
	for i := range rounds {
		r.ctx = labContext(t)
		r.round(i)
	}
}

// randomDuo is a duo with a model of the data.
type randomDuo struct {
	*duo
	rng   *rand.Rand
	model []byte
}

// round promotes a side, writes on it connected and not, and compares.
func (r *randomDuo) round(i int) {
	kernel := r.rng.IntN(2) == 1
	r.t.Logf("round %d: kernel is Primary: %v", i, kernel)
	if kernel {
		require.NoError(r.t, r.kernel.Primary(r.ctx))
	} else {
		require.NoError(r.t, r.node.Promote(r.ctx))
	}
	for range 1 + r.rng.IntN(3) {
		var wg sync.WaitGroup
		r.write(kernel, 1+r.rng.IntN(8), &wg) // goes on during the cut
		if r.rng.IntN(2) == 0 {
			wg.Wait()
		}
		r.cut()
		wg.Wait()
		if r.rng.IntN(3) > 0 {
			r.write(kernel, 1+r.rng.IntN(8), &wg)
			wg.Wait()
		}
		r.reconnect()
		r.write(kernel, r.rng.IntN(8), &wg) // during the resync
		wg.Wait()
	}
	r.waitSync()
	if kernel {
		require.NoError(r.t, r.kernel.Secondary(r.ctx))
	} else {
		require.NoError(r.t, r.node.Demote(r.ctx))
	}
	r.waitNode(func(st replica.VolumeStatus) bool { return st.State.Peer == protocol.Secondary })
	r.waitQuiet()
	r.requireBoth(r.model)
}

// write begins n writes on one side, to places that do not overlap.
func (r *randomDuo) write(kernel bool, n int, wg *sync.WaitGroup) {
	type piece struct{ off, from, size int64 }
	var list []piece
	slot := int64(len(r.model)) / 512 / int64(n+1) * 512
	for i := range int64(n) {
		size := min(int64(1+r.rng.IntN(1<<r.rng.IntN(11)))*512, slot)
		p := piece{i*slot + r.rng.Int64N((slot-size)/512+1)*512, r.rng.Int64N((labPatternBytes-size)/512) * 512, size}
		copy(r.model[p.off:p.off+p.size], r.lab.pattern[p.from:])
		list = append(list, p)
	}
	if kernel {
		wg.Go(func() {
			for _, p := range list {
				if err := r.lab.guest.Copy(r.ctx, "/dev/drbd0", p.off, "/dev/vdc", p.from, p.size, p.size); err != nil {
					r.t.Errorf("write on the kernel: %v", err)
				}
			}
		})
		return
	}
	for _, p := range list {
		wg.Go(func() {
			if _, err := r.vol().WriteAtContext(r.ctx, r.lab.pattern[p.from:p.from+p.size], p.off); err != nil {
				r.t.Errorf("write on the node: %v", err)
			}
		})
	}
}

// cut ends the connection in one of four ways.
func (r *randomDuo) cut() {
	switch r.rng.IntN(4) {
	case 0:
		require.NoError(r.t, r.node.Disconnect(r.ctx))
	case 1:
		require.NoError(r.t, r.kernel.Disconnect(r.ctx, r.port))
	case 2:
		require.NoError(r.t, r.node.Disconnect(r.ctx, replica.Force()))
	default:
		require.NoError(r.t, r.kernel.Disconnect(r.ctx, r.port, "--force"))
	}
	r.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn <= protocol.WFConnection })
	r.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" || m.Conn == "StandAlone" })
}
