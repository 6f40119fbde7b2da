// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// mirrorFault says how the two nodes' verdicts contradict each other, "" if they do not.
func mirrorFault(in CompareInput) string {
	own, peer := Compare(in), Compare(in.mirror())
	switch {
	case own.Outcome != peer.Outcome.Mirror():
		return "outcomes do not mirror"
	case own.CorrectedOwn != peer.CorrectedPeer, own.CorrectedPeer != peer.CorrectedOwn:
		return "corrected tuples differ"
	case own.OwnChanged != peer.PeerChanged, own.PeerChanged != peer.OwnChanged:
		return "one of them does not know of a correction"
	case own.Outcome == Contradictory && !circular(in):
		return "contradictory without a reason"
	case circular(in) && own.Outcome != Contradictory && own.Outcome != NeedProtocol91:
		return "each is in the other's past, and that is accepted"
	}
	return ""
}

func checkMirror(t require.TestingT, in CompareInput) {
	require.Empty(t, mirrorFault(in), "%+v", in)
}

// circular says that each node's data, neither fresh, is in the other's past.
func circular(in CompareInput) bool {
	past := func(g GenerationIDs, c UUID) bool {
		return c.Equal(g.Bitmap) || c.Equal(g.History[0]) || c.Equal(g.History[1])
	}
	own, peer := in.Own.IDs, in.Peer.IDs
	return !own.Current.reserved() && !peer.Current.reserved() && !same(in) &&
		past(own, peer.Current) && past(peer, own.Current)
}

// Every pair of tuples over a universe of identifiers that has all special cases;
// flags, roles, versions vary along.
func TestMirrorExhaustive(t *testing.T) {
	universe := []UUID{0, 4, uA, uB, uA + SyncUUIDStep}
	if testing.Short() {
		universe = []UUID{0, uA, uB, uA + SyncUUIDStep}
	}
	versions := []int{86, 90, 91, 95, 96, 101}
	n := len(universe)
	total := n * n * n * n * n * n * n * n
	hit := map[Outcome]int{}
	for i := range total {
		x := i
		next := func() UUID {
			u := universe[x%n]
			x /= n
			return u
		}
		mix := uint64(i) * 0x9E3779B97F4A7C15 >> 40 // varies what is not enumerated
		bit := func(k int) bool { return mix>>k&1 != 0 }
		in := CompareInput{
			Own:      Side{IDs: gi(next(), next(), next(), next()), Primary: bit(0), CrashedPrimary: bit(1)},
			Peer:     Side{IDs: gi(next(), next(), next(), next()), Primary: bit(2), CrashedPrimary: bit(3)},
			Resolver: bit(4),
			Version:  versions[mix>>8%uint64(len(versions))],
			Features: uint32(mix >> 5 & 4),
		}
		in.Own.IDs = in.Own.IDs.SetPrimary(bit(0))
		in.Peer.IDs = in.Peer.IDs.SetPrimary(bit(2))
		if fault := mirrorFault(in); fault != "" {
			t.Fatalf("%s: %+v", fault, in)
		}
		hit[Compare(in).Outcome]++
	}
	for o := range Outcome(len(outcomes)) {
		if o == Unrelated {
			continue // takes two full, disjoint histories: see TestRules
		}
		require.NotZero(t, hit[o], "%v never came up", o)
	}
}

func drawSide(t *rapid.T, label string) Side {
	u := rapid.SampledFrom([]UUID{
		0, 1, 4, 5, uA, uA | 1, uB, uB | 1, uC, uD, uA + SyncUUIDStep, uB + SyncUUIDStep | 1, ^SyncUUIDStep + 1 + uC, // plus the step it is uC
	})
	return Side{
		IDs:            gi(u.Draw(t, label+".C"), u.Draw(t, label+".B"), u.Draw(t, label+".H0"), u.Draw(t, label+".H1")),
		Flags:          UUIDFlags(rapid.Uint64Range(0, 15).Draw(t, label+".flags")),
		BitmapBits:     rapid.SampledFrom([]uint64{0, 1, 2, 1 << 40}).Draw(t, label+".bits"),
		Primary:        rapid.Bool().Draw(t, label+".primary"),
		CrashedPrimary: rapid.Bool().Draw(t, label+".crashed"),
	}
}

func drawCompare(t *rapid.T) CompareInput {
	return CompareInput{
		Own: drawSide(t, "own"), Peer: drawSide(t, "peer"), Resolver: rapid.Bool().Draw(t, "resolver"),
		Version:  rapid.IntRange(86, 101).Draw(t, "version"),
		Features: rapid.SampledFrom([]uint32{0, 4, 0xb, 0xf}).Draw(t, "features"),
	}
}

func TestMirrorRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkMirror(t, drawCompare(t)) })
}

// PrimaryBit counts nowhere in a comparison, but for B = 1, which is not B = 0.
func TestPrimaryBitDoesNotCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawCompare(t)
		flipped := in
		for _, u := range []*UUID{
			&flipped.Own.IDs.Current, &flipped.Own.IDs.Bitmap, &flipped.Own.IDs.History[0], &flipped.Own.IDs.History[1],
			&flipped.Peer.IDs.Current, &flipped.Peer.IDs.Bitmap, &flipped.Peer.IDs.History[0], &flipped.Peer.IDs.History[1],
		} {
			if *u > 1 && rapid.Bool().Draw(t, "flip") {
				*u ^= PrimaryBit
			}
		}
		a, b := Compare(in), Compare(flipped)
		require.Equal(t, a.Outcome, b.Outcome)
		require.Equal(t, a.Rule, b.Rule)
	})
}
