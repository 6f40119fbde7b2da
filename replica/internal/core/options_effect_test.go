// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestMaxEpochSize: an epoch is closed when it has that many writes, although none of them
// has completed (spec: behaviour 5.6).
func TestMaxEpochSize(t *testing.T) {
	for _, most := range []int{1, 3, 2048} {
		d := newDual(t, true, 101)
		d.c.cfg.Net.MaxEpochSize = most
		for i := range int64(9) {
			d.own(i*8, i*8+8)
		}
		d.effects()
		inEpoch, barriers := 0, 0
		for _, p := range d.out {
			switch p.cmd {
			case protocol.CmdData:
				inEpoch++
				require.LessOrEqual(t, inEpoch, most)
			case protocol.CmdBarrier:
				require.Equal(t, most, inEpoch)
				inEpoch = 0
				barriers++
			}
		}
		require.Equal(t, (9-1)/most, barriers, "the last epoch is open")
	}
}

// TestWriteOrdering: with "flush" an epoch is acknowledged, and the next one begins, when the
// disk has flushed; with "drain" when all its writes are done. With neither before (spec:
// behaviour 5.6).
func TestWriteOrdering(t *testing.T) {
	for method, flushes := range map[byte]bool{'f': true, 'd': false} {
		d := newDual(t, true, 101)
		d.v.cfg.DiskFlushes = flushes
		require.Equal(t, method, d.c.Snapshot().Volumes[0].WO)
		d.write(0, 8)
		d.write(64, 72)
		d.barrier(1)
		d.write(128, 136)
		d.sent()
		ops := d.ops()
		require.Len(t, ops, 2, "the write of the next epoch waits")
		d.finish(ops[0])
		require.Empty(t, d.ops())
		d.finish(ops[1])
		if flushes {
			ops = d.ops()
			require.Len(t, ops, 1)
			require.Equal(t, OpFlush, ops[0].Kind)
			require.NotContains(t, d.sent(), protocol.CmdBarrierAck)
			d.finish(ops[0])
		}
		require.Contains(t, d.sent(), protocol.CmdBarrierAck)
		ops = d.ops()
		require.Len(t, ops, 1)
		require.Equal(t, OpWrite, ops[0].Kind)
		require.EqualValues(t, 128*512, ops[0].Off)
	}
}

// TestUnplugRemote: the hint is taken in every version, and nothing follows: no request
// waits here to be unplugged (spec: behaviour 10.1, "unplug-watermark").
func TestUnplugRemote(t *testing.T) {
	for _, version := range []protocol.Version{86, 95, 100, 101} {
		d := newDual(t, true, version)
		d.sent()
		d.c.Receive(0, 1, protocol.DataStream, protocol.Header{Command: protocol.CmdUnplugRemote}, nil, nil)
		require.Empty(t, d.sent(), version)
		require.Equal(t, protocol.Connected, d.pd.conn)
		io := d.own(0, 8)
		d.finishAll()
		require.NoError(t, io.Err)
	}
}
