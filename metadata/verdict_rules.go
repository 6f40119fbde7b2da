// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

// rule is one row of the comparison.
type rule struct {
	number     int    // as the kernel logs it
	name       string // unique, for tests
	when       func(in CompareInput) bool
	outcome    Outcome
	minVersion int    // below it: NeedProtocol91
	features   uint32 // without them: NeedWriteSame
	// What to repair before anybody uses the identifiers.
	correctOwn, correctPeer func(GenerationIDs) GenerationIDs
	text                    string // for the operator, without full stop
}

// rules is the table of behaviour 3.5; the first row that matches decides. C, B,
// H0 and H1 are the own identifiers, C' and so on the peer's. PrimaryBit counts
// nowhere; "B = 0" is a test of the stored value.
var rules = [...]rule{
	// Fresh and nameless disks.
	{
		number: 20, name: "R20 both zero", when: bothZero, outcome: BothZero,
		text: "Neither disk has a current identifier, so nothing tells which data is good: create metadata anew on the disk to be overwritten",
	},
	{
		number: 10, name: "R10", when: bothFresh, outcome: NoSync,
		text: "Both disks are fresh, nothing is copied: promote one node by force to make its data the good data",
	},
	{
		number: 20, name: "R20", when: ownFresh, outcome: TargetSetBitmap,
		text: "This disk is fresh and gets all of the peer's data",
	},
	{
		number: 30, name: "R30", when: mirrored(ownFresh), outcome: SourceSetBitmap,
		text: "The peer's disk is fresh and gets all of this node's data",
	},

	// C = C': the same generation.
	{
		number: 34, name: "R34", minVersion: 91, outcome: SourceUseBitmap,
		when: missedFinish, correctOwn: GenerationIDs.ClearBitmap,
		text: "The peer finished a resync from this node whose end did not arrive here; it is made up for",
	},
	{
		number: 36, name: "R36", minVersion: 91, outcome: SourceUseBitmap, when: onlyOwnBitmap,
		text: "A resync from this node had begun, but the peer did not store that; it begins again",
	},
	{
		number: 35, name: "R35", minVersion: 91, outcome: TargetUseBitmap,
		when:        mirrored(missedFinish),
		correctPeer: GenerationIDs.ClearBitmap,
		text:        "This node finished a resync from the peer whose end did not arrive there; it is made up for",
	},
	{
		number: 37, name: "R37", minVersion: 91, outcome: TargetUseBitmap,
		when: mirrored(onlyOwnBitmap),
		text: "A resync from the peer had begun, but this node did not store that; it begins again",
	},
	{
		number: 40, name: "R40", outcome: NoSync,
		when: func(in CompareInput) bool { return same(in) && !in.Own.crashed() && !in.Peer.crashed() },
		text: "Both disks have the same data",
	},
	{
		number: 41, name: "R41 both Primary", features: FeatureWriteSame, outcome: SplitBrainManual,
		when: func(in CompareInput) bool { return same(in) && in.Own.Primary && in.Peer.Primary },
		text: "A Primary crashed and both nodes are Primary now, so neither may be overwritten",
	},
	{
		number: 41, name: "R41 own Primary", features: FeatureWriteSame, outcome: SourceUseBitmap,
		when: func(in CompareInput) bool { return same(in) && in.Own.Primary },
		text: "A Primary crashed; this node is Primary now and overwrites what the crash left in doubt",
	},
	{
		number: 41, name: "R41 peer Primary", features: FeatureWriteSame, outcome: TargetUseBitmap,
		when: func(in CompareInput) bool { return same(in) && in.Peer.Primary },
		text: "A Primary crashed; the peer is Primary now and overwrites what the crash left in doubt",
	},
	{
		number: 40, name: "R40 own crashed", outcome: SourceUseBitmap,
		when: func(in CompareInput) bool { return same(in) && !in.Peer.crashed() },
		text: "This node crashed as Primary; its last writes are copied to the peer",
	},
	{
		number: 40, name: "R40 peer crashed", outcome: TargetUseBitmap,
		when: func(in CompareInput) bool { return same(in) && !in.Own.crashed() },
		text: "The peer crashed as Primary; its last writes are copied to this node",
	},
	{
		number: 40, name: "R40 both crashed, resolver", outcome: TargetUseBitmap,
		when: func(in CompareInput) bool { return same(in) && in.Resolver },
		text: "Both nodes crashed as Primary; the tie makes this node take the peer's last writes",
	},
	{
		number: 40, name: "R40 both crashed, other", outcome: SourceUseBitmap, when: same,
		text: "Both nodes crashed as Primary; the tie makes the peer take this node's last writes",
	},

	// C != C': one is older, or they diverged.
	{
		number: 50, name: "R50", outcome: TargetUseBitmap, when: behind,
		text: "The peer went on from this node's generation and recorded what changed; this node gets the changed blocks",
	},
	{
		number: 51, name: "R51", minVersion: 91, outcome: TargetUseBitmap,
		when: missedSyncUUID, correctPeer: undoSyncUUID,
		text: "The peer began a resync to this node, which did not learn of it; it begins again",
	},
	{
		number: 60, name: "R60", outcome: TargetSetBitmap, when: farBehind,
		text: "This disk is older than what the peer's bitmap recorded and gets all of the peer's data",
	},
	{
		number: 70, name: "R70", outcome: SourceUseBitmap,
		when: mirrored(behind),
		text: "This node went on from the peer's generation and recorded what changed; the peer gets the changed blocks",
	},
	{
		number: 71, name: "R71", minVersion: 91, outcome: SourceUseBitmap,
		when:       mirrored(missedSyncUUID),
		correctOwn: undoSyncUUID,
		text:       "This node began a resync to the peer, which did not learn of it; it begins again",
	},
	{
		number: 80, name: "R80", outcome: SourceSetBitmap,
		when: mirrored(farBehind),
		text: "The peer's disk is older than what this node's bitmap recorded and gets all of this node's data",
	},
	{
		number: 90, name: "R90", outcome: SplitBrain, when: commonBase,
		text: "Split brain: both nodes went on alone from the same generation",
	},
	{
		number: 100, name: "R100", outcome: SplitBrainManual, when: commonHistory,
		text: "Split brain: the two disks differ, and at best an old generation is common to both",
	},
	{
		number: 100, name: "R100 unrelated", outcome: Unrelated,
		when: func(CompareInput) bool { return true },
		text: "Unrelated data: the two disks have no generation in common; if one may be overwritten, create its metadata anew",
	},
}

// mirrored turns a condition into that of the row where the nodes have changed places.
func mirrored(when func(CompareInput) bool) func(CompareInput) bool {
	return func(in CompareInput) bool { return when(in.mirror()) }
}

func bothZero(in CompareInput) bool {
	return in.Own.IDs.Current.Equal(UUIDNone) && in.Peer.IDs.Current.Equal(UUIDNone)
}

func bothFresh(in CompareInput) bool {
	return in.Own.IDs.IsJustCreated() && in.Peer.IDs.IsJustCreated()
}

// ownFresh is R20: C is 4 or 0, C' is not 4.
func ownFresh(in CompareInput) bool {
	return in.Own.IDs.Current.reserved() && !in.Peer.IDs.IsJustCreated()
}

func same(in CompareInput) bool { return in.Own.IDs.Current.Equal(in.Peer.IDs.Current) }

// onlyOwnBitmap is R36: C = C', B' = 0, B is not.
func onlyOwnBitmap(in CompareInput) bool {
	return same(in) && in.Peer.IDs.Bitmap == UUIDNone && in.Own.IDs.Bitmap != UUIDNone
}

// missedFinish is R34: R36, and the peer's history is what ours would be had we
// finished too, B = H0' and H0 = H1'.
func missedFinish(in CompareInput) bool {
	own, peer := in.Own.IDs, in.Peer.IDs
	return onlyOwnBitmap(in) && own.Bitmap.Equal(peer.History[0]) && own.History[0].Equal(peer.History[1])
}

// behind is R50: C = B'.
func behind(in CompareInput) bool { return in.Own.IDs.Current.Equal(in.Peer.IDs.Bitmap) }

// missedSyncUUID is R51: C = H0', and the peer's bitmap identifier is the sync UUID
// made from it. Before protocol 96 the latter is only inferred: H0 = H1'.
func missedSyncUUID(in CompareInput) bool {
	own, peer := in.Own.IDs, in.Peer.IDs
	if !own.Current.Equal(peer.History[0]) {
		return false
	}
	if in.Version < 96 {
		return own.History[0].Equal(peer.History[1])
	}
	return peer.Bitmap.Equal(peer.History[0] + SyncUUIDStep)
}

// undoSyncUUID takes a sync UUID back that never reached the target.
func undoSyncUUID(g GenerationIDs) GenerationIDs {
	g.Bitmap, g.History[0] = g.History[0], g.History[1]
	return g
}

// farBehind is R60: C is in the peer's history.
func farBehind(in CompareInput) bool {
	c, history := in.Own.IDs.Current, in.Peer.IDs.History
	return c.Equal(history[0]) || c.Equal(history[1])
}

// commonBase is R90: B = B', not zero.
func commonBase(in CompareInput) bool {
	own, peer := in.Own.IDs.Bitmap, in.Peer.IDs.Bitmap
	return own.Equal(peer) && !own.Equal(UUIDNone)
}

// commonHistory is R100: any history entry equals any of the peer's. Zeroes count,
// so two short histories are always "common" (spec: behaviour 3.5, traps).
func commonHistory(in CompareInput) bool {
	for _, own := range in.Own.IDs.History {
		for _, peer := range in.Peer.IDs.History {
			if own.Equal(peer) {
				return true
			}
		}
	}
	return false
}
