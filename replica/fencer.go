// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Fencing says what a Primary that loses its peer, and a node that becomes Primary
// without it, does about the peer (spec: behaviour 8.1). See docs/fencing.md.
type Fencing uint8

// The values of the disk option fencing.
const (
	// DontCare goes on without asking anybody.
	DontCare = Fencing(core.FencingDontCare)
	// ResourceOnly has the Fencer outdate the peer. I/O goes on meanwhile; a
	// promotion waits for it.
	ResourceOnly = Fencing(core.FencingResourceOnly)
	// ResourceAndStonith freezes I/O until the Fencer has outdated the peer or shot
	// its node, or the peer is back. It needs protocol B or C.
	ResourceAndStonith = Fencing(core.FencingResourceAndStonith)
)

// String returns the name used in drbd.conf.
func (f Fencing) String() string {
	switch f {
	case DontCare:
		return "dont-care"
	case ResourceOnly:
		return "resource-only"
	case ResourceAndStonith:
		return "resource-and-stonith"
	}
	return fmt.Sprintf("Fencing(%d)", uint8(f))
}

// FenceResult says what became of the peer: the exit code of DRBD's fence-peer
// handler (spec: behaviour 8.2). Other values mean that nothing is known.
type FenceResult int

// The results of FencePeer.
const (
	// PeerInconsistent: the peer's disk is Inconsistent anyway.
	PeerInconsistent FenceResult = core.FencePeerInconsistent
	// PeerOutdated: the peer has outdated its disk, or had before.
	PeerOutdated FenceResult = core.FencePeerOutdated
	// PeerUnreachable: the peer could not be reached and is taken for down. It counts
	// only if a disk of this node is UpToDate.
	PeerUnreachable FenceResult = core.FencePeerUnreachable
	// PeerPrimary: the peer is Primary. This node's disk is outdated, if the node is
	// not Primary itself.
	PeerPrimary FenceResult = core.FencePeerPrimary
	// PeerShot: the peer's node was shot.
	PeerShot FenceResult = core.FencePeerShot
)

// String returns the result in words.
func (f FenceResult) String() string {
	switch f {
	case PeerInconsistent:
		return "the peer is Inconsistent"
	case PeerOutdated:
		return "the peer is Outdated"
	case PeerUnreachable:
		return "the peer is unreachable"
	case PeerPrimary:
		return "the peer is Primary"
	case PeerShot:
		return "the peer was shot"
	}
	return fmt.Sprintf("unknown result %d", int(f))
}

// A Fencer keeps the peer from taking its data for good while this node changes the
// data without it. Typically it tells a cluster manager, or calls [Volume.Outdate] on the
// other node over another way, or has that node's power cut. [ExecHandlers] runs
// programs written for DRBD.
//
// Both methods run outside of the resource's goroutines, never two at the same time,
// and are bounded by Config.HandlerTimeout.
type Fencer interface {
	// FencePeer returns what became of the peer. It may be called again after every
	// loss of the peer, also if that was fenced before. An error, and a result that
	// is none of the constants, mean that nothing is known: with ResourceAndStonith I/O
	// stays frozen until the peer is back or [Resource.ResumeIO] is called.
	FencePeer(ctx context.Context, call HandlerCall) (FenceResult, error)
	// UnfencePeer takes that back: a resync has brought all volumes of the peer
	// up to date. Its error is logged.
	UnfencePeer(ctx context.Context, call HandlerCall) error
}

// runFencer asks the Fencer, and tells the core.
func (r *Resource) runFencer(ctx context.Context, info HandlerCall, call *core.Call) {
	res, err := bounded(ctx, r.handlerTimeout(), func(ctx context.Context) (FenceResult, error) { return r.cfg.Fencer.FencePeer(ctx, info) })
	if err != nil {
		r.log.error(fmt.Sprintf("fence-peer: %v", err), -1)
		res = 0
	} else {
		r.log.warn(fmt.Sprintf("fence-peer: %v", res), -1)
	}
	r.callDone(call, int(res))
}

func (r *Resource) runUnfence(ctx context.Context, info HandlerCall) {
	_, err := bounded(ctx, r.handlerTimeout(), func(ctx context.Context) (struct{}, error) { return struct{}{}, r.cfg.Fencer.UnfencePeer(ctx, info) })
	if err != nil {
		r.log.error(fmt.Sprintf("unfence-peer: %v", err), -1)
	}
}
