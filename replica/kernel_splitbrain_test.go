// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// divergence is how two nodes became Primary while apart.
type divergence struct {
	kernelFirst bool // the kernel was Primary when the connection was lost
	// Blocks that each side wrote while apart.
	node, kernel int64
	// Who is still Primary at the end.
	nodeStays, kernelStays bool
}

const (
	divergeNodeAt   = 3 << 20
	divergeKernelAt = 9 << 20
)

// diverge makes a split brain: connected, then apart, each side Primary. It returns what
// each side has then.
func (d *duo) diverge(how divergence) (node, kernel []byte) {
	d.t.Helper()
	d.connect()
	if how.kernelFirst {
		require.NoError(d.t, d.kernel.Primary(d.ctx))
		d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Peer == protocol.Primary })
	} else {
		require.NoError(d.t, d.node.Promote(d.ctx))
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Peer == "Primary" })
	}
	require.NoError(d.t, d.kernel.Disconnect(d.ctx, d.port))
	require.NoError(d.t, d.node.Disconnect(d.ctx))
	d.waitNodeConn(protocol.StandAlone)
	if how.kernelFirst {
		require.NoError(d.t, d.node.Promote(d.ctx))
	} else {
		require.NoError(d.t, d.kernel.Primary(d.ctx))
	}
	if how.node > 0 {
		d.nodeWrite(0, divergeNodeAt, 0, how.node*4096)
	}
	if how.kernel > 0 {
		d.kernelWrite(0, divergeKernelAt, 1<<20, how.kernel*4096, 4096)
	}
	if !how.nodeStays {
		require.NoError(d.t, d.node.Demote(d.ctx))
	}
	if !how.kernelStays {
		require.NoError(d.t, d.kernel.Secondary(d.ctx))
	}
	return d.nodeContent(0), d.kernelContent(0)
}

func (d *duo) waitNodeConn(conn protocol.ConnState) {
	d.t.Helper()
	d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn == conn })
}

// requireSplitBrain waits until both sides have given up over a split brain.
func (d *duo) requireSplitBrain() {
	d.t.Helper()
	err := d.node.WaitConnected(d.ctx)
	require.ErrorIs(d.t, err, replica.ErrSplitBrain)
	require.ErrorIs(d.t, err, replica.ErrStandAlone)
	d.waitNodeConn(protocol.StandAlone)
	d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "StandAlone" })
	require.True(d.t, slices.ContainsFunc(d.kernelLog(), func(line string) bool {
		return strings.Contains(line, "Split-Brain detected but unresolved, dropping connection!")
	}))
	d.requireSameVerdicts()
}

// kernelSplitBrain: without a policy nobody loses data before a human has decided.
func kernelSplitBrain(t *testing.T, lab *kernelLab) {
	for _, test := range []struct {
		name string
		how  divergence
		// victim is who gives up its data in the end.
		victimIsNode bool
	}{
		{"node gives up", divergence{node: 3, kernel: 2}, true},
		{"kernel gives up", divergence{node: 3, kernel: 2}, false},
		{"kernel is Primary, node gives up", divergence{node: 3, kernel: 2, kernelStays: true, kernelFirst: true}, true},
		{"node is Primary, kernel gives up", divergence{node: 3, kernel: 2, nodeStays: true, kernelFirst: true}, false},
	} {
		dir := nodeActs // whose data is copied in the end
		if test.victimIsNode {
			dir = kernelActs
		}
		lab.part(t, dir, test.name, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true})
			node, kernel := d.diverge(test.how)
			require.Len(t, d.differingBlocks(), int(test.how.node+test.how.kernel))
			d.connectKernel()
			d.connectNode()
			d.requireSplitBrain()
			require.Equal(t, node, d.nodeContent(0), "nothing was decided")
			require.Equal(t, kernel, d.kernelContent(0), "nothing was decided")
			want := node
			if test.victimIsNode {
				want = kernel
				d.connectKernel()
				d.connectNode(replica.DiscardMyData())
			} else {
				d.connectKernel("--discard-my-data")
				d.connectNode()
			}
			d.waitConnected()
			d.waitSync()
			d.requireBoth(want)
			require.EqualValues(t, test.how.node+test.how.kernel, d.lastKernelResync())
			d.requireSameVerdicts()
		})
	}
	lab.part(t, nodeActs, "both give up", func(t *testing.T) {
		d := newDuo(t, lab, duoOptions{mayBreak: true})
		node, kernel := d.diverge(divergence{node: 1, kernel: 1})
		d.connectKernel("--discard-my-data")
		d.connectNode(replica.DiscardMyData())
		d.waitNodeConn(protocol.StandAlone)
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "StandAlone" })
		require.Equal(t, node, d.nodeContent(0))
		require.Equal(t, kernel, d.kernelContent(0))
	})
}

// kernelSplitBrainPolicies: the policies that both sides have must choose the same victim.
func kernelSplitBrainPolicies(t *testing.T, lab *kernelLab) {
	const node, kernel, nobody = nodeActs, kernelActs, bothAct
	for _, test := range []struct {
		name   string
		zero   protocol.Policy // after-sb-0pri
		one    protocol.Policy // after-sb-1pri
		how    divergence
		winner kernelDirection
	}{
		{"least changes, node", protocol.PolicyDiscardLeastChanges, 0, divergence{node: 3, kernel: 2}, node},
		{"least changes, kernel", protocol.PolicyDiscardLeastChanges, 0, divergence{node: 2, kernel: 3}, kernel},
		{"zero changes, node", protocol.PolicyDiscardZeroChanges, 0, divergence{node: 2, kernelFirst: true}, node},
		{"zero changes, kernel", protocol.PolicyDiscardZeroChanges, 0, divergence{kernel: 2}, kernel},
		{"zero changes, both have some", protocol.PolicyDiscardZeroChanges, 0, divergence{node: 1, kernel: 1}, nobody},
		{"younger primary, node", protocol.PolicyDiscardYoungerPrimary, 0, divergence{node: 2, kernel: 3}, node},
		{"younger primary, kernel", protocol.PolicyDiscardYoungerPrimary, 0, divergence{node: 3, kernel: 2, kernelFirst: true}, kernel},
		{"older primary, kernel", protocol.PolicyDiscardOlderPrimary, 0, divergence{node: 3, kernel: 2}, kernel},
		{"discard secondary, node", 0, protocol.PolicyDiscardSecondary, divergence{node: 1, kernel: 2, nodeStays: true}, node},
		{"discard secondary, kernel", 0, protocol.PolicyDiscardSecondary, divergence{node: 2, kernel: 1, kernelStays: true}, kernel},
		{"consensus", protocol.PolicyDiscardLeastChanges, protocol.PolicyConsensus, divergence{node: 2, kernel: 1, nodeStays: true}, node},
		{"no consensus", protocol.PolicyDiscardLeastChanges, protocol.PolicyConsensus, divergence{node: 1, kernel: 2, nodeStays: true}, nobody},
	} {
		dir := test.winner
		if dir == nobody {
			dir = nodeActs
		}
		lab.part(t, dir, test.name, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true,
				net: []string{"--after-sb-0pri=" + test.zero.String(), "--after-sb-1pri=" + test.one.String()},
				config: func(cfg *replica.Config) {
					cfg.Peers[0].AfterSB0Pri, cfg.Peers[0].AfterSB1Pri = test.zero, test.one
				},
			})
			nodeHas, kernelHas := d.diverge(test.how)
			d.connectKernel()
			d.connectNode()
			if test.winner == nobody {
				d.requireSplitBrain()
				require.Equal(t, nodeHas, d.nodeContent(0))
				require.Equal(t, kernelHas, d.kernelContent(0))
				return
			}
			d.waitConnected()
			d.waitSync()
			if test.winner == node {
				d.requireBoth(nodeHas)
			} else {
				d.requireBoth(kernelHas)
			}
			require.EqualValues(t, test.how.node+test.how.kernel, d.lastKernelResync())
			d.requireSameVerdicts()
		})
	}
}
