// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// dualDuo is a connected pair of two Primaries.
func dualDuo(t *testing.T, lab *kernelLab, mayBreak bool) *duo {
	d := newDuo(t, lab, duoOptions{mayBreak: mayBreak, net: []string{"--allow-two-primaries"},
		config: func(cfg *replica.Config) { cfg.Peers[0].AllowTwoPrimaries = true }})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx))
	require.NoError(t, d.kernel.Primary(d.ctx))
	d.waitKernelState("Connected Primary/Primary UpToDate/UpToDate")
	d.waitNodeState("Connected Primary/Primary UpToDate/UpToDate")
	return d
}

// kernelTwoPrimaries: both sides write at one time.
func kernelTwoPrimaries(t *testing.T, lab *kernelLab) {
	t.Run("apart", func(t *testing.T) {
		d := dualDuo(t, lab, false)
		model := d.nodeContent(0)
		var wg sync.WaitGroup
		wg.Go(func() { // the kernel in odd, the node in even places of 8 KiB
			_, err := lab.guest.Run(d.ctx, "i=0; while [ $i -lt 128 ]; do dd if=/dev/vdc of=/dev/drbd0 bs=4096 count=1 skip=$i seek=$(( 2 * i + 1 )) oflag=direct conv=notrunc status=none || exit 1; i=$((i+1)); done")
			if err != nil {
				t.Errorf("the kernel's writes: %v", err)
			}
		})
		for i := range int64(128) {
			copy(model[(2*i+1)*4096:], lab.pattern[i*4096:(i+1)*4096])
		}
		for w := range int64(4) {
			wg.Go(func() {
				for i := w; i < 128; i += 4 {
					d.nodeWrite(0, 2*i*4096, (512+i)*4096, 4096)
				}
			})
		}
		for i := range int64(128) {
			copy(model[2*i*4096:], lab.pattern[(512+i)*4096:(513+i)*4096])
		}
		wg.Wait()
		d.waitQuiet()
		d.requireBoth(model)
		require.NoError(t, d.node.Demote(d.ctx))
		require.NoError(t, d.kernel.Secondary(d.ctx))
		d.requireUUIDsAgree()
	})
	t.Run("the same blocks", func(t *testing.T) {
		d := dualDuo(t, lab, false)
		var wg sync.WaitGroup
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			_, err := lab.guest.Run(d.ctx, "i=0; while [ $i -lt 24 ]; do dd if=/dev/vdc of=/dev/drbd0 bs=$(( (1 + i % 4) * 2048 )) count=8 skip=$i oflag=direct conv=notrunc status=none || exit 1; i=$((i+1)); done")
			if err != nil {
				t.Errorf("the kernel's writes: %v", err)
			}
		})
		for w := range int64(2) {
			wg.Go(func() {
				for i := int64(0); ; i = (i + 1) % 256 {
					select {
					case <-done:
						return
					default:
						d.nodeWrite(0, (i*3+w)%8*4096, (256+i)*4096, 3*4096)
					}
				}
			})
		}
		wg.Wait()
		concurrent := 0
		for _, line := range d.kernelLog() {
			if strings.Contains(line, "Concurrent writes") {
				concurrent++
			}
		}
		t.Logf("the kernel saw %d concurrent writes", concurrent)
		d.waitQuiet()
		d.requireSame() // whoever was last, it was the same on both
		require.NoError(t, d.node.Demote(d.ctx))
		require.NoError(t, d.kernel.Secondary(d.ctx))
	})
	t.Run("parted", func(t *testing.T) {
		d := dualDuo(t, lab, true)
		require.NoError(t, d.kernel.Disconnect(d.ctx, d.port, "--force"))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == protocol.WFConnection })
		d.nodeWrite(0, 1<<20, 0, 4096)
		d.kernelWrite(0, 2<<20, 0, 2*4096, 4096)
		want := d.nodeContent(0)
		d.connectKernel()
		require.ErrorIs(t, d.node.WaitConnected(d.ctx), replica.ErrSplitBrain)
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "StandAlone" })
		d.requireSameVerdicts()
		require.NoError(t, d.kernel.Secondary(d.ctx))
		d.connectKernel("--discard-my-data")
		d.connectNode()
		d.waitConnected()
		d.waitSync()
		d.requireBoth(want)
		require.NoError(t, d.kernel.Primary(d.ctx)) // and both are Primary again
		d.waitNodeState("Connected Primary/Primary UpToDate/UpToDate")
	})
	t.Run("one side does not allow it", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true, mayComplain: true, net: []string{"--allow-two-primaries"}})
		d.connectKernel()
		d.connectNode()
		require.ErrorIs(t, d.node.WaitConnected(d.ctx), replica.ErrIncompatible)
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "StandAlone" })
	})
}
