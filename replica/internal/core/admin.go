// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Invalidate makes this node the target of a full resync (spec: behaviour 6.7).
func (c *Core) Invalidate(cmd *Command, vol int) {
	v := c.vols[vol]
	pd := v.pds[0]
	defer c.settle()
	if pd.conn == protocol.StandAlone && v.role == protocol.Secondary && v.hasDisk() {
		v.setAllOutOfSync(pd)
		c.change(pd, wish, func(s *protocol.State) { s.Disk = protocol.Inconsistent })
		v.syncSuper(func(err error) { c.finish(cmd, err) })
		return
	}
	c.fullSync(cmd, pd, protocol.StartingSyncT, "invalidate")
}

// InvalidateRemote makes the peer the target of a full resync.
func (c *Core) InvalidateRemote(cmd *Command, vol int) {
	v := c.vols[vol]
	pd := v.pds[0]
	defer c.settle()
	if pd.conn == protocol.StandAlone && v.role == protocol.Primary && v.hasDisk() {
		v.setAllOutOfSync(pd)
		c.change(pd, wish, func(s *protocol.State) { s.PeerDisk = protocol.Inconsistent })
		v.syncSuper(func(err error) { c.finish(cmd, err) })
		return
	}
	c.fullSync(cmd, pd, protocol.StartingSyncS, "invalidate-remote")
}

// fullSync asks the peer for a full resync by command.
func (c *Core) fullSync(cmd *Command, pd *peerDevice, conn protocol.ConnState, doing string) {
	if pd.conn < protocol.Connected {
		c.finish(cmd, refused(doing, protocol.CodeNeedConnection, false))
		return
	}
	req := protocol.StateRequest{}.WithConn(conn)
	allowed := func() protocol.Code { return c.allowed(pd, func(s *protocol.State) { *s = req.Apply(*s) }) }
	c.patiently(cmd, allowed, func(code protocol.Code) {
		if !code.Success() {
			c.finish(cmd, refused(doing, code, false))
			return
		}
		pd.cluster(req, func(code protocol.Code) {
			switch {
			case code == protocol.CodeKeepWaiting:
				c.finish(cmd, fmt.Errorf("%s: %w", doing, ErrConnectionLost))
			case !code.Success():
				c.finish(cmd, refused(doing, code, true))
			default:
				c.finish(cmd, nil)
			}
		})
	})
}

// NewCurrentUUID starts a new data generation (StandAlone), or with clearBitmap
// on a fresh connected pair skips the initial sync (spec: behaviour 3.4).
func (c *Core) NewCurrentUUID(cmd *Command, vol int, clearBitmap bool) {
	v := c.vols[vol]
	pd := v.pds[0]
	defer c.settle()
	random := metadata.UUID(c.cfg.Rand())
	primary := v.role == protocol.Primary
	switch {
	case !v.hasDisk():
		c.finish(cmd, fmt.Errorf("new-current-uuid: %w", ErrDiskless))
	case pd.conn == protocol.StandAlone:
		v.setIDs(v.ids.NewCurrentCommand(random, primary))
		if clearBitmap {
			pd.bm.ClearAll()
		}
		v.writeBitmap(nil, func(error) {
			v.md.dirty = true
			v.syncSuper(func(err error) { c.finish(cmd, err) })
		})
	case pd.conn == protocol.Connected && clearBitmap && v.ids.IsJustCreated() && pd.p.session.Version >= 90:
		v.skipInitialSync(pd, func(err error) { c.finish(cmd, err) })
		v.setIDs(v.ids.SkipInitialSync(random, primary))
		pd.sendUUIDs(protocol.UUIDSkipInitialSync)
		v.setIDs(v.ids.DropBitmap())
		pd.ids, pd.skipped = v.ids, true
		c.change(pd, fact, func(s *protocol.State) { s.Disk, s.PeerDisk = protocol.UpToDate, protocol.UpToDate })
	default:
		c.finish(cmd, fmt.Errorf("new-current-uuid: %w, or connect two nodes with fresh metadata to skip their initial sync", ErrConnected))
	}
}

// Outdate marks the own disk Outdated; it has an effect only while not connected.
func (c *Core) Outdate(cmd *Command, vol int) {
	v := c.vols[vol]
	defer c.settle()
	outdate := func() protocol.Code {
		return c.change(v.pds[0], wish, func(s *protocol.State) { s.Disk = protocol.Outdated })
	}
	c.patiently(cmd, outdate, func(code protocol.Code) {
		if !code.Success() {
			c.finish(cmd, refused("outdate", code, false))
			return
		}
		v.syncSuper(func(err error) { c.finish(cmd, err) })
	})
}

// PauseSync pauses or resumes the resync of a volume by the administrator.
func (c *Core) PauseSync(cmd *Command, vol int, on bool) {
	pd := c.vols[vol].pds[0]
	defer c.settle()
	if err := pd.pauseRefusal(on); err != nil {
		c.finish(cmd, err)
		return
	}
	set := func() protocol.Code {
		return c.change(pd, wish, func(s *protocol.State) { s.UserISP = on })
	}
	c.patiently(cmd, set, func(code protocol.Code) {
		if !code.Success() {
			c.finish(cmd, refused("pause or resume the resync", code, false))
			return
		}
		c.finish(cmd, nil)
	})
}

// Shutdown ends the resource in order: demote, disconnect, detach every disk with
// clean metadata. The shell bounds the wait; if that passes it drops the core.
func (c *Core) Shutdown(cmd *Command) {
	c.closing = true
	c.failSuspended(ErrClosed) // nobody will resume it
	step := &Command{internal: true}
	c.Demote(step)
	c.when(func() bool { return step.finished || cmd.finished }, func() {
		if cmd.finished {
			return
		}
		if step.Err != nil {
			c.finish(cmd, step.Err)
			return
		}
		c.shutdownConnections(cmd)
	})
	c.settle()
}

func (c *Core) shutdownConnections(cmd *Command) {
	steps := make([]*Command, len(c.peers))
	for i := range c.peers {
		steps[i] = &Command{internal: true}
		c.Disconnect(steps[i], i, false)
	}
	c.when(func() bool { return allFinished(steps) || cmd.finished }, func() {
		if !cmd.finished {
			c.shutdownDisks(cmd)
		}
	})
}

func (c *Core) shutdownDisks(cmd *Command) {
	steps := make([]*Command, len(c.vols))
	for i := range c.vols {
		steps[i] = &Command{internal: true}
		c.Detach(steps[i], i, false)
	}
	c.when(func() bool { return allFinished(steps) || cmd.finished }, func() {
		for _, v := range c.vols {
			v.failHeld(ErrClosed)
		}
		for _, s := range steps {
			if s.Err != nil {
				c.finish(cmd, s.Err)
			}
		}
		c.finish(cmd, nil)
	})
}

func allFinished(cmds []*Command) bool {
	for _, s := range cmds {
		if !s.finished {
			return false
		}
	}
	return true
}
