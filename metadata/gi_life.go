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
// SyncUUIDStep, if there is a real one. Otherwise DRBD takes a random number; here its
// lower 48 bits are those of the current identifier, so that FeedAfterAttach can tell
// it from one that a new generation left behind.
func (g GenerationIDs) SyncUUID(random UUID) UUID {
	if !g.Bitmap.reserved() {
		return (g.Bitmap + SyncUUIDStep).fresh()
	}
	s := random&^syncUUIDLow | g.Current&syncUUIDLow
	for s.reserved() || s.Equal(g.Current) || s.Equal(g.History[0]) || s.Equal(g.History[1]) {
		s += SyncUUIDStep
	}
	return s
}

// syncUUIDLow covers the bits that SyncUUIDStep leaves alone.
const syncUUIDLow = SyncUUIDStep - 1

// isSyncUUID reports whether the bitmap identifier was made by SyncUUID.
func (g GenerationIDs) isSyncUUID() bool {
	b := g.Bitmap
	if b.reserved() {
		return false
	}
	return b.Equal(g.History[0]+SyncUUIDStep) && !g.History[0].reserved() ||
		(b & syncUUIDLow).Equal(g.Current&syncUUIDLow)
}

// RebaseFor is done before BecomeSource if every block is going to be copied, once all
// bits are set on stable storage. Such a bitmap is relative to any generation, so if
// target, the target's current identifier, is in the history (R80), it becomes the
// bitmap identifier. DRBD does not do this; the gain is that a target which never
// learns of the sync UUID is still known afterwards (R71), however often that happens,
// instead of dropping off the end of the history.
func (g GenerationIDs) RebaseFor(target UUID) GenerationIDs {
	if !target.reserved() && (target.Equal(g.History[0]) || target.Equal(g.History[1])) {
		g.Bitmap = target
	}
	return g
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

// Birth says whether, and how, a data generation begins. See GenerationIDs.Begin.
type Birth uint8

// The ways a generation begins, or not.
const (
	NoBirth     Birth = iota // the identifiers stay; on a change of role SetPrimary is due
	BirthNew                 // NewCurrent: the bitmap begins to record against the former generation
	BirthBeside              // RotateCurrent: the bitmap goes on recording against what it did; see Feed
)

// Begin makes the identifiers of the new generation. The tuple must be durable
// before the first write of the new generation completes.
func (g GenerationIDs) Begin(b Birth, random UUID, primary bool) GenerationIDs {
	switch b {
	case BirthNew:
		return g.NewCurrent(random, primary)
	case BirthBeside:
		return g.RotateCurrent(random.fresh().WithPrimary(primary))
	}
	return g
}

// BirthOnPromotion says what a promotion does (spec: behaviour 2.7). forced says that
// the promotion had to declare the disk UpToDate; connected that the connection is up;
// peerDisk is the peer's disk then; shared is Feed.PeerMayShare.
func (g GenerationIDs) BirthOnPromotion(forced, connected bool, peerDisk DiskState, shared bool) Birth {
	switch {
	case forced:
		return BirthNew
	case connected && peerDisk > DiskFailed:
		return NoBirth
	}
	return g.birthAlone(shared)
}

// BirthOnLoss says what a state change does in which contact to the peer's data is
// lost: a generation begins at once, not at the first write (spec: behaviour 2.10). It
// may be asked after every change. before and after are the peer's disk as known (after
// a lost connection that may still be Inconsistent); connected, primary, own and shared
// are of the state after the change: whether the connection is up, whether this node or
// the connected peer is Primary, the own disk, and Feed.PeerMayShare. While I/O is
// suspended the caller postpones the birth, and drops it if the connection returns
// first.
func (g GenerationIDs) BirthOnLoss(before, after DiskState, connected, primary bool, own DiskState, shared bool) Birth {
	// A peer that is known as Inconsistent may have been UpToDate a moment ago, and its
	// node may have crashed before its metadata said that a write had failed.
	lost := lostPeerData(before, after) || !connected && (shared || after == DiskInconsistent)
	if !lost || !primary || own != DiskUpToDate {
		return NoBirth
	}
	return g.birthAlone(shared)
}

// BirthOnDisklessPrimary says what happens when a connected peer without data becomes
// Primary: this node's disk is the one it will use (spec: behaviour 2.10).
func (g GenerationIDs) BirthOnDisklessPrimary(peerDisk, own DiskState, shared bool) Birth {
	if peerDisk >= DiskInconsistent || own != DiskUpToDate {
		return NoBirth
	}
	return g.birthAlone(shared)
}

func (g GenerationIDs) birthAlone(shared bool) Birth {
	switch {
	case g.Bitmap == UUIDNone:
		return BirthNew
	case shared:
		return BirthBeside
	}
	return NoBirth
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

// AcceptsData reports whether data named current may serve a Primary whose users
// have last seen the generation exposed: a diskless Primary attaches, or connects
// to, only such data, unless the peer's disk is UpToDate (spec: behaviour 2.8, 3.2).
// When connecting, pass DiskUnknown.
func AcceptsData(exposed, current UUID, peerDisk DiskState) bool {
	return exposed.Equal(current) || peerDisk == DiskUpToDate
}
