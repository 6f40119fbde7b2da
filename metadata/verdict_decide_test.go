// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// atOdds is a split brain between two good disks.
func atOdds() DecideInput {
	return DecideInput{CompareInput: split(true, false, 3, 5), OwnDisk: DiskUpToDate, PeerDisk: DiskUpToDate}
}

// related is a situation where this node is the target by R50.
func related() DecideInput {
	return DecideInput{
		CompareInput: CompareInput{
			Own: Side{IDs: gi(uA, 0, 0, 0)}, Peer: Side{IDs: gi(uB, uA, 0, 0)}, Version: 101, Features: 0xf,
		},
		OwnDisk: DiskUpToDate, PeerDisk: DiskUpToDate,
	}
}

func distant() DecideInput { // R100, split brain with at best an old generation in common
	in := related()
	in.Peer.IDs = gi(uB, 0, 0, 0)
	return in
}

// Every line of spec: behaviour 3.6.
func TestDecide(t *testing.T) {
	with := func(in DecideInput, change func(in *DecideInput)) DecideInput {
		change(&in)
		return in
	}
	type want struct {
		action   Action
		full     bool
		refusal  Refusal
		by       Decider
		demote   bool
		handlers []Handler
	}
	for _, tc := range []struct {
		name string
		in   DecideInput
		want want
	}{
		{"no sync", with(related(), func(in *DecideInput) { in.Peer.IDs = in.Own.IDs }), want{}},
		{"target", related(), want{action: ActBecomeTarget}},
		{"source", with(related(), func(in *DecideInput) { in.CompareInput = in.mirror() }), want{action: ActBecomeSource}},
		{"full", with(related(), func(in *DecideInput) { in.Peer.IDs = gi(uB, 0, uA, 0) }), want{action: ActBecomeTarget, full: true}},
		{"unrelated", with(related(), func(in *DecideInput) { in.Peer.IDs, in.Own.IDs = gi(uB, 0, uC, uD), gi(uA, 0, uE, uF) }),
			want{action: ActStandAlone, refusal: RefusedByIdentifiers}},
		{"both zero", with(related(), func(in *DecideInput) { in.Peer.IDs, in.Own.IDs = gi(0, 0, 0, 0), gi(0, 0, 0, 0) }),
			want{action: ActStandAlone, refusal: RefusedByIdentifiers}},
		{"unrelated, one inconsistent: identifiers first", with(related(), func(in *DecideInput) {
			in.Peer.IDs, in.Own.IDs = gi(uB, 0, uC, uD), gi(uA, 0, uE, uF)
			in.OwnDisk = DiskInconsistent
		}), want{action: ActStandAlone, refusal: RefusedByIdentifiers}},

		{"disk states turn the direction", with(related(), func(in *DecideInput) { in.PeerDisk = DiskInconsistent }),
			want{action: ActBecomeSource, by: ByDiskStates}},
		{"disk states give one", with(related(), func(in *DecideInput) { in.Peer.IDs, in.OwnDisk = in.Own.IDs, DiskInconsistent }),
			want{action: ActBecomeTarget, by: ByDiskStates}},
		{"disk states agree", with(related(), func(in *DecideInput) { in.OwnDisk = DiskInconsistent }), want{action: ActBecomeTarget}},
		{"disk states keep full", with(related(), func(in *DecideInput) { in.Peer.IDs, in.PeerDisk = gi(uB, 0, uA, 0), DiskInconsistent }),
			want{action: ActBecomeSource, full: true, by: ByDiskStates}},
		{"disk states over R90: bitmap", with(atOdds(), func(in *DecideInput) { in.PeerDisk = DiskInconsistent }),
			want{action: ActBecomeSource, by: ByDiskStates}},
		{"disk states over R100: full", with(distant(), func(in *DecideInput) { in.OwnDisk = DiskInconsistent }),
			want{action: ActBecomeTarget, full: true, by: ByDiskStates}},
		{"both inconsistent: no help", with(related(), func(in *DecideInput) { in.OwnDisk, in.PeerDisk = DiskInconsistent, DiskInconsistent }),
			want{action: ActBecomeTarget}},
		{"outdated is consistent", with(related(), func(in *DecideInput) { in.OwnDisk, in.PeerDisk = DiskOutdated, DiskInconsistent }),
			want{action: ActBecomeSource, by: ByDiskStates}},
		{"source, but inconsistent", with(related(), func(in *DecideInput) {
			in.CompareInput = in.mirror()
			in.OwnDisk, in.PeerDisk = DiskInconsistent, DiskInconsistent
		}), want{action: ActStandAlone, refusal: RefusedInconsistentSource}},

		{"split brain", atOdds(), want{action: ActStandAlone, refusal: RefusedSplitBrain,
			handlers: []Handler{HandlerInitialSplitBrain, HandlerSplitBrain}}},
		{"policy", with(atOdds(), func(in *DecideInput) { in.Policies.AfterSB0Pri = PolicyDiscardLeastChanges }),
			want{action: ActBecomeTarget, by: ByPolicy, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"policy, R100", with(distant(), func(in *DecideInput) { in.Policies.AfterSB0Pri = PolicyDiscardLocal }),
			want{action: ActStandAlone, refusal: RefusedSplitBrain, handlers: []Handler{HandlerInitialSplitBrain, HandlerSplitBrain}}},
		{"policy, R100, always-asbp: full", with(distant(), func(in *DecideInput) {
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLocal, AlwaysASBP: true}
		}), want{action: ActBecomeTarget, full: true, by: ByPolicy, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"R41, both Primary, always-asbp", with(related(), func(in *DecideInput) {
			in.Peer.IDs = in.Own.IDs
			in.Own.Primary, in.Peer.Primary, in.Peer.CrashedPrimary = true, true, true
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardRemote, AfterSB2Pri: PolicyViolently, AlwaysASBP: true}
		}), want{action: ActBecomeSource, full: true, by: ByPolicy, handlers: []Handler{HandlerInitialSplitBrain}}},

		{"pri-lost-after-sb", with(atOdds(), func(in *DecideInput) {
			in.Own.Primary = true
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyCallPriLost}
		}), want{action: ActStandAlone, refusal: RefusedSplitBrain,
			handlers: []Handler{HandlerInitialSplitBrain, HandlerPriLostAfterSB, HandlerSplitBrain}}},
		{"pri-lost-after-sb, demoted", with(atOdds(), func(in *DecideInput) {
			in.Own.Primary, in.CanDemote = true, true
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyCallPriLost}
		}), want{action: ActBecomeTarget, by: ByPolicy, demote: true, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"pri-lost-after-sb against discard-my-data", with(atOdds(), func(in *DecideInput) {
			in.Own.Primary, in.CanDemote, in.Peer.Flags = true, true, FlagDiscardMyData
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyCallPriLost}
		}), want{action: ActBecomeSource, by: ByDiscardMyData, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"the same, seen by the other node", with(atOdds(), func(in *DecideInput) {
			in.CompareInput = in.mirror()
			in.Peer.Primary, in.Own.Flags = true, FlagDiscardMyData
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyCallPriLost}
		}), want{action: ActBecomeTarget, by: ByDiscardMyData, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"violently, but rr-conflict", with(atOdds(), func(in *DecideInput) {
			in.Own.Primary = true
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyViolently}
		}), want{action: ActStandAlone, refusal: RefusedPrimaryTarget, by: ByPolicy, handlers: []Handler{HandlerInitialSplitBrain}}},

		{"discard-my-data here", with(atOdds(), func(in *DecideInput) { in.Own.Flags = FlagDiscardMyData }),
			want{action: ActBecomeTarget, by: ByDiscardMyData, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"discard-my-data there", with(atOdds(), func(in *DecideInput) { in.Peer.Flags = FlagDiscardMyData }),
			want{action: ActBecomeSource, by: ByDiscardMyData, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"discard-my-data on both", with(atOdds(), func(in *DecideInput) { in.Own.Flags, in.Peer.Flags = 1, 1 }),
			want{action: ActStandAlone, refusal: RefusedSplitBrain, handlers: []Handler{HandlerInitialSplitBrain, HandlerSplitBrain}}},
		{"discard-my-data comes after the policies", with(atOdds(), func(in *DecideInput) {
			in.Policies.AfterSB0Pri, in.Peer.Flags = PolicyDiscardLeastChanges, FlagDiscardMyData
		}), want{action: ActBecomeTarget, by: ByPolicy, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"discard-my-data after R100: full, unlike DRBD", with(distant(), func(in *DecideInput) { in.Own.Flags = FlagDiscardMyData }),
			want{action: ActBecomeTarget, full: true, by: ByDiscardMyData, handlers: []Handler{HandlerInitialSplitBrain}}},
		{"discard-my-data is nothing without split brain", with(related(), func(in *DecideInput) { in.Peer.Flags = FlagDiscardMyData }),
			want{action: ActBecomeTarget}},

		{"rr-conflict", with(related(), func(in *DecideInput) { in.Own.Primary = true }), want{action: ActStandAlone, refusal: RefusedPrimaryTarget}},
		{"rr-conflict=call-pri-lost", with(related(), func(in *DecideInput) { in.Own.Primary, in.Policies.RRConflict = true, RRCallPriLost }),
			want{action: ActStandAlone, refusal: RefusedPrimaryTarget, handlers: []Handler{HandlerPriLost}}},
		{"rr-conflict=violently", with(related(), func(in *DecideInput) { in.Own.Primary, in.Policies.RRConflict = true, RRViolently }),
			want{action: ActBecomeTarget}},
		{"rr-conflict does not apply to a disk that was no good", with(related(), func(in *DecideInput) {
			in.Own.Primary, in.OwnDisk = true, DiskInconsistent
		}), want{action: ActBecomeTarget}},
		{"rr-conflict does not apply to an attach", with(related(), func(in *DecideInput) {
			in.Own.Primary, in.OwnDisk, in.KeptDisk = true, DiskNegotiating, DiskUpToDate
		}), want{action: ActBecomeTarget}},

		{"attach here: the state kept aside counts", with(related(), func(in *DecideInput) {
			in.OwnDisk, in.KeptDisk, in.PeerDisk = DiskNegotiating, DiskUpToDate, DiskInconsistent
		}), want{action: ActBecomeSource, by: ByDiskStates}},
		{"attach there: consistent", with(related(), func(in *DecideInput) { in.PeerDisk = DiskNegotiating }), want{action: ActBecomeTarget}},
		{"attach there: inconsistent", with(related(), func(in *DecideInput) {
			in.PeerDisk, in.Peer.Flags = DiskNegotiating, FlagInconsistent
		}), want{action: ActBecomeSource, by: ByDiskStates}},
		{"attach here refused", with(atOdds(), func(in *DecideInput) { in.OwnDisk, in.KeptDisk = DiskNegotiating, DiskUpToDate }),
			want{action: ActFailAttach, refusal: RefusedSplitBrain, handlers: []Handler{HandlerInitialSplitBrain, HandlerSplitBrain}}},
		{"attach there refused", with(atOdds(), func(in *DecideInput) { in.PeerDisk = DiskNegotiating }),
			want{action: ActPeerAttachFail, refusal: RefusedSplitBrain, handlers: []Handler{HandlerInitialSplitBrain, HandlerSplitBrain}}},

		{"dry run here", with(related(), func(in *DecideInput) { in.OwnDryRun = true }), want{action: ActStandAlone, refusal: RefusedDryRun}},
		{"dry run there", with(related(), func(in *DecideInput) { in.PeerDryRun = true }), want{action: ActReconnect, refusal: RefusedDryRun}},
		{"dry run without sync", with(related(), func(in *DecideInput) { in.Peer.IDs, in.OwnDryRun = in.Own.IDs, true }),
			want{action: ActStandAlone, refusal: RefusedDryRun}},
		{"dry run over split brain still calls", with(atOdds(), func(in *DecideInput) { in.PeerDryRun = true }),
			want{action: ActReconnect, refusal: RefusedSplitBrain, handlers: []Handler{HandlerInitialSplitBrain, HandlerSplitBrain}}},
		{"dry run does not demote", with(atOdds(), func(in *DecideInput) {
			in.Own.Primary, in.CanDemote, in.OwnDryRun = true, true, true
			in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyCallPriLost}
		}), want{action: ActStandAlone, refusal: RefusedDryRun, by: ByPolicy, handlers: []Handler{HandlerInitialSplitBrain}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Decide(tc.in)
			require.Equal(t, tc.want, want{d.Action, d.FullSync, d.Refusal, d.DecidedBy, d.Demote, d.Handlers}, "%s", d.Explain("r0"))
		})
	}
}

func TestDecideLogs(t *testing.T) {
	in := atOdds()
	in.Own.CrashedPrimary, in.Own.Flags = true, FlagSkipInitialSync
	require.Equal(t, []string{
		"self 00000000000000A0:00000000000000B1:0000000000000000:0000000000000000 bits:3 flags:A",
		"peer 00000000000000C0:00000000000000B0:0000000000000000:0000000000000000 bits:5 flags:0",
		"uuid_compare()=100 by rule 90",
		"helper command: initial-split-brain",
		"after-sb-0pri=disconnect: undecided",
		"Split-Brain detected but unresolved, dropping connection!",
		"helper command: split-brain",
	}, Decide(in).Log)

	in = related()
	in.Peer.IDs, in.Own.BitmapBits = in.Own.IDs, 3
	log := Decide(in).Log
	require.Equal(t, "uuid_compare()=0 by rule 40", log[2])
	require.Contains(t, log[3], "3 bits are set", "R10 and R40 only log them")
}

// drawDecide draws the same situation for both nodes: theirs is the second result.
func drawDecide(t *rapid.T) (DecideInput, DecideInput) {
	disk := rapid.SampledFrom([]DiskState{DiskInconsistent, DiskOutdated, DiskConsistent, DiskUpToDate})
	policies := Policies{
		AfterSB0Pri: SplitBrainPolicy(rapid.Uint32Range(0, 6).Draw(t, "0pri")),
		AfterSB1Pri: rapid.SampledFrom([]SplitBrainPolicy{0, 7, 8, 9, 10}).Draw(t, "1pri"),
		AfterSB2Pri: rapid.SampledFrom([]SplitBrainPolicy{0, 9, 10}).Draw(t, "2pri"),
		AlwaysASBP:  rapid.Bool().Draw(t, "asbp"), // not compared, but they can only agree if equal
		RRConflict:  RRConflict(rapid.Uint8Range(0, 2).Draw(t, "rr")),
	}
	own := DecideInput{
		CompareInput: drawCompare(t),
		OwnDisk:      disk.Draw(t, "own disk"), PeerDisk: disk.Draw(t, "peer disk"), KeptDisk: DiskUpToDate,
		Policies:  policies,
		CanDemote: rapid.Bool().Draw(t, "demote"),
		OwnDryRun: rapid.Bool().Draw(t, "dry"), PeerDryRun: rapid.Bool().Draw(t, "peer dry"),
	}
	if rapid.Bool().Draw(t, "often a split brain") {
		own.Own.IDs, own.Peer.IDs = gi(uA, uB|own.Own.IDs.Bitmap&1, 0, 0), gi(uC, uB|own.Peer.IDs.Bitmap&1, 0, 0)
	}
	peer := own
	peer.CompareInput = own.mirror()
	peer.OwnDisk, peer.PeerDisk = own.PeerDisk, own.OwnDisk
	peer.OwnDryRun, peer.PeerDryRun = own.PeerDryRun, own.OwnDryRun
	peer.Policies.AfterSB0Pri = policies.AfterSB0Pri.Mirror()
	peer.CanDemote = rapid.Bool().Draw(t, "peer demote")
	return own, peer
}

// If neither node refuses, they do mirrored things; every decision can be explained.
func TestDecideMirrors(t *testing.T) {
	for range 20 { // a hundred draws each
		rapid.Check(t, decideMirrors)
	}
}

func decideMirrors(t *rapid.T) {
	a, b := drawDecide(t)
	own, peer := Decide(a), Decide(b)
	if own.Refusal == NotRefused && peer.Refusal == NotRefused {
		require.Equal(t, own.Outcome, peer.Outcome.Mirror())
		require.Equal(t, own.FullSync, peer.FullSync)
		require.Equal(t, own.Action == ActBecomeSource, peer.Action == ActBecomeTarget)
	}
	for _, d := range []Decision{own, peer} {
		require.NotEmpty(t, d.Sentence())
		require.Contains(t, d.Explain("r0"), d.Verdict.Own.String())
		if d.Refusal != NotRefused {
			require.NotEmpty(t, d.Advice("r0"))
		}
		// Data that diverged is never overwritten unless somebody said so.
		if d.Verdict.Outcome.IsSplitBrain() && d.Refusal == NotRefused {
			require.NotEqual(t, ByIdentifiers, d.DecidedBy)
		}
		// A Primary's good data neither, unless it was said so or it is demoted.
		if d.Action == ActBecomeTarget && d.in.Own.Primary && d.in.OwnDisk >= DiskConsistent {
			require.True(t, d.Demote || d.in.Policies.RRConflict == RRViolently)
		}
	}
}

// The automatic policies keep what they promise to keep.
func TestPoliciesKeepTheirPromise(t *testing.T) {
	for range 20 {
		rapid.Check(t, policiesKeepTheirPromise)
	}
}

func policiesKeepTheirPromise(t *rapid.T) {

	in, _ := drawDecide(t)
	d := Decide(in)
	if d.DecidedBy != ByPolicy || d.Refusal != NotRefused {
		return
	}
	lost, kept := in.Own, in.Peer
	if d.Action == ActBecomeSource {
		lost, kept = in.Peer, in.Own
	}
	zero := in.Policies.AfterSB0Pri == PolicyDiscardZeroChanges
	switch one := in.Own.Primary != in.Peer.Primary; {
	case one && in.Policies.AfterSB1Pri == PolicyDiscardSecondary:
		require.False(t, lost.Primary)
	case one && in.Policies.AfterSB1Pri == PolicyConsensus:
		require.False(t, lost.Primary)
		require.True(t, !zero || lost.BitmapBits == 0)
	case zero:
		require.Zero(t, lost.BitmapBits)
	case in.Policies.AfterSB0Pri == PolicyDiscardLeastChanges:
		require.LessOrEqual(t, lost.BitmapBits, kept.BitmapBits)
	}
}

func TestExplainPolicies(t *testing.T) {
	in := atOdds()
	in.Own.Primary = true
	in.Policies = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: PolicyCallPriLost}
	require.Contains(t, Decide(in).Explain("r0"), "the peer's data stays, but this node is Primary and cannot be demoted now")
	in.CanDemote = true
	require.Contains(t, Decide(in).Explain("r0"), "the peer's data stays; this node is demoted for it")
	in.Peer.Flags = FlagDiscardMyData
	require.Contains(t, Decide(in).Explain("r0"), "the peer's data stays, but that node is told to discard it")
	in.Policies.AfterSB1Pri = PolicyConsensus
	require.Contains(t, Decide(in).Explain("r0"), "discard-least-changes alone would say that the peer's data stays, but that node is not Primary")
	in = distant()
	require.Contains(t, Decide(in).Explain("r0"), "that takes always-asbp")
}

func TestNames(t *testing.T) {
	require.Equal(t, "drop to StandAlone", ActStandAlone.String())
	require.Equal(t, "Action(99)", Action(99).String())
	require.Equal(t, "dry run", RefusedDryRun.String())
	require.Equal(t, "Refusal(99)", Refusal(99).String())
	require.Len(t, actionNames, int(ActStandAlone)+1)
	require.Len(t, refusalNames, int(RefusedDryRun)+1)
}
