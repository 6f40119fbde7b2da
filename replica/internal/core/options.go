// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Options that change while the resource runs (spec: behaviour 10.5). What concerns
// the peer travels to it, and it adopts that without comparing: P_PROTOCOL_UPDATE
// (from version 100), P_SYNC_PARAM.

// Net returns the options of the connection in force: as configured, or as adopted
// from the peer.
func (c *Core) Net() NetOptions { return c.cfg.Net }

// Volume returns the options of a volume in force.
func (c *Core) Volume(vol int) VolumeConfig { return c.vols[vol].cfg }

// SetNet changes the options of the connection. Errors: ErrConfig; ErrRefused if the
// peer's protocol version is too old to be told.
func (c *Core) SetNet(cmd *Command, n NetOptions) {
	defer c.settle()
	next := c.cfg
	n.MaxVersion, n.WithoutFeatures = c.cfg.Net.MaxVersion, c.cfg.Net.WithoutFeatures
	n.weakAdopted = c.cfg.Net.weakAdopted && n.CSumsAlg == c.cfg.Net.CSumsAlg
	next.Net = n
	next = next.withDefaults()
	if err := next.check(); err != nil {
		c.finish(cmd, err)
		return
	}
	// Until the peer's P_PROTOCOL is here it is to be compared with what was sent.
	p := c.peers[0]
	c.when(func() bool { return p.phase != phaseUp || p.gotProto || cmd.finished }, func() {
		if !cmd.finished {
			c.finish(cmd, p.setNet(next.Net))
		}
	})
}

// setNet puts checked options into force.
func (p *peer) setNet(n NetOptions) error {
	c := p.c
	old := &c.cfg.Net
	tell := n.Protocol != p.protocol || n.IntegrityAlg != p.digest.Name() || n.AllowTwoPrimary != old.AllowTwoPrimary ||
		n.AfterSB0 != old.AfterSB0 || n.AfterSB1 != old.AfterSB1 || n.AfterSB2 != old.AfterSB2
	if tell && p.phase == phaseUp && !p.session.CanSend(protocol.CmdProtocolUpdate) {
		return fmt.Errorf("%w: the peer speaks protocol version %d and cannot be told, which needs 100 (163); disconnect first", ErrRefused, p.session.Version)
	}
	for _, pd := range p.pds {
		if !n.AllowTwoPrimary && pd.v.role == protocol.Primary && pd.role == protocol.Primary {
			return fmt.Errorf("%w: both nodes are Primary (164); demote one before you forbid it", ErrRefused)
		}
	}
	if err := p.algorithmsInUse(&n); err != nil {
		return err
	}
	c.cfg.Net = n
	if p.phase == phaseConnecting || p.phase == phaseNone || p.phase == phaseClosing {
		return nil // Connected takes over what is configured then
	}
	algorithms := n.VerifyAlg != p.verifyAlg.Name() || n.CSumsAlg != p.csumsAlg.Name()
	p.verifyAlg, _ = protocol.LookupDigest(n.VerifyAlg)
	p.csumsAlg, _ = protocol.LookupDigest(n.CSumsAlg)
	if p.phase == phaseUp && tell {
		send(p, protocol.DataStream, protocol.CmdProtocolUpdate, 0, p.ownProtocol())
	}
	if p.phase == phaseUp && (tell || algorithms) {
		for _, pd := range p.pds {
			pd.sendSyncParam()
		}
	}
	if p.phase == phaseUp && !p.pinging {
		p.pingTimer.arm(c.now + n.PingInterval)
	}
	p.protocol = n.Protocol
	p.digest, _ = protocol.LookupDigest(n.IntegrityAlg) // of the next packet on
	for _, pd := range p.pds {
		pd.pump() // there may be more room for requests
	}
	return nil
}

// algorithmsInUse refuses another verify-alg or csums-alg in the middle of a verify or a
// resync (spec: behaviour 10.5).
func (p *peer) algorithmsInUse(n *NetOptions) error {
	for _, pd := range p.pds {
		switch {
		case n.VerifyAlg != p.verifyAlg.Name() && verifies(pd.conn):
			return fmt.Errorf("%w: a verify is running (149); change verify-alg when it is done", ErrRefused)
		case n.CSumsAlg != p.csumsAlg.Name() && pd.conn > protocol.Connected && !verifies(pd.conn):
			return fmt.Errorf("%w: a resync is running (148); change csums-alg when it is done", ErrRefused)
		}
	}
	return nil
}

// SetVolume changes the options of a volume. What names the volume and its disk, and
// its size, stay. It finishes when they are in force; a change of al-extents waits
// until no write is in flight. Errors: ErrConfig.
func (c *Core) SetVolume(cmd *Command, vol int, n VolumeConfig) {
	defer c.settle()
	v := c.vols[vol]
	n.Number, n.Minor, n.UserSize, n.AssumeClean = v.cfg.Number, v.cfg.Minor, v.cfg.UserSize, v.cfg.AssumeClean
	next := c.cfg
	next.Volumes = append([]VolumeConfig(nil), c.cfg.Volumes...)
	next.Volumes[vol] = n
	next = next.withDefaults()
	if err := next.check(); err != nil {
		c.finish(cmd, err)
		return
	}
	n = next.Volumes[vol]
	if n.ALExtents == v.cfg.ALExtents && n.NoALUpdates == v.cfg.NoALUpdates || v.al.log == nil {
		v.setOptions(n)
		c.finish(cmd, nil)
		return
	}
	v.freezing++
	for _, p := range c.peers {
		p.closeEpoch()
	}
	logged := n.NoALUpdates == v.cfg.NoALUpdates
	idle := func() bool {
		if !logged && (v.appPending+v.localPending > 0 || c.peers[0].tx.first != nil) {
			return false // writes that are not in the log, or soon will not be
		}
		return v.al.log == nil || v.al.log.Referenced()+v.al.log.Pending()+len(v.al.waiting) == 0 && !v.al.writing
	}
	c.when(func() bool { return idle() || cmd.finished }, func() {
		if !cmd.finished {
			v.setOptions(n)
			if v.al.log != nil {
				v.resizeAL(cmd)
			} else {
				c.finish(cmd, nil)
			}
		}
		v.freezing--
		v.admitHeld()
	})
}

// resizeAL changes the number of slots of an idle activity log, which forgets what
// was in them. On disk the extents leave the ring with the transactions to come, without
// anybody looking: so their data and their marks are durable before the first one.
func (v *volume) resizeAL(cmd *Command) {
	if err := v.al.log.Resize(v.alExtents()); err != nil {
		v.c.finish(cmd, fmt.Errorf("%w: al-extents: %w", ErrInUse, err))
		return
	}
	v.sb.ALExtents = uint32(v.al.log.Extents())
	v.gates++
	done := func(err error) {
		v.gates--
		v.c.finish(cmd, err)
		v.gateOpened()
	}
	v.flushData(func(err error) {
		if err != nil {
			done(err)
			return
		}
		v.writeBitmap(nil, func(err error) {
			if err != nil {
				done(err)
				return
			}
			v.alFlag()
			v.syncSuper(done)
		})
	})
}

// setOptions puts checked options into force, and tells the peer of the speed.
func (v *volume) setOptions(n VolumeConfig) {
	o := v.cfg
	v.cfg = n
	v.c.cfg.Volumes[v.idx] = n
	speed := n.ResyncRate != o.ResyncRate || n.CPlanAhead != o.CPlanAhead || n.CDelay != o.CDelay ||
		n.CFill != o.CFill || n.CMaxRate != o.CMaxRate
	for _, pd := range v.pds {
		if speed && pd.p.phase == phaseUp {
			pd.sendSyncParam()
		}
		if pd.resync.running {
			pd.resync.limited = false
			pd.resync.nextStep = v.c.now // the new speed counts from now on
			pd.pump()
		}
	}
}
