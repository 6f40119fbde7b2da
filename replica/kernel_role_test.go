// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// kernelRoleSwitch: one Primary at a time; who asks while the other is Primary is
// refused, and both stay as they were.
func kernelRoleSwitch(t *testing.T, lab *kernelLab) {
	// A kernel that is refused waits for ping-timeout and asks again.
	d := newDuo(t, lab, duoOptions{net: []string{"--ping-timeout=20"}})
	d.connect()
	model := d.nodeContent(0)
	for round := range int64(2) {
		require.NoError(t, d.node.Promote(d.ctx))
		d.waitKernelState("Connected Secondary/Primary UpToDate/UpToDate")
		var exit *kerneldrbd.ExitError
		require.ErrorAs(t, d.kernel.Primary(d.ctx), &exit)
		require.Equal(t, 11, exit.Status)
		require.Contains(t, exit.Output, "Multiple primaries not allowed by config")
		d.nodeWrite(0, round*8192, 0, 4096)
		copy(model[round*8192:], lab.pattern[:4096])
		require.NoError(t, d.node.Demote(d.ctx))
		d.waitKernelState("Connected Secondary/Secondary UpToDate/UpToDate")

		require.NoError(t, d.kernel.Primary(d.ctx))
		d.waitNodeState("Connected Secondary/Primary UpToDate/UpToDate")
		err := d.node.Promote(d.ctx)
		require.ErrorIs(t, err, replica.ErrRefused)
		require.ErrorIs(t, err, protocol.CodeTwoPrimaries)
		d.kernelWrite(0, round*8192+4096, 4096, 4096, 4096)
		copy(model[round*8192+4096:], lab.pattern[4096:8192])
		require.NoError(t, d.kernel.Secondary(d.ctx))
		d.waitNodeState("Connected Secondary/Secondary UpToDate/UpToDate")
	}
	d.waitQuiet()
	d.requireBoth(model)
	d.requireUUIDsAgree()
	d.requireNoResync()
}
