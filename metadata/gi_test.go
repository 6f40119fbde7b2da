// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// gi is a tuple from four numbers.
func gi(c, b, h0, h1 UUID) GenerationIDs {
	return GenerationIDs{Current: c, Bitmap: b, History: [2]UUID{h0, h1}}
}

func TestUUID(t *testing.T) {
	require.Equal(t, "00000000000000AF", UUID(0xaf).String())
	require.Equal(t, "0000000000000004", UUIDJustCreated.String())
	require.True(t, UUID(0x10).Equal(0x11))
	require.False(t, UUID(0x10).Equal(0x12))
	require.Equal(t, UUID(0x11), UUID(0x10).WithPrimary(true))
	require.Equal(t, UUID(0x10), UUID(0x11).WithPrimary(false))
	require.True(t, UUID(0x11).IsPrimary())

	for _, special := range []UUID{0, 1, 4, 5} {
		require.False(t, special.fresh().reserved())
	}
	require.Equal(t, UUID(77), UUID(77).fresh())
}

func TestUUIDFlagsString(t *testing.T) {
	require.Equal(t, "0", UUIDFlags(0).String())
	require.Equal(t, "discard-my-data|inconsistent", (FlagDiscardMyData | FlagInconsistent).String())
	require.Equal(t, "skip-initial-sync|0x30", (FlagSkipInitialSync | 0x30).String())
	require.Equal(t, []UUIDFlags{1, 2, 4, 8},
		[]UUIDFlags{FlagDiscardMyData, FlagCrashedPrimary, FlagInconsistent, FlagSkipInitialSync}, "spec: wire 4.6")
}

func TestParseUUID(t *testing.T) {
	for text, want := range map[string]UUID{
		"0": 0, "4": 4, "0x4": 4, "0XaB": 0xab, "FFFFFFFFFFFFFFFF": 1<<64 - 1, "00000000000000004": 4,
	} {
		got, err := ParseUUID(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "0x", "g", "-1", "+1", "1_0", " 1", "10000000000000000", "0x0x1"} {
		_, err := ParseUUID(text)
		require.ErrorIs(t, err, ErrInvalidUUID, text)
	}
}

func TestParseGenerationIDs(t *testing.T) {
	got, err := ParseGenerationIDs("0000000000000004:0:1:FFFF:1:0:0")
	require.NoError(t, err)
	require.Equal(t, gi(4, 0, 1, 0xffff), got)
	for _, text := range []string{"", "1:2:3", "1:2:3:x", "1:2:3:4x:1"} {
		_, err := ParseGenerationIDs(text)
		require.ErrorIs(t, err, ErrInvalidUUID, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		ids := drawAnyIDs(t, "ids")
		back, err := ParseGenerationIDs(ids.String())
		require.NoError(t, err)
		require.Equal(t, ids, back)
	})
}

func FuzzParseGenerationIDs(f *testing.F) {
	f.Add("0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0")
	f.Add("695A:0xBAE9:2F3D:2F3C")
	f.Add(":::")
	f.Fuzz(func(t *testing.T, s string) {
		ids, err := ParseGenerationIDs(s)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidUUID)
			return
		}
		back, err := ParseGenerationIDs(ids.String())
		require.NoError(t, err)
		require.Equal(t, ids, back)
	})
}

func drawAnyIDs(t *rapid.T, label string) GenerationIDs {
	u := rapid.Map(rapid.Uint64(), func(v uint64) UUID { return UUID(v) })
	return gi(u.Draw(t, label+".C"), u.Draw(t, label+".B"), u.Draw(t, label+".H0"), u.Draw(t, label+".H1"))
}

// The elementary operations, spec: behaviour 3.3.
func TestElementaryOperations(t *testing.T) {
	x := gi(0xc1, 0xb0, 0xa0, 0xa2)
	require.Equal(t, gi(0xd1, 0xc1, 0xa0, 0xa2), x.NewCurrent(0xd0, true), "B is overwritten, not remembered")
	require.Equal(t, gi(0xd0, 0xc1, 0xa0, 0xa2), x.NewCurrent(0xd1, false))
	require.Equal(t, gi(0xc1, 0xd0, 0xb0, 0xa0), x.RotateBitmap(0xd0))
	require.Equal(t, gi(0xd0, 0xb0, 0xc1, 0xa0), x.RotateCurrent(0xd0))
	require.Equal(t, gi(0xc1, 0, 0xb0, 0xa0), x.ClearBitmap())
	require.Equal(t, gi(0xc1, 0, 0xa0, 0xa2), x.DropBitmap())
	require.Equal(t, gi(0xc0, 0xb0, 0xa0, 0xa2), x.SetPrimary(false))

	zero := gi(0, 0, 0xa0, 0xa2)
	require.Equal(t, zero, zero.ClearBitmap(), "nothing to push")
	require.Equal(t, gi(0, 0xd0, 0xa0, 0xa2), zero.RotateBitmap(0xd0), "no zero enters the history")
	require.Equal(t, gi(0xd0, 0, 0xa0, 0xa2), zero.RotateCurrent(0xd0))
	require.Equal(t, gi(0xc1, 0xb0, 0xa0, 0xa2), x, "values do not change")

	require.True(t, x.SameIdentity(x.SetPrimary(false)))
	require.False(t, x.SameIdentity(x.ClearBitmap()))
}

// The cycle of spec: behaviour 3.4, as observed on a kernel.
func TestObservedCycle(t *testing.T) {
	r0 := gi(0xBAE9_00000000002B, 0, 0x2F3D_000000000049, 0x2F3C_000000000049)
	r1 := gi(0xBAE9_00000000002A, 0, 0x2F3D_000000000048, 0x2F3C_000000000049)

	r0 = r0.NewCurrent(0x695A_0000000000A5, true) // lost r1
	require.Equal(t, gi(0x695A_0000000000A5, 0xBAE9_00000000002B, 0x2F3D_000000000049, 0x2F3C_000000000049), r0)
	told := r0 // r0's P_UUIDS at the reconnect

	r0, s := r0.BecomeSource(1)
	require.Equal(t, UUID(0xBAEA_00000000002B), s)
	require.Equal(t, gi(0x695A_0000000000A5, 0xBAEA_00000000002B, 0xBAE9_00000000002B, 0x2F3D_000000000049), r0)
	r1 = r1.AdoptSyncUUID(s, false)
	require.Equal(t, gi(0xBAEA_00000000002A, 0, 0x2F3D_000000000048, 0x2F3C_000000000049), r1)

	r0, r1 = r0.FinishAsSource(), r1.FinishAsTarget(told, false)
	require.Equal(t, gi(0x695A_0000000000A5, 0, 0xBAEA_00000000002B, 0xBAE9_00000000002B), r0)
	require.Equal(t, gi(0x695A_0000000000A4, 0, 0xBAEA_00000000002A, 0xBAE9_00000000002B), r1)
	require.True(t, r0.SameIdentity(r1))
}

// Source and target end with the same identity, whatever they had before.
func TestFinishAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := drawAnyIDs(t, "source"), drawAnyIDs(t, "target")
		told := source
		source, s := source.BecomeSource(UUID(rapid.Uint64().Draw(t, "random")))
		require.False(t, s.reserved())
		require.NotEqual(t, UUIDNone, source.Bitmap)
		target = target.AdoptSyncUUID(s, rapid.Bool().Draw(t, "primary"))
		require.True(t, target.Current.Equal(source.Bitmap))
		require.True(t, source.FinishAsSource().SameIdentity(target.FinishAsTarget(told, false)))
	})
}

func TestSyncUUID(t *testing.T) {
	const c UUID = 0x1234_5678_9ABC_DEF1
	for _, tc := range []struct{ bitmap, random, want UUID }{
		{0x0001_0000_0000_0010, 7, 0x0002_0000_0000_0010},
		{0xFFFF_0000_0000_0011, 7, 0x11}, // modulo 2^64
		{0, 0xAAAA_0000_0000_0000, 0xAAAA_5678_9ABC_DEF1},
		{4, 0xAAAA_FFFF_FFFF_FFFF, 0xAAAA_5678_9ABC_DEF1},
		{5, 0x1234_0000_0000_0000, 0x1235_5678_9ABC_DEF1}, // not C itself
		{0, 0x2345_0000_0000_0000, 0x2347_5678_9ABC_DEF1}, // nor what the history has
	} {
		ids := gi(c, tc.bitmap, 0x2345_5678_9ABC_DEF1, 0x2346_5678_9ABC_DEF0)
		require.Equal(t, tc.want, ids.SyncUUID(tc.random), "%v", tc.bitmap)
	}
	require.False(t, gi(1<<40, 4+^SyncUUIDStep+1, 0, 0).SyncUUID(1).reserved(), "a sync never looks fresh")
	require.False(t, gi(4, 0, 0, 0).SyncUUID(0).reserved())
}

// new-current-uuid and the skipped initial sync, spec: behaviour 3.4.
func TestCommands(t *testing.T) {
	require.Equal(t, gi(0xd0, 0xc0, 0xb0, 0xa0), gi(0xc0, 0xb0, 0xa0, 0xa2).NewCurrentCommand(0xd0, false))

	sent := JustCreated().SkipInitialSync(0xd0, false)
	require.Equal(t, gi(0xd0, 4, 0, 0), sent, "as P_UUIDS with flag 8 shows it")
	require.Equal(t, gi(0xd0, 0, 0, 0), sent.DropBitmap())
	require.Equal(t, gi(0xd1, 0, 0, 0), JustCreated().AdoptSkipped(sent, true))
	require.True(t, JustCreated().IsJustCreated())
	require.False(t, sent.IsJustCreated())
}

// Spec: behaviour 2.7.
func TestBirthOnPromotion(t *testing.T) {
	inSync, recording := gi(0xc0, 0, 0, 0), gi(0xc0, 0xb0, 0, 0)
	for _, tc := range []struct {
		name                      string
		ids                       GenerationIDs
		forced, connected, shared bool
		peer                      DiskState
		want                      Birth
	}{
		{"alone", inSync, false, false, false, DiskUnknown, BirthNew},
		{"alone, already recording", recording, false, false, false, DiskUnknown, NoBirth},
		{"alone, a target may have finished", recording, false, false, true, DiskUnknown, BirthBeside},
		{"connected", inSync, false, true, true, DiskUpToDate, NoBirth},
		{"connected to a fresh peer", inSync, false, true, false, DiskInconsistent, NoBirth},
		{"connected to a diskless peer", inSync, false, true, false, DiskDiskless, BirthNew},
		{"connected to a failed peer", inSync, false, true, false, DiskFailed, BirthNew},
		{"connected to an attaching peer", inSync, false, true, false, DiskNegotiating, NoBirth},
		{"forced", recording, true, true, true, DiskInconsistent, BirthNew},
	} {
		require.Equal(t, tc.want, tc.ids.BirthOnPromotion(tc.forced, tc.connected, tc.peer, tc.shared), tc.name)
	}
}

// Spec: behaviour 2.10.
func TestBirthOnLoss(t *testing.T) {
	inSync, recording := gi(0xc0, 0, 0, 0), gi(0xc0, 0xb0, 0, 0)
	for _, tc := range []struct {
		name                       string
		ids                        GenerationIDs
		before, after              DiskState
		connected, primary, shared bool
		own                        DiskState
		want                       Birth
	}{
		{"link lost", inSync, DiskUpToDate, DiskUnknown, false, true, false, DiskUpToDate, BirthNew},
		{"sync target lost", inSync, DiskInconsistent, DiskUnknown, false, true, false, DiskUpToDate, BirthNew},
		{"sync target outdated", inSync, DiskConsistent, DiskOutdated, true, true, false, DiskUpToDate, BirthNew},
		{"peer detached", inSync, DiskUpToDate, DiskDiskless, true, true, false, DiskUpToDate, BirthNew},
		{"peer's disk failed", inSync, DiskUpToDate, DiskFailed, true, true, false, DiskUpToDate, BirthNew},
		{"peer outdated", inSync, DiskUpToDate, DiskOutdated, false, true, false, DiskUpToDate, BirthNew},
		{"peer fenced later", inSync, DiskUnknown, DiskOutdated, false, true, false, DiskUpToDate, BirthNew},
		{"peer's disk degrades, still there", inSync, DiskUpToDate, DiskInconsistent, true, true, false, DiskUpToDate, NoBirth},
		{"nothing new", inSync, DiskUnknown, DiskUnknown, false, true, false, DiskUpToDate, NoBirth},
		{"peer was diskless", inSync, DiskDiskless, DiskUnknown, false, true, false, DiskUpToDate, NoBirth},
		{"peer was outdated", inSync, DiskOutdated, DiskUnknown, false, true, false, DiskUpToDate, NoBirth},
		{"both Secondary", inSync, DiskUpToDate, DiskUnknown, false, false, false, DiskUpToDate, NoBirth},
		{"recording already", recording, DiskUpToDate, DiskUnknown, false, true, false, DiskUpToDate, NoBirth},
		{"a target may have finished", recording, DiskInconsistent, DiskUnknown, false, true, true, DiskUpToDate, BirthBeside},
		{"the same, known as Inconsistent", recording, DiskInconsistent, DiskInconsistent, false, true, true, DiskUpToDate, BirthBeside},
		{"peer Inconsistent, link lost", inSync, DiskInconsistent, DiskInconsistent, false, true, false, DiskUpToDate, BirthNew},
		{"the same, still connected", recording, DiskInconsistent, DiskInconsistent, true, true, true, DiskUpToDate, NoBirth},
		{"own disk no better", inSync, DiskUpToDate, DiskUnknown, false, true, true, DiskInconsistent, NoBirth},
		{"own disk consistent only", inSync, DiskUpToDate, DiskUnknown, false, true, true, DiskConsistent, NoBirth},
	} {
		require.Equal(t, tc.want, tc.ids.BirthOnLoss(tc.before, tc.after, tc.connected, tc.primary, tc.own, tc.shared), tc.name)
	}
	require.Equal(t, BirthNew, inSync.BirthOnDisklessPrimary(DiskDiskless, DiskUpToDate, false))
	require.Equal(t, NoBirth, inSync.BirthOnDisklessPrimary(DiskInconsistent, DiskUpToDate, false))
	require.Equal(t, NoBirth, inSync.BirthOnDisklessPrimary(DiskDiskless, DiskConsistent, false))
	require.Equal(t, NoBirth, recording.BirthOnDisklessPrimary(DiskDiskless, DiskUpToDate, false))
}

func TestBegin(t *testing.T) {
	x := gi(0xc1, 0xb0, 0xa0, 0xa2)
	require.Equal(t, x, x.Begin(NoBirth, 0xd0, true))
	require.Equal(t, gi(0xd1, 0xc1, 0xa0, 0xa2), x.Begin(BirthNew, 0xd0, true))
	require.Equal(t, gi(0xd1, 0xb0, 0xc1, 0xa0), x.Begin(BirthBeside, 0xd0, true))
	require.False(t, x.Begin(BirthBeside, 4, false).Current.reserved())
}

func TestFeed(t *testing.T) {
	require.False(t, Feed{}.PeerMayShare())
	require.False(t, Feed{}.PingReceived(0).PeerMayShare(), "just a ping")
	behind := FeedStarted(gi(0xc0, 0xb0, 0, 0), gi(0xb0, 0, 0, 0))
	require.False(t, behind.PeerMayShare())
	require.False(t, behind.PingReceived(1).PeerMayShare(), "it cannot have finished")
	require.True(t, behind.PingReceived(1).PingReceived(0).PingReceived(1).PeerMayShare(), "it may have finished")
	require.True(t, FeedStarted(gi(0xc0, 0, 0, 0), gi(0xc1, 0, 0, 0)).PeerMayShare(), "it may not have begun")

	recording := gi(0xc0, 0xb2, 0, 0)
	require.False(t, FeedAfterAttach(gi(0xc0, 0, 0, 0)).PeerMayShare())
	require.False(t, FeedAfterAttach(recording).PeerMayShare())
	feeding, _ := recording.BecomeSource(1)
	require.True(t, FeedAfterAttach(feeding).PeerMayShare())
	initial, _ := gi(0xc0, 4, 0, 0).BecomeSource(0x77 << 56)
	require.True(t, FeedAfterAttach(initial).PeerMayShare())
	require.False(t, FeedAfterAttach(feeding.Begin(BirthBeside, 0xd0, true)).PeerMayShare(), "once is enough")
}

func TestRebaseFor(t *testing.T) {
	source, target := gi(0xc0, 0xb0, 0xa0, 0x90), gi(0x90, 0, 0, 0)
	require.Equal(t, gi(0xc0, 0x90, 0xa0, 0x90), source.RebaseFor(target.Current))
	require.Equal(t, gi(0xc0, 0xb0, 0, 4), gi(0xc0, 0xb0, 0, 4).RebaseFor(4), "a fresh target has no generation")
	require.Equal(t, gi(0xc0, 0xb0, 0, 4), gi(0xc0, 0xb0, 0, 4).RebaseFor(0))
	require.Equal(t, source, source.RebaseFor(0xd0), "data that diverged stays a split brain")

	// The sync UUID never arrives, again and again; the target stays known.
	full := true
	for range 5 {
		if full {
			source = source.RebaseFor(target.Current)
		}
		source, _ = source.BecomeSource(1)
		v := Compare(CompareInput{Own: Side{IDs: source}, Peer: Side{IDs: target}, Version: 101})
		require.Equal(t, 71, v.Rule)
		source, full = v.CorrectedOwn, false
	}
}

// Spec: behaviour 2.8.
func TestAcceptsData(t *testing.T) {
	require.True(t, AcceptsData(0x11, 0x10, DiskUnknown))
	require.False(t, AcceptsData(0x11, 0x20, DiskUnknown))
	require.True(t, AcceptsData(0x11, 0x20, DiskUpToDate))
}

func TestDiskState(t *testing.T) {
	require.Equal(t, "Negotiating", DiskNegotiating.String())
	require.Equal(t, "DUnknown", DiskUnknown.String())
	require.Equal(t, "DiskState(9)", DiskState(9).String())
	require.Equal(t, DiskState(8), DiskUpToDate)
	require.Greater(t, DiskUnknown, DiskOutdated, "the trap of behaviour 1.4")
}
