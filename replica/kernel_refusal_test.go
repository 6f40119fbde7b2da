// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelAuthentication: the right secret connects, a wrong one makes the sides StandAlone.
func kernelAuthentication(t *testing.T, lab *kernelLab) {
	secret := func(s string) func(*replica.Config) {
		return func(cfg *replica.Config) { cfg.Peers[0].CRAMAlg, cfg.Peers[0].Secret = "sha256", s }
	}
	t.Run("right", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{config: secret("sesame"), net: []string{"--cram-hmac-alg=sha256", "--shared-secret=sesame"}})
		d.connect()
		d.exchange()
	})
	t.Run("wrong", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true, config: secret("sesame"), net: []string{"--cram-hmac-alg=sha256", "--shared-secret=thyme"}})
		d.connectKernel()
		d.connectNode()
		err := d.node.WaitConnected(d.ctx)
		require.ErrorIs(t, err, replica.ErrAuthentication)
		require.ErrorIs(t, err, replica.ErrStandAlone)
		d.waitKernelState("StandAlone Secondary/Unknown UpToDate/DUnknown")
		require.Contains(t, strings.Join(d.kernelLog(), "\n"), "Authentication of peer failed")
	})
	t.Run("only here", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true, mayComplain: true, config: secret("sesame")})
		d.connectKernel()
		d.connectNode()
		err := d.node.WaitConnected(d.ctx)
		require.ErrorIs(t, err, replica.ErrAuthentication)
		require.ErrorIs(t, err, replica.ErrStandAlone)
	})
	t.Run("only there", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true, net: []string{"--cram-hmac-alg=sha256", "--shared-secret=sesame"}})
		d.connectKernel()
		d.connectNode()
		d.waitKernelState("StandAlone Secondary/Unknown UpToDate/DUnknown")
	})
}

// kernelNetOptions: the kernel's administrator changes the protocol while connected.
func kernelNetOptions(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	for _, p := range []string{"A", "B", "C"} {
		_, err := lab.guest.Run(d.ctx, fmt.Sprintf("drbdsetup-84 net-options 10.0.2.15:%d 10.0.2.2:%d --protocol=%s", d.kernel.Port, d.port, p))
		require.NoError(t, err)
		d.exchange()
		require.Equal(t, p, d.status(0).Protocol.String())
	}
}
