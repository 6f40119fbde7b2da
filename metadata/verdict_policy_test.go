// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPolicyNamesAndNumbers(t *testing.T) {
	for i, name := range []string{
		"disconnect", "discard-younger-primary", "discard-older-primary", "discard-zero-changes",
		"discard-least-changes", "discard-local", "discard-remote", "consensus", "discard-secondary",
		"call-pri-lost-after-sb", "violently-as0p",
	} {
		require.Equal(t, name, SplitBrainPolicy(i).String(), "spec: wire 4.3")
	}
	require.Equal(t, "SplitBrainPolicy(11)", SplitBrainPolicy(11).String())
	require.Equal(t, PolicyDiscardRemote, PolicyDiscardLocal.Mirror())
	require.Equal(t, PolicyDiscardLocal, PolicyDiscardRemote.Mirror())
	require.Equal(t, PolicyConsensus, PolicyConsensus.Mirror())
	require.Equal(t, []string{"disconnect", "call-pri-lost", "violently", "RRConflict(9)"},
		[]string{RRDisconnect.String(), RRCallPriLost.String(), RRViolently.String(), RRConflict(9).String()})
}

func TestPoliciesValidate(t *testing.T) {
	allowed := map[string][]SplitBrainPolicy{"0": {0, 1, 2, 3, 4, 5, 6}, "1": {0, 7, 8, 9, 10}, "2": {0, 9, 10}}
	for p := range SplitBrainPolicy(12) {
		for option, policies := range map[string]Policies{
			"0": {AfterSB0Pri: p}, "1": {AfterSB1Pri: p}, "2": {AfterSB2Pri: p},
		} {
			err := policies.Validate()
			if contains(allowed[option], p) {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, ErrInvalidPolicy)
			require.ErrorContains(t, err, "after-sb-"+option+"pri")
		}
	}
	require.ErrorIs(t, Policies{RRConflict: 3}.Validate(), ErrInvalidPolicy)
}

func contains(list []SplitBrainPolicy, p SplitBrainPolicy) bool {
	for _, q := range list {
		if q == p {
			return true
		}
	}
	return false
}

// Spec: behaviour 4.2.
func TestMatchPeer(t *testing.T) {
	p := Policies{AfterSB0Pri: PolicyDiscardLocal, AfterSB1Pri: PolicyConsensus}
	require.NoError(t, p.MatchPeer(PolicyDiscardRemote, PolicyConsensus, PolicyDisconnect))
	for _, peer := range [][3]SplitBrainPolicy{
		{PolicyDiscardLocal, PolicyConsensus, 0}, {PolicyDiscardRemote, 0, 0}, {PolicyDiscardRemote, PolicyConsensus, PolicyViolently},
	} {
		require.ErrorIs(t, p.MatchPeer(peer[0], peer[1], peer[2]), ErrPolicyMismatch)
	}
}

// split is a split brain (R90). olderOwn and olderPeer say who was Primary when contact
// was lost.
func split(olderOwn, olderPeer bool, bitsOwn, bitsPeer uint64) CompareInput {
	base := UUID(0xB0)
	return CompareInput{
		Own:     Side{IDs: gi(uA, base.WithPrimary(olderOwn), 0, 0), BitmapBits: bitsOwn},
		Peer:    Side{IDs: gi(uC, base.WithPrimary(olderPeer), 0, 0), BitmapBits: bitsPeer},
		Version: 101, Features: 0xf,
	}
}

// Every row of the first table of spec: behaviour 4.3.
func TestAfterSB0Pri(t *testing.T) {
	const tie = winner(9) // the resolver loses
	for _, tc := range []struct {
		policy    SplitBrainPolicy
		own, peer bool   // Primary when contact was lost
		ch, chP   uint64 // changes
		want      winner
	}{
		{PolicyDisconnect, true, false, 9, 0, nobody},

		{PolicyDiscardYoungerPrimary, false, true, 9, 0, peerNode},
		{PolicyDiscardYoungerPrimary, true, false, 0, 9, thisNode},
		{PolicyDiscardYoungerPrimary, true, true, 0, 9, peerNode}, // falls through
		{PolicyDiscardYoungerPrimary, false, false, 9, 0, thisNode},
		{PolicyDiscardYoungerPrimary, true, true, 9, 8, thisNode},
		{PolicyDiscardYoungerPrimary, true, true, 8, 9, peerNode},
		{PolicyDiscardYoungerPrimary, false, false, 0, 0, tie},
		{PolicyDiscardYoungerPrimary, true, true, 5, 5, tie},

		{PolicyDiscardOlderPrimary, false, true, 0, 9, thisNode},
		{PolicyDiscardOlderPrimary, true, false, 9, 0, peerNode},
		{PolicyDiscardOlderPrimary, true, true, 0, 9, peerNode},
		{PolicyDiscardOlderPrimary, false, false, 9, 8, thisNode},
		{PolicyDiscardOlderPrimary, false, false, 5, 5, tie},

		{PolicyDiscardZeroChanges, true, true, 0, 0, tie},
		{PolicyDiscardZeroChanges, true, true, 5, 0, thisNode},
		{PolicyDiscardZeroChanges, true, true, 0, 5, peerNode},
		{PolicyDiscardZeroChanges, true, false, 5, 1, nobody},

		{PolicyDiscardLeastChanges, true, true, 5, 4, thisNode},
		{PolicyDiscardLeastChanges, true, true, 4, 5, peerNode},
		{PolicyDiscardLeastChanges, true, true, 0, 5, peerNode},
		{PolicyDiscardLeastChanges, true, true, 5, 5, tie},

		{PolicyDiscardLocal, true, false, 9, 0, peerNode},
		{PolicyDiscardRemote, false, true, 0, 9, thisNode},

		{PolicyConsensus, true, false, 9, 0, nobody}, // not allowed here
		{PolicyDiscardSecondary, true, false, 9, 0, nobody},
		{PolicyCallPriLost, true, false, 9, 0, nobody},
		{PolicyViolently, true, false, 9, 0, nobody},
		{SplitBrainPolicy(77), true, false, 9, 0, nobody},
	} {
		for _, resolver := range []bool{false, true} {
			in := split(tc.own, tc.peer, tc.ch, tc.chP)
			in.Resolver = resolver
			want := tc.want
			if want == tie {
				want = choose(!resolver)
			}
			got := consult(Policies{AfterSB0Pri: tc.policy}, in)
			require.Equal(t, want, got.final, "%+v resolver %v", tc, resolver)
			require.Equal(t, "after-sb-0pri", got.option)
		}
	}
}

// The rows for one and for two Primaries. after-sb-0pri is discard-least-changes, so
// the node with more changes wins there.
func TestAfterSB1And2Pri(t *testing.T) {
	for _, tc := range []struct {
		policy    SplitBrainPolicy
		own, peer bool // Primary now
		ownMore   bool // what 0pri says
		want      winner
		demote    bool
	}{
		{PolicyDisconnect, true, false, true, nobody, false},
		{PolicyConsensus, true, false, true, thisNode, false},
		{PolicyConsensus, true, false, false, nobody, false},
		{PolicyConsensus, false, true, true, nobody, false},
		{PolicyConsensus, false, true, false, peerNode, false},
		{PolicyViolently, true, false, false, peerNode, false},
		{PolicyViolently, false, true, true, thisNode, false},
		{PolicyDiscardSecondary, true, false, false, thisNode, false},
		{PolicyDiscardSecondary, false, true, true, peerNode, false},
		{PolicyCallPriLost, true, false, true, thisNode, false},
		{PolicyCallPriLost, true, false, false, peerNode, true},
		{PolicyCallPriLost, false, true, true, thisNode, false},
		{PolicyCallPriLost, false, true, false, peerNode, false},
		{PolicyDiscardLeastChanges, true, false, true, nobody, false}, // not allowed here

		{PolicyDisconnect, true, true, true, nobody, false},
		{PolicyViolently, true, true, true, thisNode, false},
		{PolicyViolently, true, true, false, peerNode, false},
		{PolicyCallPriLost, true, true, true, thisNode, false},
		{PolicyCallPriLost, true, true, false, peerNode, true},
		{PolicyConsensus, true, true, true, nobody, false}, // not allowed here
		{PolicyDiscardSecondary, true, true, true, nobody, false},
	} {
		in := split(false, false, 1, 2)
		if tc.ownMore {
			in = split(false, false, 2, 1)
		}
		in.Own.Primary, in.Peer.Primary = tc.own, tc.peer
		p := Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB1Pri: tc.policy}
		option := "after-sb-1pri"
		if tc.own && tc.peer {
			p = Policies{AfterSB0Pri: PolicyDiscardLeastChanges, AfterSB2Pri: tc.policy}
			option = "after-sb-2pri"
		}
		got := consult(p, in)
		require.Equal(t, tc.want, got.final, "%+v", tc)
		require.Equal(t, tc.demote, got.loser, "%+v", tc)
		require.Equal(t, option, got.option)
	}
}
