// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Repair copies what is marked out of sync on a connected, UpToDate pair, as an online
// verify leaves it, from this node to the peer; it finishes when the resync has begun,
// or at once if nothing is marked. DRBD has no such command: there the administrator
// disconnects and connects, and with two Secondaries even that copies nothing (spec:
// behaviour 6.8). Here the source begins a new data generation whose base is the
// present one, and announces that it waits for a bitmap: any peer then comes to the
// verdict "target, by bitmap" (spec: wire 7, rules 50 and 70).
//
// Errors: ErrRefused if the peer is Primary: its users have seen its copy, so it has to
// be the source.
func (c *Core) Repair(cmd *Command, vol int) {
	v := c.vols[vol]
	pd := v.pds[0]
	defer c.settle()
	may := func() protocol.Code {
		switch {
		case pd.conn < protocol.Connected:
			return protocol.CodeNeedConnection
		case pd.conn > protocol.Connected:
			return protocol.CodeResyncRunning
		case v.disk != protocol.UpToDate || pd.disk != protocol.UpToDate || !pd.idsValid:
			return protocol.CodeNoUpToDateDisk
		}
		return protocol.CodeSuccess
	}
	c.patiently(cmd, may, func(code protocol.Code) {
		switch {
		case !code.Success():
			c.finish(cmd, refused("repair", code, false))
		case pd.role == protocol.Primary:
			c.finish(cmd, fmt.Errorf("repair: %w: the peer is Primary; repair from there, or disconnect and connect", ErrRefused))
		case pd.oosBlocks() == 0:
			c.finish(cmd, nil)
		default:
			pd.feedMarked()
			c.finish(cmd, nil)
		}
	})
}

// feedMarked makes this node the source of what is marked.
func (pd *peerDevice) feedMarked() {
	v, c := pd.v, pd.v.c
	v.setIDs(v.ids.NewCurrentCommand(metadata.UUID(c.cfg.Rand()), v.role == protocol.Primary))
	v.gateSuper()
	pd.sendUUIDs(0)
	nested := c.settling
	c.settling = true // the state goes out before the bitmap that follows from it
	c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.WFBitMapS })
	pd.sendState()
	c.settling = nested
	c.drain()
}
