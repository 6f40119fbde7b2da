// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

// Feed is what a node remembers of a resync it is the source of: from BecomeSource to
// FinishAsSource, or until it begins a generation, whichever comes first. The zero
// value: no resync to remember.
//
// It closes a gap in DRBD's rules. A source keeps its bitmap identifier until it hears
// that the target has finished, and while it has one it begins no generation when it
// loses the target. If the target did finish, and only the news got lost, both nodes
// now have the same current identifier and no mark tells them apart:
//
//	source  C:s:…  goes on as Primary, writes, is demoted
//	target  C:0:…  is promoted, begins t:C:…, writes
//
// When they meet, C = B' (R50): the source's writes would be overwritten without a
// word, though both nodes changed. The same happens if both had C before the resync
// (after a crash, R40 and R41) and the target never stored the sync UUID. Where that is
// possible a source of ours begins its generation beside the bitmap (BirthBeside): C
// enters the history, the bitmap identifier stays. The peer, of whatever make, then
// finds a split brain if it changed too (R100), and is brought up to date if it did
// not: by bitmap if it is still a target (R70), by a full resync if it had finished or
// never begun (R80), which is the price.
type Feed struct {
	open  bool
	share bool // the target may share our current identifier
}

// FeedStarted is the memory after BecomeSource. told is the peer's tuple as known then.
func FeedStarted(own, told GenerationIDs) Feed {
	return Feed{open: true, share: own.Current.Equal(told.Current)}
}

// FeedAfterAttach is the memory of a node that has just attached its disk: what the
// identifiers tell of a resync before. If that was fed by another implementation they
// may not tell.
func FeedAfterAttach(own GenerationIDs) Feed {
	open := own.isSyncUUID()
	return Feed{open: open, share: open}
}

// PingReceived is the memory after the peer's P_PING arrived; outOfSync is the number
// of blocks that are out of sync at that moment. A target finishes only after such a
// ping was answered that it sent with nothing left to fetch (spec: behaviour 6.2), so
// before it the target cannot have finished.
func (f Feed) PingReceived(outOfSync uint64) Feed {
	f.share = f.share || f.open && outOfSync == 0
	return f
}

// PeerMayShare reports whether the peer may have, or come to have, the same current
// identifier without a bitmap identifier.
func (f Feed) PeerMayShare() bool { return f.share }
