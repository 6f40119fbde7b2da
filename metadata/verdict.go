// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "fmt"

// Outcome is what two sets of identifiers say about the two disks, seen from this
// node. The zero value is NoSync.
type Outcome int

// The outcomes of a comparison (spec: behaviour 3.5).
const (
	NoSync           Outcome = iota // the disks are equal, or both fresh
	SourceUseBitmap                 // this node feeds the peer, blocks of the bitmaps
	TargetUseBitmap                 // this node is fed, blocks of the bitmaps
	SourceSetBitmap                 // this node feeds the peer, every block
	TargetSetBitmap                 // this node is fed, every block
	SplitBrain                      // both changed since a common generation; the policies may solve it
	SplitBrainManual                // a common ancestor at best; policies only with always-asbp
	Unrelated                       // nothing in common: refused
	NeedProtocol91                  // this case needs protocol 91: refused
	NeedWriteSame                   // this case needs the agreed feature WSAME: refused
	BothZero                        // neither disk names its data: refused, a deviation of ours
	Contradictory                   // the two nodes would not decide alike: refused, a deviation of ours
)

var outcomes = [...]struct {
	code   int
	mirror Outcome
	name   string
}{
	NoSync:           {0, NoSync, "no sync"},
	SourceUseBitmap:  {1, TargetUseBitmap, "sync source, by bitmap"},
	TargetUseBitmap:  {-1, SourceUseBitmap, "sync target, by bitmap"},
	SourceSetBitmap:  {2, TargetSetBitmap, "sync source, full"},
	TargetSetBitmap:  {-2, SourceSetBitmap, "sync target, full"},
	SplitBrain:       {100, SplitBrain, "split brain"},
	SplitBrainManual: {-100, SplitBrainManual, "split brain, manual"},
	Unrelated:        {-1000, Unrelated, "unrelated data"},
	NeedProtocol91:   {-1091, NeedProtocol91, "needs protocol 91"},
	NeedWriteSame:    {-2000, NeedWriteSame, "needs feature WSAME"},
	BothZero:         {-2001, BothZero, "no identifiers on either side"},
	Contradictory:    {-2002, Contradictory, "contradictory identifiers"},
}

func (o Outcome) known() bool { return o >= 0 && int(o) < len(outcomes) }

// Code returns the number DRBD's kernel logs for the outcome: 0, ±1, ±2, ±100,
// -1000, -1091. NeedWriteSame, BothZero and Contradictory have numbers of ours,
// from -2000 downward.
func (o Outcome) Code() int {
	if !o.known() {
		return int(o)
	}
	return outcomes[o].code
}

// Mirror returns what the peer must come to when this node comes to o.
func (o Outcome) Mirror() Outcome {
	if !o.known() {
		return o
	}
	return outcomes[o].mirror
}

// String returns a few plain words.
func (o Outcome) String() string {
	if !o.known() {
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
	return outcomes[o].name
}

// IsSource reports whether this node feeds the peer.
func (o Outcome) IsSource() bool { return o == SourceUseBitmap || o == SourceSetBitmap }

// IsTarget reports whether this node is fed.
func (o Outcome) IsTarget() bool { return o == TargetUseBitmap || o == TargetSetBitmap }

// IsFull reports whether every block is copied.
func (o Outcome) IsFull() bool { return o == SourceSetBitmap || o == TargetSetBitmap }

// IsSplitBrain reports whether the data have diverged as far as the identifiers tell.
func (o Outcome) IsSplitBrain() bool { return o == SplitBrain || o == SplitBrainManual }

// full returns the same direction with every block copied.
func (o Outcome) full() Outcome {
	switch o {
	case SourceUseBitmap:
		return SourceSetBitmap
	case TargetUseBitmap:
		return TargetSetBitmap
	}
	return o
}

// FeatureWriteSame is the agreed feature flag that rule R41 needs (spec: wire 4.1).
const FeatureWriteSame uint32 = 4

// Side is what is known of one of the two nodes.
type Side struct {
	IDs GenerationIDs
	// Flags are those of the node's P_UUIDS; for the own side those that were sent.
	Flags UUIDFlags
	// BitmapBits is how many blocks (4 KiB) the node's P_UUIDS said are out of
	// sync; for the own side the number that was sent, not the one of now.
	BitmapBits uint64
	// Primary is the role at this moment.
	Primary bool
	// CrashedPrimary, or FlagCrashedPrimary in Flags, says that the node crashed
	// as Primary and the disks have not been UpToDate together since.
	CrashedPrimary bool
}

func (s Side) crashed() bool { return s.CrashedPrimary || s.Flags&FlagCrashedPrimary != 0 }

// String returns the side as the kernel logs it (spec: behaviour 9.7).
func (s Side) String() string {
	flags := s.Flags
	if s.CrashedPrimary {
		flags |= FlagCrashedPrimary
	}
	return fmt.Sprintf("%s bits:%d flags:%X", s.IDs, s.BitmapBits, uint64(flags))
}

// CompareInput is everything a comparison depends on. Exactly one of the two nodes
// must have Resolver set.
type CompareInput struct {
	Own, Peer Side
	// Resolver is the resolve-conflicts bit: this node accepted the meta
	// connection (spec: behaviour 1.1). It breaks ties, and loses them.
	Resolver bool
	// Version is the agreed protocol version, 86 to 101.
	Version int
	// Features are the agreed feature flags; FeatureWriteSame matters.
	Features uint32
}

// mirror returns the same situation as the peer sees it.
func (in CompareInput) mirror() CompareInput {
	in.Own, in.Peer = in.Peer, in.Own
	in.Resolver = !in.Resolver
	return in
}

// Verdict is the result of a comparison, with all that explains it.
type Verdict struct {
	Outcome Outcome
	// Rule is the number that the kernel logs, for example 50 for R50.
	Rule int
	// Own and Peer are the identifiers as they were compared.
	Own, Peer GenerationIDs
	// CorrectedOwn is what this node has to hold in memory from now on, and to
	// store with its next superblock; CorrectedPeer replaces what is kept of the
	// peer's P_UUIDS. They differ from Own and Peer after R34, R35, R51 and R71,
	// where a message at the start or end of a resync was lost.
	CorrectedOwn, CorrectedPeer GenerationIDs
	OwnChanged, PeerChanged     bool

	text string
}

// Sentence returns one sentence for the operator, ending with the rule.
func (v Verdict) Sentence() string { return fmt.Sprintf("%s (rule %d).", v.text, v.Rule) }

// LogLine returns the line by which the kernel logs a verdict (spec: behaviour 9.7).
func (v Verdict) LogLine() string {
	return fmt.Sprintf("uuid_compare()=%d by rule %d", v.Outcome.Code(), v.Rule)
}

// Compare compares the identifiers of two disks and says what follows from them
// alone (spec: behaviour 3.5). Both nodes run it, each for itself, and come to
// mirrored outcomes: the table is in rules. Where the table would not mirror the
// outcome is Contradictory, or BothZero, and both refuse, unless one of the disks is
// Inconsistent: a resync from older data that was broken off leaves such identifiers,
// with two good disks no history does. Disk states and policies come after: see Decide.
//
// Compare is pure and does not allocate.
func Compare(in CompareInput) Verdict {
	v := judge(in)
	if other := judge(in.mirror()); other.Outcome != v.Outcome.Mirror() {
		v.Outcome = Contradictory
		v.CorrectedOwn, v.CorrectedPeer = v.Own, v.Peer
		v.OwnChanged, v.PeerChanged = false, false
		v.text = "Each node's data claims to be older than the other's: a resync from the older data " +
			"was broken off, or metadata was restored or edited by hand"
	}
	return v
}

// judge applies the first matching row of the table.
func judge(in CompareInput) Verdict {
	v := Verdict{
		Own: in.Own.IDs, Peer: in.Peer.IDs,
		CorrectedOwn: in.Own.IDs, CorrectedPeer: in.Peer.IDs,
	}
	for i := range rules {
		r := &rules[i]
		if !r.when(in) {
			continue
		}
		v.Outcome, v.Rule, v.text = r.outcome, r.number, r.text
		switch {
		case in.Version < r.minVersion:
			v.Outcome = NeedProtocol91
			v.text = "A message at the start or end of a resync was lost, and to sort that out both nodes need protocol 91"
			return v
		case r.features&^in.Features != 0:
			v.Outcome = NeedWriteSame
			v.text = "A crashed Primary meets a node that is Primary now, and to sort that out both nodes need the feature WSAME"
			return v
		}
		if r.correctOwn != nil {
			v.CorrectedOwn, v.OwnChanged = r.correctOwn(v.Own), true
		}
		if r.correctPeer != nil {
			v.CorrectedPeer, v.PeerChanged = r.correctPeer(v.Peer), true
		}
		return v
	}
	panic("metadata: the last rule matches everything")
}
