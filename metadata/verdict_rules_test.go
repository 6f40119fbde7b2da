// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Generations of the tests; the last digit stays even, PrimaryBit is added where
// it shall be shown not to matter.
const (
	uA UUID = 0xA0
	uB UUID = 0xB0
	uC UUID = 0xC0
	uD UUID = 0xD0
	uE UUID = 0xE0
	uF UUID = 0xF0
)

type ruleCase struct {
	row       string // name of the row in rules
	own, peer GenerationIDs
	with      func(*CompareInput) // what else is special
	outcome   Outcome
	code      int
	rule      int

	// What the identifiers are corrected to; zero for no correction.
	ownBecomes, peerBecomes GenerationIDs
}

var (
	ownCrashed  = func(in *CompareInput) { in.Own.CrashedPrimary = true }
	peerCrashed = func(in *CompareInput) { in.Peer.Flags |= FlagCrashedPrimary }
	bothCrashed = func(in *CompareInput) { ownCrashed(in); peerCrashed(in) }
	ownPrimary  = func(in *CompareInput) { in.Own.Primary = true }
	peerPrimary = func(in *CompareInput) { in.Peer.Primary = true }
	resolver    = func(in *CompareInput) { in.Resolver = true }
	noFeature   = func(in *CompareInput) { in.Features &^= FeatureWriteSame }
	version     = func(v int) func(*CompareInput) { return func(in *CompareInput) { in.Version = v } }
)

func all(fs ...func(*CompareInput)) func(*CompareInput) {
	return func(in *CompareInput) {
		for _, f := range fs {
			f(in)
		}
	}
}

// One case or more for each row of spec: behaviour 3.5, in its order.
var ruleCases = []ruleCase{
	{row: "R20 both zero", own: gi(0, 0, 0, 0), peer: gi(0, 0, 0, 0), outcome: BothZero, code: -2001, rule: 20},
	{row: "R20 both zero", own: gi(1, uB, uC, 0), peer: gi(0, uA, 0, 0), outcome: BothZero, code: -2001, rule: 20},
	{row: "R10", own: gi(4, 0, 0, 0), peer: gi(4, 0, 0, 0), outcome: NoSync, code: 0, rule: 10},
	{row: "R10", own: gi(5, uB, 0, 0), peer: gi(4, 0, 0, 0), outcome: NoSync, code: 0, rule: 10},
	{row: "R20", own: gi(4, 0, 0, 0), peer: gi(uA, 0, 0, 0), outcome: TargetSetBitmap, code: -2, rule: 20},
	{row: "R20", own: gi(0, 0, 0, 0), peer: gi(uA, 0, 0, 0), outcome: TargetSetBitmap, code: -2, rule: 20},
	{row: "R20", own: gi(4, 0, 0, 0), peer: gi(0, 0, 0, 0), outcome: TargetSetBitmap, code: -2, rule: 20},
	{row: "R20", own: gi(4, 0, 0, 0), peer: gi(uA|1, 4, 0, 0), outcome: TargetSetBitmap, code: -2, rule: 20},
	{row: "R30", own: gi(uA, 0, 0, 0), peer: gi(4, 0, 0, 0), outcome: SourceSetBitmap, code: 2, rule: 30},
	{row: "R30", own: gi(uA, 4, 0, 0), peer: gi(0, 0, 0, 0), outcome: SourceSetBitmap, code: 2, rule: 30},
	{row: "R30", own: gi(0, 0, 0, 0), peer: gi(5, 0, 0, 0), outcome: SourceSetBitmap, code: 2, rule: 30},

	{row: "R34", own: gi(uA|1, uB, uC, uD), peer: gi(uA, 0, uB|1, uC|1), outcome: SourceUseBitmap, code: 1, rule: 34,
		ownBecomes: gi(uA|1, 0, uB, uC)},
	{row: "R34", own: gi(uA, uB, uC, 0), peer: gi(uA, 0, uB, uC), with: version(91), outcome: SourceUseBitmap, code: 1, rule: 34,
		ownBecomes: gi(uA, 0, uB, uC)},
	{row: "R34", own: gi(uA, uB, uC, uD), peer: gi(uA, 0, uB, uC), with: version(90), outcome: NeedProtocol91, code: -1091, rule: 34},
	{row: "R36", own: gi(uA, uB, uC, uD), peer: gi(uA, 0, uC, uD), outcome: SourceUseBitmap, code: 1, rule: 36},
	{row: "R36", own: gi(uA, uB, uC, uD), peer: gi(uA, 0, uC, uD), with: bothCrashed, outcome: SourceUseBitmap, code: 1, rule: 36},
	{row: "R36", own: gi(uA, uB, 0, 0), peer: gi(uA, 0, uB, uC), outcome: SourceUseBitmap, code: 1, rule: 36},
	{row: "R36", own: gi(uA, uB, 0, 0), peer: gi(uA, 0, 0, 0), with: version(86), outcome: NeedProtocol91, code: -1091, rule: 36},
	{row: "R35", own: gi(uA, 0, uB, uC), peer: gi(uA|1, uB|1, uC, uD), outcome: TargetUseBitmap, code: -1, rule: 35,
		peerBecomes: gi(uA|1, 0, uB|1, uC)},
	{row: "R35", own: gi(uA, 0, uB, uC), peer: gi(uA, uB, uC, uD), with: version(90), outcome: NeedProtocol91, code: -1091, rule: 35},
	{row: "R37", own: gi(uA, 0, 0, 0), peer: gi(uA, uB, 0, 0), outcome: TargetUseBitmap, code: -1, rule: 37},
	{row: "R37", own: gi(uA, 0, 0, 0), peer: gi(uA, uB, 0, 0), with: version(90), outcome: NeedProtocol91, code: -1091, rule: 37},

	{row: "R40", own: gi(uA, 0, uB, uC), peer: gi(uA|1, 0, uD, 0), outcome: NoSync, code: 0, rule: 40},
	{row: "R40", own: gi(uA, uB, 0, 0), peer: gi(uA, uD, 0, 0), with: all(ownPrimary, peerPrimary), outcome: NoSync, code: 0, rule: 40},
	{row: "R40", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(noFeature, version(86)), outcome: NoSync, code: 0, rule: 40},
	{row: "R41 both Primary", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(ownCrashed, ownPrimary, peerPrimary),
		outcome: SplitBrainManual, code: -100, rule: 41},
	{row: "R41 both Primary", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(ownCrashed, ownPrimary, peerPrimary, noFeature),
		outcome: NeedWriteSame, code: -2000, rule: 41},
	{row: "R41 own Primary", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(peerCrashed, ownPrimary), outcome: SourceUseBitmap, code: 1, rule: 41},
	{row: "R41 own Primary", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(ownCrashed, ownPrimary), outcome: SourceUseBitmap, code: 1, rule: 41},
	{row: "R41 own Primary", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(peerCrashed, ownPrimary, noFeature), outcome: NeedWriteSame, code: -2000, rule: 41},
	{row: "R41 peer Primary", own: gi(uA, uB, 0, 0), peer: gi(uA, uC, 0, 0), with: all(ownCrashed, peerPrimary), outcome: TargetUseBitmap, code: -1, rule: 41},
	{row: "R41 peer Primary", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(bothCrashed, peerPrimary, noFeature), outcome: NeedWriteSame, code: -2000, rule: 41},
	{row: "R40 own crashed", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(ownCrashed, resolver, noFeature), outcome: SourceUseBitmap, code: 1, rule: 40},
	{row: "R40 peer crashed", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(peerCrashed, noFeature), outcome: TargetUseBitmap, code: -1, rule: 40},
	{row: "R40 both crashed, resolver", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: all(bothCrashed, resolver), outcome: TargetUseBitmap, code: -1, rule: 40},
	{row: "R40 both crashed, other", own: gi(uA, 0, 0, 0), peer: gi(uA, 0, 0, 0), with: bothCrashed, outcome: SourceUseBitmap, code: 1, rule: 40},

	{row: "R50", own: gi(uA, 0, 0, 0), peer: gi(uB|1, uA|1, 0, 0), outcome: TargetUseBitmap, code: -1, rule: 50},
	{row: "R50", own: gi(uA, uD, 0, 0), peer: gi(uB, uA, 0, 0), with: all(bothCrashed, ownPrimary), outcome: TargetUseBitmap, code: -1, rule: 50},
	{row: "R51", own: gi(uA, 0, uE, 0), peer: gi(uB, uA+SyncUUIDStep|1, uA, uC), outcome: TargetUseBitmap, code: -1, rule: 51,
		peerBecomes: gi(uB, uA, uC, uC)},
	{row: "R51", own: gi(uA, 0, uC|1, 0), peer: gi(uB, uD, uA, uC), with: version(95), outcome: TargetUseBitmap, code: -1, rule: 51,
		peerBecomes: gi(uB, uA, uC, uC)},
	{row: "R51", own: gi(uA, 0, uC, 0), peer: gi(uB, uD, uA, uC), with: version(90), outcome: NeedProtocol91, code: -1091, rule: 51},
	{row: "R60", own: gi(uA, 0, uC, 0), peer: gi(uB, uD, uA, uC), outcome: TargetSetBitmap, code: -2, rule: 60},
	{row: "R60", own: gi(uA, 0, uC, 0), peer: gi(uB, uA+SyncUUIDStep, uA, 0), with: version(90), outcome: TargetSetBitmap, code: -2, rule: 60},
	{row: "R60", own: gi(uA, 0, 0, 0), peer: gi(uB, 0, uC, uA|1), outcome: TargetSetBitmap, code: -2, rule: 60},
	{row: "R70", own: gi(uB, uA, 0, 0), peer: gi(uA|1, 0, 0, 0), outcome: SourceUseBitmap, code: 1, rule: 70},
	{row: "R71", own: gi(uB, uA+SyncUUIDStep, uA|1, uC), peer: gi(uA, 0, uE, 0), outcome: SourceUseBitmap, code: 1, rule: 71,
		ownBecomes: gi(uB, uA|1, uC, uC)},
	{row: "R71", own: gi(uB, uD, uA, uC), peer: gi(uA, 0, uC, 0), with: version(91), outcome: SourceUseBitmap, code: 1, rule: 71,
		ownBecomes: gi(uB, uA, uC, uC)},
	{row: "R71", own: gi(uB, uD, uA, uC), peer: gi(uA, 0, uC, 0), with: version(86), outcome: NeedProtocol91, code: -1091, rule: 71},
	{row: "R80", own: gi(uB, uD, uC, uA), peer: gi(uA, 0, 0, 0), outcome: SourceSetBitmap, code: 2, rule: 80},
	{row: "R80", own: gi(uB, uD, uA, uC), peer: gi(uA, 0, uC, 0), outcome: SourceSetBitmap, code: 2, rule: 80},
	{row: "R90", own: gi(uA|1, uC|1, 0, 0), peer: gi(uB|1, uC, 0, 0), with: all(ownPrimary, peerPrimary), outcome: SplitBrain, code: 100, rule: 90},
	{row: "R100", own: gi(uA, uC, uE, uF), peer: gi(uB, uD, uB, uE|1), outcome: SplitBrainManual, code: -100, rule: 100},
	{row: "R100", own: gi(uA, 0, 0, 0), peer: gi(uB, 0, 0, 0), outcome: SplitBrainManual, code: -100, rule: 100},
	{row: "R100", own: gi(uA, 0, uC, 0), peer: gi(uB, 0, uD, 0), outcome: SplitBrainManual, code: -100, rule: 100},
	{row: "R100 unrelated", own: gi(uA, 0, uC, uD), peer: gi(uB, 0, 0, 0), outcome: Unrelated, code: -1000, rule: 100},
	{row: "R100 unrelated", own: gi(uA, 1, uC, uD), peer: gi(uB, 1, uE, uF), outcome: Unrelated, code: -1000, rule: 100},
}

func (tc ruleCase) input() CompareInput {
	in := CompareInput{Own: Side{IDs: tc.own}, Peer: Side{IDs: tc.peer}, Version: 101, Features: 0xf}
	if tc.with != nil {
		tc.with(&in)
	}
	return in
}

// matched returns the name of the row that decides.
func matched(in CompareInput) string {
	for i := range rules {
		if rules[i].when(in) {
			return rules[i].name
		}
	}
	return ""
}

func TestRules(t *testing.T) {
	seen := map[string]bool{}
	for _, tc := range ruleCases {
		in := tc.input()
		t.Run(tc.row, func(t *testing.T) {
			seen[tc.row] = true
			require.Equal(t, tc.row, matched(in))
			v := Compare(in)
			require.Equal(t, tc.outcome, v.Outcome)
			require.Equal(t, tc.code, v.Outcome.Code())
			require.Equal(t, tc.rule, v.Rule)
			require.Equal(t, tc.own, v.Own)
			require.Equal(t, tc.peer, v.Peer)
			require.Regexp(t, `^[A-Z].*[^.] \(rule \d+\)\.$`, v.Sentence())

			require.Equal(t, tc.ownBecomes != GenerationIDs{}, v.OwnChanged)
			require.Equal(t, tc.peerBecomes != GenerationIDs{}, v.PeerChanged)
			wantOwn, wantPeer := tc.own, tc.peer
			if v.OwnChanged {
				wantOwn = tc.ownBecomes
			}
			if v.PeerChanged {
				wantPeer = tc.peerBecomes
			}
			require.Equal(t, wantOwn, v.CorrectedOwn)
			require.Equal(t, wantPeer, v.CorrectedPeer)

			checkMirror(t, in)
		})
	}
	for i := range rules {
		require.True(t, seen[rules[i].name], "row %s has no case", rules[i].name)
	}
}

// After a correction the tuples say, by another rule, what the correction says.
func TestCorrectedTuplesStand(t *testing.T) {
	for _, tc := range ruleCases {
		v := Compare(tc.input())
		if !v.OwnChanged && !v.PeerChanged {
			continue
		}
		in := tc.input()
		in.Own.IDs, in.Peer.IDs = v.CorrectedOwn, v.CorrectedPeer
		again := Compare(in)
		switch v.Rule {
		case 51, 71: // the lost sync UUID never was
			require.Equal(t, v.Outcome, again.Outcome, tc.row)
			require.Contains(t, []int{50, 70}, again.Rule, tc.row)
		case 34, 35: // the resync is over, what is left is an empty one
			require.Equal(t, NoSync, again.Outcome, tc.row)
		}
	}
}

// A kernel was given these tuples by hand (spec: wire 7).
func TestKernelCheckedSplitBrain(t *testing.T) {
	v := Compare(CompareInput{
		Own:     Side{IDs: gi(0x1111111111111110, 0x5555555555555554, 0x3333333333333332, 0)},
		Peer:    Side{IDs: gi(0x2222222222222222, 0x5555555555555554, 0x3333333333333332, 0)},
		Version: 101, Features: 0xf,
	})
	require.Equal(t, "uuid_compare()=100 by rule 90", v.LogLine())
}

func TestContradictory(t *testing.T) {
	for _, tc := range []struct{ own, peer GenerationIDs }{
		{gi(uA, uB, 0, 0), gi(uB, uA, 0, 0)},                    // each the other's base
		{gi(uA, 0, uB, 0), gi(uB, 0, uA, 0)},                    // each in the other's history
		{gi(uA, uB, 0, 0), gi(uB, 0, 0, uA)},                    // mixed
		{gi(uA, uB+SyncUUIDStep, uB, 0), gi(uB, uA, 0, 0)},      // with R71
		{gi(uA, uD, uB, 0), gi(uB, uA+SyncUUIDStep, uA, 0)},     // with R51
		{gi(uA, uB+SyncUUIDStep, uB, uC), gi(uB, uC, uA, uA|1)}, // with R60
	} {
		in := CompareInput{Own: Side{IDs: tc.own}, Peer: Side{IDs: tc.peer}, Version: 101, Features: 0xf}
		v := Compare(in)
		require.Equal(t, Contradictory, v.Outcome)
		require.Equal(t, tc.own, v.CorrectedOwn)
		require.Equal(t, tc.peer, v.CorrectedPeer)
		require.False(t, v.OwnChanged || v.PeerChanged)
		checkMirror(t, in)
		for _, disks := range []struct {
			own, peer DiskState
			want      Action
		}{
			{DiskUpToDate, DiskUpToDate, ActStandAlone},
			{DiskInconsistent, DiskInconsistent, ActStandAlone},
			{DiskUpToDate, DiskInconsistent, ActBecomeSource}, // the disk states decide, and all is copied
			{DiskInconsistent, DiskOutdated, ActBecomeTarget},
		} {
			d := Decide(DecideInput{CompareInput: in, OwnDisk: disks.own, PeerDisk: disks.peer})
			require.Equal(t, disks.want, d.Action)
			require.Equal(t, disks.want != ActStandAlone, d.FullSync)
		}
	}
}

func TestOutcome(t *testing.T) {
	for o := range Outcome(len(outcomes)) {
		require.Equal(t, o, o.Mirror().Mirror(), o)
		require.NotEmpty(t, o.String())
		require.Equal(t, o.IsSource(), o.Mirror().IsTarget(), o)
		require.Equal(t, o.IsFull(), o.Mirror().IsFull(), o)
		if o.IsSource() || o.IsTarget() {
			require.Equal(t, -o.Code(), o.Mirror().Code())
		}
	}
	odd := Outcome(99)
	require.Equal(t, "Outcome(99)", odd.String())
	require.Equal(t, odd, odd.Mirror())
	require.Equal(t, 99, odd.Code())
}
