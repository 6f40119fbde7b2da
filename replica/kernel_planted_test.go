// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// putKernel writes to the kernel's disk behind its back.
func (d *duo) putKernel(volume int, data []byte, off int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.lab.disks[d.opts.at+volume], os.O_WRONLY, 0)
	require.NoError(d.t, err)
	_, err = f.WriteAt(data, off)
	require.NoError(d.t, err)
	require.NoError(d.t, f.Close())
}

// kernelVerifyPlanted: a verify that either side starts finds what was planted, and nothing else;
// both sides mark it, and what is marked is copied at the next handshake.
func kernelVerifyPlanted(t *testing.T, lab *kernelLab) {
	lab.part(t, nodeActs, "node md5", func(t *testing.T) { verifyPlanted(t, lab, "node", "md5") })
	lab.part(t, kernelActs, "kernel sha256", func(t *testing.T) { verifyPlanted(t, lab, "kernel", "sha256") })
	lab.part(t, nodeActs, "different algorithms", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true, mayComplain: true,
			config: func(cfg *replica.Config) { cfg.Peers[0].VerifyAlg = "md5" },
			net:    []string{"--verify-alg=sha1"},
		})
		d.connectKernel()
		d.connectNode()
		require.ErrorIs(t, d.node.WaitConnected(d.ctx), replica.ErrIncompatible)
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "StandAlone" || m.Conn == "WFConnection" })
	})
}

func verifyPlanted(t *testing.T, lab *kernelLab, side, alg string) {
	d := newDuo(t, lab, duoOptions{
		config: func(cfg *replica.Config) { cfg.Peers[0].VerifyAlg = alg },
		net:    []string{"--verify-alg=" + alg},
	})
	d.connect()
	require.NoError(t, d.node.Promote(d.ctx)) // a Primary's data counts when they meet again
	d.nodeWrite(0, 2<<20, 0, 1<<20)
	d.waitQuiet()
	// One block alone, two side by side, half a block, and the last one.
	last := d.vol().Size() - 4096
	d.put(0, lab.pattern[8192:12288], 5<<20)
	d.put(0, lab.pattern[8192:16384], 9<<20)
	d.putKernel(0, lab.pattern[512:1024], 13<<20+512)
	d.put(0, lab.pattern[:4096], last)
	planted := d.differingBlocks()
	require.Len(t, planted, 5)
	mark, err := lab.guest.Mark(d.ctx)
	require.NoError(t, err)
	if side == "node" {
		report, err := d.vol().Verify(d.ctx)
		require.NoError(t, err)
		require.True(t, report.Complete)
		require.EqualValues(t, 5*4096, report.Different)
		found := map[int]bool{}
		for _, r := range report.Ranges {
			for off := r.Off; off < r.Off+r.Len; off += 4096 {
				found[int(off/4096)] = true
			}
		}
		require.Equal(t, planted, found)
	} else {
		_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "verify")
		require.NoError(t, err)
		line, _, err := lab.guest.WaitLog(d.ctx, mark, regexp.MustCompile(`Online verify done`))
		require.NoError(t, err)
		t.Log(line)
		var history string
		d.waitNode(func(replica.VolumeStatus) bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			history = strings.Join(d.history, "\n")
			return strings.Contains(history, "KiB done, ")
		})
		require.Contains(t, history, fmt.Sprintf("verify of %d KiB done, 20 KiB differ", d.vol().Size()>>10))
	}
	// Both sides have marked the same, and copied nothing.
	m := d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "Connected" && m.OutOfSync() == 5*4096 })
	require.Equal(t, "Connected Secondary/Primary UpToDate/UpToDate", m.State())
	require.EqualValues(t, 5*4096, d.status(0).OutOfSync)
	require.Equal(t, planted, d.differingBlocks())
	d.requireNoResync()

	want := d.nodeContent(0)
	d.disconnect(false)
	d.reconnect()
	d.waitSync()
	require.Equal(t, 5, d.lastKernelResync())
	d.requireBoth(want)
	require.NoError(t, d.node.Demote(d.ctx))
}
