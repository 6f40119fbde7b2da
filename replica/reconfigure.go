// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// ChangePeer changes options of the connection while the resource runs, as
// "drbdsetup net-options" does (spec: behaviour 10.5). change gets the options in
// force and edits them. It must not call the resource.
//
// Protocol, IntegrityAlg, AllowTwoPrimaries and AfterSB0Pri to AfterSB2Pri concern both
// nodes: the peer is told, and adopts them, for this and later connections until it is opened again
// with its own. Writes that are under way complete as they began. A connected peer
// with a protocol version below 100 cannot be told: ErrRefused.
//
// So is it with VerifyAlg and CSumsAlg, from version 88 and 89 on, but not while a verify
// or a resync is running: ErrRefused.
//
// Everything else counts for this node. CRAMAlg and Secret are used by the next
// connection; so are Timeout and KoCount for sends that make no progress (for
// requests without an answer they count at once) and MaxBuffers for the memory of what is
// received. Name, Transport and MaxVersion cannot be changed. Errors: ErrConfig, and
// then nothing has changed; ErrRefused; ErrClosed.
func (r *Resource) ChangePeer(ctx context.Context, change func(*PeerConfig)) error {
	const doing = "change the connection's options"
	if len(r.cfg.Peers) == 0 {
		return r.explain(doing, fmt.Errorf("%w: no peer is configured", ErrConfig))
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	old := r.peerOptions()
	next := old
	change(&next)
	if next.Name != old.Name || next.Transport != old.Transport || next.MaxVersion != old.MaxVersion {
		return r.explain(doing, fmt.Errorf("%w: Name, Transport and MaxVersion cannot change while the resource is open", ErrConfig))
	}
	if err := next.validate(); err != nil {
		return r.explain(doing, err)
	}
	err := r.command(ctx, doing, func(c *core.Core, cmd *core.Command) { c.SetNet(cmd, coreNet(&next)) })
	if err == nil {
		r.mu.Lock()
		r.peer = next
		r.mu.Unlock()
	}
	return err
}

// peerOptions returns the options of the connection in force, with what was adopted
// from the peer.
func (r *Resource) peerOptions() PeerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peer
	n := r.core.Net()
	p.Protocol, p.IntegrityAlg, p.AllowTwoPrimaries = n.Protocol, n.IntegrityAlg, n.AllowTwoPrimary
	p.VerifyAlg, p.CSumsAlg = n.VerifyAlg, n.CSumsAlg
	p.AfterSB0Pri, p.AfterSB1Pri, p.AfterSB2Pri = n.AfterSB0, n.AfterSB1, n.AfterSB2
	return p
}

// Change changes options of the volume while it is in use, as "drbdsetup disk-options"
// does. change gets the options in force and edits them; it must not call the resource.
//
// The speed of resyncs (but for MinRate) goes to the peer, which adopts it. A change of
// ALExtents waits until no write is in flight. Size changes with [Volume.Resize]; ID,
// Minor, Disk, MetaDisk, MetaDevice, AssumeClean and QueueDepth cannot change. Errors:
// ErrConfig, and then nothing has changed; ErrClosed.
func (v *Volume) Change(ctx context.Context, change func(*VolumeConfig)) error {
	doing := fmt.Sprintf("volume %d: change options", v.cfg.ID)
	if err := v.lockAdmin(ctx); err != nil {
		return v.r.explain(doing, err)
	}
	defer v.unlockAdmin()
	old := v.options()
	next := old
	change(&next)
	if next.ID != old.ID || next.Minor != old.Minor || next.Disk != old.Disk || next.MetaDisk != old.MetaDisk ||
		next.MetaDevice != old.MetaDevice || next.AssumeClean != old.AssumeClean || next.QueueDepth != old.QueueDepth || next.Size != old.Size {
		return v.r.explain(doing, fmt.Errorf("%w: ID, Minor, Disk, MetaDisk, MetaDevice, AssumeClean and QueueDepth cannot change while the volume is open, and Size changes with Resize", ErrConfig))
	}
	if err := next.validate(); err != nil {
		return v.r.explain(doing, err)
	}
	if err := v.r.order.setAfter(v, next.ResyncAfter); err != nil {
		return v.r.explain(doing, err)
	}
	err := v.r.command(ctx, doing, func(c *core.Core, cmd *core.Command) { c.SetVolume(cmd, v.index, coreVolume(&next)) })
	if err != nil {
		_ = v.r.order.setAfter(v, old.ResyncAfter) // what was fine before is fine again
		return err
	}
	v.r.mu.Lock()
	v.now = next
	v.r.mu.Unlock()
	return nil
}

// options returns the options in force, with what was adopted from the peer.
func (v *Volume) options() VolumeConfig {
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	o := v.now
	if c, mine := v.r.core.Volume(v.index), coreVolume(&o); c.ResyncRate != mine.ResyncRate || c.CPlanAhead != mine.CPlanAhead ||
		c.CDelay != mine.CDelay || c.CFill != mine.CFill || c.CMaxRate != mine.CMaxRate {
		const step = 100 * time.Millisecond
		o.Resync.Rate, o.Resync.MaxRate = int64(c.ResyncRate)<<10, int64(c.CMaxRate)<<10
		o.Resync.PlanAhead, o.Resync.DelayTarget = orOff(time.Duration(c.CPlanAhead)*step), time.Duration(c.CDelay)*step
		o.Resync.FillTarget = orOff(int64(c.CFill) * metadata.SectorSize)
	}
	return o
}

// orOff is the configuration's word for a zero that is meant.
func orOff[T int64 | time.Duration](v T) T {
	if v == 0 {
		return -1
	}
	return v
}
