// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// ByteRange is a range of a volume: Len bytes from Off on, both multiples of 4096
// except at the end of the volume.
type ByteRange struct{ Off, Len int64 }

// VerifyReport is what [Volume.Verify] has found. Amounts are bytes.
type VerifyReport struct {
	// From and To bound what was compared: the bytes from From up to To.
	From, To int64
	// Different is how much of it differs, in whole blocks of 4 KiB; all of it is
	// marked out of sync on both nodes.
	Different int64
	// Unknown is how much the peer refused to read. It is not marked.
	Unknown int64
	// Ranges are the differences, merged and in ascending order: the first 4096 of
	// them. More says that there are others.
	Ranges []ByteRange
	More   bool
	// Complete says that everything that was asked for has been compared.
	Complete bool
}

// VerifyOption is a rare variant of [Volume.Verify].
type VerifyOption interface{ verify(*verifyOptions) }

type verifyOptions struct {
	core   core.VerifyOptions
	repair bool
}

type verifyOption func(*verifyOptions)

func (f verifyOption) verify(o *verifyOptions) { f(o) }

// VerifyFrom begins at off, in bytes, rounded down to a block. With it a verify does
// not go on where an interrupted one has stopped; VerifyFrom(0) compares all.
func VerifyFrom(off int64) VerifyOption {
	return verifyOption(func(o *verifyOptions) { o.core.Start, o.core.Resume = off, false })
}

// VerifyTo ends before off, in bytes, rounded up to a block. It needs protocol version
// 97, 98, 99 or 101: others have no way to tell the peer.
func VerifyTo(off int64) VerifyOption {
	return verifyOption(func(o *verifyOptions) { o.core.Stop = off })
}

// VerifyAndRepair copies what differs, when all has been compared: see [Volume.Repair].
func VerifyAndRepair() VerifyOption {
	return verifyOption(func(o *verifyOptions) { o.repair = true })
}

// Verify compares the volume with the peer's copy, block by block, by a checksum
// ([PeerConfig.VerifyAlg]), and reports what differs; so do the events
// EventVerifyStart, EventOutOfSync and EventVerifyDone on both nodes. It may run on
// either node, whatever the roles are, while the application reads and writes: a
// write to a block that is being compared at that moment waits for the result. The
// resync's rates limit its speed; [Status] shows its progress.
//
// What differs is marked out of sync and not copied: which copy is the right one a
// checksum cannot tell. Both disks stay UpToDate. See VerifyAndRepair.
//
// A verify that was interrupted (the connection or a disk was lost, ctx has ended)
// returns what it has found so far, and the next one goes on at that place unless
// VerifyFrom says otherwise; after the end of the volume it begins anew. When ctx ends,
// what is under way is still compared; versions 88 to 96 and 100 of the protocol have
// no way to stop early, and there the verify runs on without its caller.
//
// It needs a connection and two UpToDate disks. Errors: ErrRefused (with the reason:
// no VerifyAlg, a resync is running, not connected), ErrConnectionLost, ErrIO (a disk
// failed), ErrRange, ErrClosed, the context's; those of Repair.
//
// spec: behaviour 6.8, wire 8.9.
func (v *Volume) Verify(ctx context.Context, opts ...VerifyOption) (VerifyReport, error) {
	const doing = "verify"
	o := verifyOptions{core: core.VerifyOptions{Resume: true}}
	for _, opt := range opts {
		opt.verify(&o)
	}
	r := v.r
	r.mu.Lock()
	if err := r.refusal(); err != nil {
		r.mu.Unlock()
		return VerifyReport{}, r.explain(doing, err)
	}
	cmd := &command{done: make(chan struct{})}
	err := r.awaitCommand(ctx, cmd, func(c *core.Core, cmd *core.Command) { c.Verify(cmd, v.index, o.core) })
	if ctx.Err() != nil {
		stop := func(c *core.Core, end *core.Command) { c.StopVerify(end, v.index, &cmd.cmd) }
		if r.command(context.WithoutCancel(ctx), doing, stop) == nil {
			<-cmd.done
		}
	}
	report := VerifyReport{}
	select {
	case <-cmd.done:
		report = reportOf(cmd.cmd.Verified)
	default: // it runs on
	}
	if err == nil && o.repair && report.Different > 0 {
		err = v.Repair(ctx)
	}
	return report, r.explain(doing, err)
}

func reportOf(in *core.VerifyReport) VerifyReport {
	if in == nil {
		return VerifyReport{}
	}
	out := VerifyReport{From: in.From, To: in.To, Different: in.Different, Unknown: in.Unknown, More: in.More, Complete: in.Complete}
	for _, x := range in.Ranges {
		out.Ranges = append(out.Ranges, ByteRange(x))
	}
	return out
}

// Repair copies what is marked out of sync on a connected pair with two UpToDate disks,
// as Verify leaves it, and returns when that is done. The Primary's data counts; if
// both nodes are Secondary, that of this node. Nothing happens if nothing is marked.
//
// DRBD has no such command and asks the administrator to disconnect and connect. A
// Primary, and a Secondary whose peer is Secondary, does without: it begins a new data
// generation and sends its bitmap, on the connection that there is. If the peer is
// Primary, this node disconnects and connects again, which all volumes of the
// resource notice.
//
// Errors: ErrRefused (not connected, a resync or verify is running), ErrNoUpToDateData,
// those of Connect and Disconnect, ErrClosed, the context's.
func (v *Volume) Repair(ctx context.Context) error {
	r := v.r
	st, _ := r.Status().Volume(v.cfg.ID)
	if st.State.Conn == protocol.Connected && st.State.Peer == protocol.Primary {
		if st.OutOfSync == 0 {
			return nil
		}
		if err := r.Disconnect(ctx); err != nil {
			return err
		}
		if err := r.Connect(ctx); err != nil {
			return err
		}
	} else if err := v.command(ctx, "repair", func(c *core.Core, cmd *core.Command) { c.Repair(cmd, v.index) }); err != nil {
		return err
	}
	return r.explain("wait for the repair", r.wait(ctx, func(s *core.Snapshot) (bool, error) {
		x := s.Volumes[v.index].State
		if x.Conn == protocol.StandAlone {
			return false, r.standAlone()
		}
		return x.Conn == protocol.Connected && x.Disk == protocol.UpToDate && x.PeerDisk == protocol.UpToDate, nil
	}))
}
