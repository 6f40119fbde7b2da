// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

// The events in the life of the identifiers (spec: behaviour 3.4). Randomness is
// always a parameter: 64 random bits, used once.

// NewCurrentCommand is the administrator's new-current-uuid on a StandAlone node,
// with or without --clear-bitmap: C new, B the old C, H0 the old B.
func (g GenerationIDs) NewCurrentCommand(random UUID, primary bool) GenerationIDs {
	return g.ClearBitmap().NewCurrent(random, primary)
}

// SkipInitialSync is new-current-uuid --clear-bitmap on a Connected node with fresh
// metadata (protocol >= 90, IsJustCreated). The result is what P_UUIDS carries
// together with FlagSkipInitialSync. The node itself then stores DropBitmap of it:
// no history entry remains. Both disks are UpToDate after that.
func (g GenerationIDs) SkipInitialSync(random UUID, primary bool) GenerationIDs {
	return g.NewCurrentCommand(random, primary)
}

// AdoptSkipped is the receiving end of FlagSkipInitialSync: the peer's current
// identifier, no bitmap identifier. It applies only while Connected with fresh
// metadata (IsJustCreated); the caller clears its bitmap.
func (g GenerationIDs) AdoptSkipped(peer GenerationIDs, primary bool) GenerationIDs {
	g.Current = peer.Current.WithPrimary(primary)
	return g.DropBitmap()
}

// SyncUUID names the resync this node is about to feed: bitmap identifier +
// SyncUUIDStep, or random if there is no real one. See BecomeSource.
func (g GenerationIDs) SyncUUID(random UUID) UUID {
	if g.Bitmap.reserved() {
		return random.fresh()
	}
	return (g.Bitmap + SyncUUIDStep).fresh()
}

// BecomeSource is done on the way to SyncSource, whatever led there: the sync UUID
// is made and becomes the bitmap identifier, the former one enters the history.
// The tuple must be durable before P_SYNC_UUID leaves (from protocol 96 on that
// packet goes out before any P_STATE), else a crash makes the target unknown to us.
func (g GenerationIDs) BecomeSource(random UUID) (ids GenerationIDs, sync UUID) {
	sync = g.SyncUUID(random)
	return g.RotateBitmap(sync), sync
}

// AdoptSyncUUID is done when the target receives the sync UUID: it is now the
// current identifier, the bitmap identifier is dropped, the history stays. The
// tuple, and the disk state Inconsistent, must be durable before the first block
// of the resync is written.
func (g GenerationIDs) AdoptSyncUUID(sync UUID, primary bool) GenerationIDs {
	g.Current = sync.WithPrimary(primary)
	return g.DropBitmap()
}

// FinishAsTarget is done when a resync ended without a failed block: the target
// takes over the identity of the source, and its own sync UUID becomes the younger
// history entry, as it does on the source. source is the peer's tuple as known from
// its last P_UUIDS, with the corrections of the verdict. The data must be durable
// first. With failed blocks nothing is done: the identifiers stay.
func (g GenerationIDs) FinishAsTarget(source GenerationIDs, primary bool) GenerationIDs {
	sync := g.Current
	g.Bitmap, g.History = source.Bitmap, source.History
	g = g.RotateBitmap(sync)
	g.Current = source.Current.WithPrimary(primary)
	return g.ClearBitmap()
}

// FinishAsSource is done when the target has announced the end of a resync without
// a failed block. With failed blocks nothing is done.
func (g GenerationIDs) FinishAsSource() GenerationIDs { return g.ClearBitmap() }

// NewCurrentOnPromotion reports whether a promotion begins a new generation (spec:
// behaviour 2.7). forced says that the promotion had to declare the disk UpToDate;
// connected that the connection is up; peerDisk is the peer's disk then. If it does
// not, only SetPrimary is due.
func (g GenerationIDs) NewCurrentOnPromotion(forced, connected bool, peerDisk DiskState) bool {
	if forced {
		return true
	}
	return g.Bitmap == UUIDNone && (!connected || peerDisk <= DiskFailed)
}

// NewCurrentOnLoss reports whether a state change in which contact to the peer's
// data is lost begins a new generation, at once and not at the first write (spec:
// behaviour 2.10). before and after are the peer's disk as known; primary says that
// this node, or the peer in the state after the change, is Primary (a peer that is
// no longer connected is not); own is the own disk. While I/O is suspended the caller
// postpones it, and drops it if the connection returns first.
func (g GenerationIDs) NewCurrentOnLoss(before, after DiskState, primary bool, own DiskState) bool {
	return lostPeerData(before, after) && primary && g.Bitmap == UUIDNone && own == DiskUpToDate
}

// lostPeerData is the trigger of behaviour 2.10. DUnknown sorts between Outdated
// and Consistent, hence the lists.
func lostPeerData(before, after DiskState) bool {
	switch before {
	case DiskInconsistent, DiskConsistent, DiskUpToDate:
		return after < DiskInconsistent || after == DiskUnknown || after == DiskOutdated
	case DiskUnknown:
		return after == DiskDiskless || after == DiskFailed || after == DiskOutdated
	}
	return false
}

// NewCurrentForDisklessPeer reports whether a connected peer without data that
// becomes Primary makes this node, whose disk it will use, begin a new generation
// (spec: behaviour 2.10).
func (g GenerationIDs) NewCurrentForDisklessPeer(peerDisk DiskState, peerBecamePrimary bool, own DiskState) bool {
	return peerDisk < DiskInconsistent && peerBecamePrimary && g.Bitmap == UUIDNone && own == DiskUpToDate
}

// AcceptsData reports whether data named current may serve a Primary whose users
// have last seen the generation exposed: a diskless Primary attaches, or connects
// to, only such data, unless the peer's disk is UpToDate (spec: behaviour 2.8, 3.2).
// When connecting, pass DiskUnknown.
func AcceptsData(exposed, current UUID, peerDisk DiskState) bool {
	return exposed.Equal(current) || peerDisk == DiskUpToDate
}
