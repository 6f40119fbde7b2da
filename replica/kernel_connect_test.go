// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/stretchr/testify/require"
)

// kernelConnect: connections that either side ends, ten times each. Who asks ends
// StandAlone, the other one goes on looking.
func kernelConnect(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	for range 10 {
		d.ctx = labContext(t)
		d.waitKernelState("Connected Secondary/Secondary UpToDate/UpToDate")
		d.waitNodeState("Connected Secondary/Secondary UpToDate/UpToDate")
		require.EqualValues(t, 101, d.node.Status().Peers[0].Version)
		require.NoError(t, d.node.Disconnect(d.ctx))
		require.Equal(t, protocol.StandAlone, d.status(0).State.Conn)
		d.waitKernelState("WFConnection Secondary/Unknown UpToDate/DUnknown")
		d.connectNode()
		d.waitConnected()
		require.NoError(t, d.kernel.Disconnect(d.ctx, d.port))
		d.waitKernelState("StandAlone Secondary/Unknown UpToDate/DUnknown")
		d.waitNodeState("WFConnection Secondary/Unknown UpToDate/DUnknown")
		d.connectKernel()
		d.waitConnected()
	}
	require.NoError(t, d.kernel.Disconnect(d.ctx, d.port))
	require.NoError(t, d.node.Disconnect(d.ctx))
}
