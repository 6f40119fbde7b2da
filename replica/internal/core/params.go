// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// What a node tells about each volume: P_SYNC_PARAM, P_SIZES, P_UUIDS, P_STATE
// (spec: wire 4.4 to 4.6, 4.13).

func (pd *peerDevice) ownSyncParam() protocol.SyncParam {
	cfg := &pd.v.cfg
	return protocol.SyncParam{Rate: cfg.ResyncRate, PlanAhead: cfg.CPlanAhead, DelayTarget: cfg.CDelay,
		FillTarget: cfg.CFill, MaxRate: cfg.CMaxRate, VerifyAlg: pd.p.verifyAlg.Name(), CsumsAlg: pd.p.csumsAlg.Name()}
}

func (pd *peerDevice) sendSyncParam() {
	send(pd.p, protocol.DataStream, pd.p.session.SyncParamCommand(), pd.v.cfg.Number, pd.ownSyncParam())
}

// receiveSyncParam compares the algorithms while connecting, and adopts them later
// (spec: wire 4.4).
func (pd *peerDevice) receiveSyncParam(q protocol.SyncParam) {
	p := pd.p
	pd.adoptSpeed(q)
	if pd.conn == protocol.WFReportParams {
		if err := pd.ownSyncParam().Compatible(q, &p.session); err != nil {
			p.refuse(fmt.Errorf("%w: %w", ErrIncompatible, err))
		}
		return
	}
	verify, err := protocol.LookupDigest(q.VerifyAlg)
	csums, err2 := protocol.LookupDigest(q.CsumsAlg)
	if err := errors.Join(err, err2); err != nil {
		p.refuse(fmt.Errorf("%w: the peer changed its settings: %w", ErrIncompatible, err))
		return
	}
	if p.session.Version >= 88 && verify != p.verifyAlg {
		pd.v.logf(LogInfo, "the peer set verify-alg to %q", q.VerifyAlg)
		p.verifyAlg, p.c.cfg.Net.VerifyAlg = verify, q.VerifyAlg
	}
	if p.session.Version >= 89 && csums != p.csumsAlg {
		level := LogInfo
		if weakChecksum(csums) {
			level = LogWarn // this node copies what its peer would compare
		}
		pd.v.logf(level, "the peer set csums-alg to %q", q.CsumsAlg)
		p.csumsAlg, p.c.cfg.Net.CSumsAlg, p.c.cfg.Net.weakAdopted = csums, q.CsumsAlg, weakChecksum(csums)
	}
}

// sendSizes tells how large the disk is, could be, and should be.
func (pd *peerDevice) sendSizes(flags protocol.SizesFlags) { pd.sendSizesAs(flags, pd.v.size) }

// sendSizesAs is sendSizes with another current size: 0 asks for an answer.
func (pd *peerDevice) sendSizesAs(flags protocol.SizesFlags, current uint64) {
	v := pd.v
	q := protocol.Sizes{UserSize: v.user, CurrentSize: current, MaxBioBytes: protocol.MaxBlockBytes, Flags: flags}
	if v.offersDisk() {
		q.DiskSize = v.offers()
		q.Queue = protocol.QueueLimits{
			PhysicalBlock: v.limits.PhysicalBlock, LogicalBlock: v.limits.LogicalBlock,
			MinIO: v.limits.PhysicalBlock, Discard: v.limits.Discard, DiscardZeroes: v.limits.DiscardZeroes,
		}
	}
	send(pd.p, protocol.DataStream, protocol.CmdSizes, v.cfg.Number, q)
}

// offersDisk reports whether the peer may know of the own disk: not before it is
// ready to be negotiated about.
func (v *volume) offersDisk() bool {
	return v.disk >= protocol.Negotiating && v.disk != protocol.DUnknown
}

// receiveSizes agrees on the size (spec: behaviour 6.10).
func (pd *peerDevice) receiveSizes(q protocol.Sizes) {
	v, connecting := pd.v, pd.conn == protocol.WFReportParams
	gen, outdone := pd.p.gen, false
	if pd.resizing && !pd.asked && q.CurrentSize == 0 {
		// This node has a command, too, of which the peer will hear first.
		v.c.when(func() bool { return pd.asked || !pd.resizing || pd.p.gen != gen }, func() {
			if pd.p.gen == gen && pd.p.alive() {
				pd.receiveSizes(q)
			}
		})
		return
	}
	first := !pd.sizesValid
	pd.sizes, pd.sizesValid = q, true
	switch {
	case connecting:
		if q.UserSize != 0 && (v.user == 0 || q.UserSize < v.user) {
			v.user = q.UserSize
		}
	case pd.resizing && q.CurrentSize == 0: // it has a command, too
		if pd.p.resolver {
			return // it gets, or has got, the one from here
		}
		pd.resizing, pd.outdone, outdone = false, true, true
		fallthrough
	default:
		v.user = q.UserSize
	}
	size := pd.agreedSize()
	if size == 0 {
		return
	}
	if size < v.size && (v.disk >= protocol.Outdated || v.disk == protocol.Diskless && v.role == protocol.Primary) &&
		(connecting || pd.disk == protocol.Diskless) {
		v.user = v.cfg.UserSize
		pd.p.refuse(fmt.Errorf("%w: volume %d has %d sectors, the peer's disk takes %d",
			ErrShrink, v.cfg.Number, v.size, size))
		return
	}
	before := v.size
	if connecting {
		if pd.growFirst(size) {
			return
		}
		if size != before {
			if v.hasDisk() {
				v.capacity = max(v.capacity, min(v.offers(), size))
			}
			v.resize(size, v.cfg.AssumeClean)
		}
		if size > before || q.CurrentSize != 0 && q.CurrentSize < size {
			// The peer finds out now that this node has grown, perhaps in another life.
			pd.resync.grow = pd.resync.grow || !v.cfg.AssumeClean
		}
		return
	}
	clean := q.Flags&protocol.SizesNoResync != 0 || first && v.cfg.AssumeClean
	answer := q.CurrentSize == 0 || first && q.CurrentSize != before || size != before && q.CurrentSize != size
	if pd.disk == protocol.Diskless && q.DiskSize != 0 && q.CurrentSize != size {
		answer = true // it attaches, and has not heard how this node has grown since it connected
	}
	if outdone && v.size < pd.resizedFrom {
		// What was cut off here already the peer still has, and it is equal.
		before = pd.resizedFrom
		v.setSize(min(size, before), true, func(error) {})
	}
	pd.adopting++
	v.setSize(size, clean, func(err error) {
		pd.adopting--
		if err != nil || pd.p.gen != gen || !pd.p.alive() {
			return
		}
		if answer {
			pd.sendSizes(q.Flags)
		}
		switch {
		case !first:
			pd.resized(q, before)
		case v.size > before && !clean:
			pd.resync.grow = true
		}
	})
}

// agreedSize is the size that both disks and the administrator allow.
func (pd *peerDevice) agreedSize() uint64 {
	v, q := pd.v, &pd.sizes
	if !v.offersDisk() {
		for _, s := range []uint64{q.CurrentSize, q.UserSize, q.DiskSize} {
			if s != 0 {
				return s
			}
		}
		return v.size
	}
	size := v.offers()
	switch {
	case q.DiskSize != 0:
		size = min(size, q.DiskSize)
	case v.size != 0:
		size = min(size, v.size)
	}
	if v.user != 0 {
		if v.user > size {
			v.logf(LogError, "the configured size of %d sectors is too large, %d are possible", v.user, size)
		} else {
			size = v.user
		}
	}
	return size
}

// resize changes the size of the volume. Until the new bitmap is on disk the flags
// say that neither it nor the activity log can be trusted.
func (v *volume) resize(size uint64, assumeClean bool) {
	v.logf(LogInfo, "size changed from %d to %d sectors", v.size, size)
	v.size = size
	v.c.event(Event{Kind: EventSize, Volume: v.idx, Bytes: int64(size) * 512})
	if !v.metaUsable() {
		return
	}
	for _, pd := range v.pds {
		if pd.bm == nil {
			pd.bm = bitmap.New(0)
		}
		pd.bm.Resize(bitmap.BitsFor(size), !assumeClean)
	}
	v.gates++
	v.sb.Flags |= metadata.ALDisabled
	open := func(error) {
		v.gates--
		v.gateOpened()
	}
	v.replaceBitmap(func(err error) {
		if err != nil {
			open(err)
			return
		}
		v.alFlag()
		v.syncSuper(open)
	})
}

// sendUUIDs tells the generation identifiers; a diskless node has none.
func (pd *peerDevice) sendUUIDs(extra protocol.UUIDFlags) {
	v := pd.v
	if !v.offersDisk() {
		return
	}
	flags := extra
	if pd.discardMyData {
		flags |= protocol.UUIDDiscardMyData
	}
	if v.crashedPrimary {
		flags |= protocol.UUIDCrashedPrimary
	}
	if v.disk == protocol.Negotiating && v.negotiated == protocol.Inconsistent {
		flags |= protocol.UUIDInconsistent
	}
	pd.sentBits = pd.oosBlocks()
	send(pd.p, protocol.DataStream, protocol.CmdUUIDs, v.cfg.Number, protocol.UUIDs{
		Current: uint64(v.ids.Current), Bitmap: uint64(v.ids.Bitmap),
		History:    [2]uint64{uint64(v.ids.History[0]), uint64(v.ids.History[1])},
		BitmapBits: pd.sentBits, Flags: flags,
	})
}

func (pd *peerDevice) receiveUUIDs(q protocol.UUIDs) {
	v, c := pd.v, pd.v.c
	pd.ids = metadata.GenerationIDs{
		Current: metadata.UUID(q.Current), Bitmap: metadata.UUID(q.Bitmap),
		History: [2]metadata.UUID{metadata.UUID(q.History[0]), metadata.UUID(q.History[1])},
	}
	pd.idsValid, pd.uuidFlags, pd.uuidBits = true, metadata.UUIDFlags(q.Flags), q.BitmapBits
	pd.idsDue = false
	if !v.offersDisk() {
		if pd.conn < protocol.Connected && v.mayBeBorn() {
			pd.p.lose(protocol.BrokenPipe) // and connect anew when it is known which one the users see
			return
		}
		// A connected peer that has had no disk so far attaches one.
		if v.role == protocol.Primary && (pd.conn < protocol.Connected || pd.disk < protocol.Inconsistent) && !metadata.AcceptsData(v.exposed, pd.ids.Current, metadata.DiskUnknown) {
			pd.p.refuse(fmt.Errorf("%w: it saw generation %s, the peer has %s", ErrDataStale, v.exposed, pd.ids.Current))
			return
		}
		if pd.conn < protocol.Connected || pd.disk < protocol.Inconsistent || pd.disk == protocol.UpToDate {
			// One that it had before may have been told for another reason, earlier.
			v.peerBears = v.peerBears && pd.conn >= protocol.Connected && pd.ids.Current.Equal(v.exposed)
			if pd.conn >= protocol.Connected && pd.disk < protocol.Inconsistent {
				v.exposedWas = v.exposed
			}
			v.exposed = pd.ids.Current
		} else if v.role == protocol.Primary && pd.ids.Bitmap.Equal(v.exposed) {
			// It had been a resync target without anything to copy yet, and began this
			// generation for the disk that has failed here. That its own is good follows.
			v.exposed = pd.ids.Current
		} // else it tells what it has, with a changed size, and that is not good
		return
	}
	if q.Flags&protocol.UUIDSkipInitialSync != 0 && pd.conn == protocol.Connected &&
		pd.p.session.Version >= 90 && v.ids.IsJustCreated() {
		v.logf(LogInfo, "accepted the peer's new current UUID, preparing to skip the initial sync")
		v.skipInitialSync(pd, func(error) {})
		v.setIDs(v.ids.AdoptSkipped(pd.ids, v.role == protocol.Primary))
		c.change(pd, fact, func(s *protocol.State) { s.Disk, s.PeerDisk = protocol.UpToDate, protocol.UpToDate })
		pd.sendState() // a P_STATE of ours that is still on its way says otherwise
	}
}

// sendState announces the present state.
func (pd *peerDevice) sendState() {
	if pd.p.phase == phaseUp {
		s := pd.state()
		if pd.v.leaving && s.Disk > protocol.Failed && s.Role != protocol.Primary {
			s.Disk = protocol.Failed // as the peer has agreed, who has perhaps written without this disk since
		}
		send(pd.p, protocol.DataStream, protocol.CmdState, pd.v.cfg.Number, s)
	}
}
