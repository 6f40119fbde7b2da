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
	const random UUID = 0x77
	for _, tc := range []struct{ bitmap, want UUID }{
		{0, random}, {4, random}, {5, random},
		{0x0001_0000_0000_0010, 0x0002_0000_0000_0010},
		{0xFFFF_0000_0000_0011, 0x11}, // modulo 2^64
	} {
		require.Equal(t, tc.want, gi(0x99, tc.bitmap, 0, 0).SyncUUID(random), "%v", tc.bitmap)
	}
	require.False(t, gi(1<<40, 4+^SyncUUIDStep+1, 0, 0).SyncUUID(1).reserved(), "a sync never looks fresh")
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
func TestNewCurrentOnPromotion(t *testing.T) {
	inSync, recording := gi(0xc0, 0, 0, 0), gi(0xc0, 0xb0, 0, 0)
	for _, tc := range []struct {
		name              string
		ids               GenerationIDs
		forced, connected bool
		peer              DiskState
		want              bool
	}{
		{"alone", inSync, false, false, DiskUnknown, true},
		{"alone, already recording", recording, false, false, DiskUnknown, false},
		{"connected", inSync, false, true, DiskUpToDate, false},
		{"connected to a fresh peer", inSync, false, true, DiskInconsistent, false},
		{"connected to a diskless peer", inSync, false, true, DiskDiskless, true},
		{"connected to a failed peer", inSync, false, true, DiskFailed, true},
		{"connected to an attaching peer", inSync, false, true, DiskNegotiating, false},
		{"forced", recording, true, true, DiskInconsistent, true},
	} {
		require.Equal(t, tc.want, tc.ids.NewCurrentOnPromotion(tc.forced, tc.connected, tc.peer), tc.name)
	}
}

// Spec: behaviour 2.10.
func TestNewCurrentOnLoss(t *testing.T) {
	inSync, recording := gi(0xc0, 0, 0, 0), gi(0xc0, 0xb0, 0, 0)
	for _, tc := range []struct {
		name          string
		ids           GenerationIDs
		before, after DiskState
		primary       bool
		own           DiskState
		want          bool
	}{
		{"link lost", inSync, DiskUpToDate, DiskUnknown, true, DiskUpToDate, true},
		{"sync target lost", inSync, DiskInconsistent, DiskUnknown, true, DiskUpToDate, true},
		{"peer detached", inSync, DiskUpToDate, DiskDiskless, true, DiskUpToDate, true},
		{"peer's disk failed", inSync, DiskUpToDate, DiskFailed, true, DiskUpToDate, true},
		{"peer outdated", inSync, DiskUpToDate, DiskOutdated, true, DiskUpToDate, true},
		{"peer fenced later", inSync, DiskUnknown, DiskOutdated, true, DiskUpToDate, true},
		{"peer's disk degrades, still there", inSync, DiskUpToDate, DiskInconsistent, true, DiskUpToDate, false},
		{"nothing new", inSync, DiskUnknown, DiskUnknown, true, DiskUpToDate, false},
		{"peer was diskless", inSync, DiskDiskless, DiskUnknown, true, DiskUpToDate, false},
		{"peer was outdated", inSync, DiskOutdated, DiskUnknown, true, DiskUpToDate, false},
		{"both Secondary", inSync, DiskUpToDate, DiskUnknown, false, DiskUpToDate, false},
		{"recording already", recording, DiskUpToDate, DiskUnknown, true, DiskUpToDate, false},
		{"own disk no better", inSync, DiskUpToDate, DiskUnknown, true, DiskInconsistent, false},
		{"own disk consistent only", inSync, DiskUpToDate, DiskUnknown, true, DiskConsistent, false},
	} {
		require.Equal(t, tc.want, tc.ids.NewCurrentOnLoss(tc.before, tc.after, tc.primary, tc.own), tc.name)
	}
	require.True(t, inSync.NewCurrentForDisklessPeer(DiskDiskless, true, DiskUpToDate))
	require.False(t, inSync.NewCurrentForDisklessPeer(DiskInconsistent, true, DiskUpToDate))
	require.False(t, inSync.NewCurrentForDisklessPeer(DiskDiskless, false, DiskUpToDate))
	require.False(t, inSync.NewCurrentForDisklessPeer(DiskDiskless, true, DiskConsistent))
	require.False(t, recording.NewCurrentForDisklessPeer(DiskDiskless, true, DiskUpToDate))
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
