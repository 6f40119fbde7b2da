// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// checkLayout: all areas lie in the device, on block boundaries, without touching
// each other or the usable data.
func checkLayout(t require.TestingT, l Layout) {
	require.Zero(t, l.SuperblockOffset%BlockSize, "%+v", l)
	require.Zero(t, l.ActivityLogOffset%BlockSize, "%+v", l)
	require.Zero(t, l.BitmapOffset%BlockSize, "%+v", l)
	sbEnd, alEnd, bmEnd := l.SuperblockOffset+BlockSize, l.ActivityLogOffset+l.ActivityLogSize, l.BitmapOffset+l.BitmapSize
	require.Positive(t, l.BitmapSize)
	if l.ALOffset < 0 {
		require.GreaterOrEqual(t, l.BitmapOffset, int64(0), "%+v", l)
		require.LessOrEqual(t, bmEnd, l.ActivityLogOffset, "%+v", l)
		require.LessOrEqual(t, alEnd, l.SuperblockOffset, "%+v", l)
		require.LessOrEqual(t, sbEnd, l.DeviceBytes, "%+v", l)
	} else {
		require.GreaterOrEqual(t, l.SuperblockOffset, int64(0), "%+v", l)
		require.LessOrEqual(t, sbEnd, l.ActivityLogOffset, "%+v", l)
		require.LessOrEqual(t, alEnd, l.BitmapOffset, "%+v", l)
		require.LessOrEqual(t, bmEnd, l.DeviceBytes, "%+v", l)
	}
	if l.Location.IsInternal() {
		require.LessOrEqual(t, int64(l.UsableSectors)*SectorSize, min(l.SuperblockOffset, l.BitmapOffset), "%+v", l)
	}
	// Every usable sector has a bit in every slot.
	last := (l.UsableSectors - 1) / uint64(l.Geometry.BytesPerBit/SectorSize)
	end := int64((last>>5+1)*uint64(l.Geometry.MaxPeers)) * 4
	require.LessOrEqual(t, end, l.BitmapSize, "%+v", l)
}

func drawGeometry(t *rapid.T, v Version, loc Location) Geometry {
	var g Geometry
	if v != V07 && loc.kind != kindIndexed && rapid.Bool().Draw(t, "has stripes") {
		g.ALStripes = rapid.Uint32Range(1, 1024).Draw(t, "stripes")
		g.ALStripeSize4k = max(8/g.ALStripes+1, rapid.Uint32Range(1, 8192/g.ALStripes).Draw(t, "stripe size"))
		if g.alBlocks() > maxALBlocksCreate {
			g.ALStripeSize4k = 8
		}
	}
	if v == V09 {
		g.MaxPeers = rapid.Uint32Range(1, MaxPeers).Draw(t, "peers")
		if loc.kind != kindIndexed && rapid.Bool().Draw(t, "coarse") {
			g.BytesPerBit = DefaultBytesPerBit << rapid.IntRange(0, 8).Draw(t, "bits")
		}
	}
	return g
}

func TestLayoutProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]Version{V07, V08, V09}).Draw(t, "version")
		loc := rapid.SampledFrom([]Location{Internal(), FlexExternal(), InternalFixed(), Indexed(0), Indexed(255)}).Draw(t, "location")
		bytes := rapid.Int64Range(0, 1<<50).Draw(t, "bytes") >> rapid.IntRange(0, 35).Draw(t, "shift")
		g := drawGeometry(t, v, loc)
		l, err := NewLayout(v, loc, bytes, g)
		if err != nil {
			return
		}
		checkLayout(t, l)
		sb, err := NewSuperblock(l, CreateOptions{})
		require.NoError(t, err)
		require.NoError(t, sb.Validate(loc, bytes))
		got, err := sb.Layout(loc, bytes)
		require.NoError(t, err)
		require.Equal(t, l, got)
		if v != V07 && bytes >= 1<<20 && (loc.kind != kindIndexed || bytes >= slotBytes*int64(loc.index+1)) {
			require.NoError(t, sb.CheckAttach(AttachTarget{Location: loc, MetaBytes: bytes, DataBytes: bytes}))
		}
	})
}

// TestLayoutExamples are the worked examples of spec: on-disk 2.2.
func TestLayoutExamples(t *testing.T) {
	for _, c := range []struct {
		v        Version
		loc      Location
		bytes    int64
		g        Geometry
		mdSize   uint32
		sb       int64
		al, bm   int32
		usableKB uint64
	}{
		{V08, Internal(), 67108864, Geometry{}, 80, 67104768, -64, -72, 65496},
		{V08, Internal(), 67110400, Geometry{}, 80, 67104768, -64, -72, 65496},
		{V08, Internal(), 1073744384, Geometry{}, 144, 1073737728, -64, -136, 1048504},
		{V08, Indexed(1), 268435456, Geometry{}, 262144, 134217728, 8, 72, 4293787648},
		{V08, FlexExternal(), 1049088, Geometry{ALStripes: 2, ALStripeSize4k: 16}, 2049, 0, 8, 264, 29245440},
		{V09, Internal(), 104859136, Geometry{MaxPeers: 3}, 96, 104853504, -64, -88, 102352},
		{V07, InternalFixed(), 209715200, Geometry{}, 262144, 75497472, 8, 72, 73728},
	} {
		l, err := NewLayout(c.v, c.loc, c.bytes, c.g)
		require.NoError(t, err)
		require.Equal(t, []any{c.mdSize, c.sb, c.al, c.bm, c.usableKB},
			[]any{l.MDSizeSectors, l.SuperblockOffset, l.ALOffset, l.BMOffset, l.UsableSectors / 2}, "%+v", c)
	}
	l, err := NewLayout(V08, Indexed(0), slotBytes, Geometry{})
	require.NoError(t, err)
	require.Equal(t, uint64(8587575296), l.UsableSectors)
	require.EqualValues(t, 4096, l.UsableWith(4096*SectorSize+100))
	require.Equal(t, uint64(8587575296), l.UsableWith(1<<60))
	require.Zero(t, l.UsableWith(-1))
	l, err = NewLayout(V08, Internal(), 1<<30, Geometry{})
	require.NoError(t, err)
	require.Equal(t, l.UsableSectors, l.UsableWith(0))
}

func TestLayoutErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		v     Version
		loc   Location
		bytes int64
		g     Geometry
		want  error
	}{
		{"version", 6, Internal(), 1 << 30, Geometry{}, ErrUnknownVersion},
		{"fixed place of v08", V08, InternalFixed(), 1 << 30, Geometry{}, ErrInvalidLocation},
		{"slot 256", V08, Indexed(256), 1 << 40, Geometry{}, ErrInvalidLocation},
		{"slot -1", V08, Indexed(-1), 1 << 40, Geometry{}, ErrInvalidLocation},
		{"negative", V08, Internal(), -1 << 63, Geometry{}, ErrDeviceTooSmall},
		{"small", V08, Internal(), MinDeviceBytes - 1, Geometry{}, ErrDeviceTooSmall},
		{"no such slot", V08, Indexed(1), slotBytes, Geometry{}, ErrDeviceTooSmall},
		{"no 128 MiB", V07, InternalFixed(), slotBytes - SectorSize, Geometry{}, ErrDeviceTooSmall},
		{"log larger than device", V08, Internal(), 1 << 20, Geometry{ALStripes: 8, ALStripeSize4k: 128}, ErrDeviceTooSmall},
		{"log larger than meta device", V08, FlexExternal(), 1 << 20, Geometry{ALStripes: 8, ALStripeSize4k: 128}, ErrDeviceTooSmall},
		{"above 1 PiB", V08, Internal(), 1<<50 + SectorSize, Geometry{}, ErrDeviceTooLarge},
		{"flex-external of 2 TiB", V08, FlexExternal(), 2 << 40, Geometry{}, ErrDeviceTooLarge},
		{"log too short", V08, Internal(), 1 << 30, Geometry{ALStripeSize4k: 7}, ErrInvalidGeometry},
		{"log too long", V08, Internal(), 1 << 40, Geometry{ALStripes: 1024, ALStripeSize4k: 9}, ErrInvalidGeometry},
		{"too many stripes", V08, Internal(), 1 << 40, Geometry{ALStripes: 1025}, ErrInvalidGeometry},
		{"stripes of v07", V07, Internal(), 1 << 40, Geometry{ALStripes: 2}, ErrInvalidGeometry},
		{"stripes of a slot", V08, Indexed(0), 1 << 40, Geometry{ALStripes: 2}, ErrInvalidGeometry},
		{"coarse bitmap of a slot", V09, Indexed(0), 1 << 40, Geometry{BytesPerBit: 8192}, ErrInvalidGeometry},
		{"two peers of v08", V08, Internal(), 1 << 40, Geometry{MaxPeers: 2}, ErrInvalidGeometry},
		{"32 peers", V09, Internal(), 1 << 40, Geometry{MaxPeers: 32}, ErrInvalidGeometry},
		{"bytes per bit", V09, Internal(), 1 << 40, Geometry{BytesPerBit: 5000}, ErrInvalidGeometry},
	} {
		_, err := NewLayout(c.v, c.loc, c.bytes, c.g)
		require.ErrorIs(t, err, c.want, c.name)
	}
	sb := Superblock{Version: V08, BytesPerBit: 4096, ALStripes: 1, ALStripeSize4k: 8, MaxPeers: 1, ALOffset: -64, BMOffset: -72, MDSizeSectors: 80}
	for _, damage := range []func(*Superblock){
		func(sb *Superblock) { sb.BMOffset = -1 << 31 },
		func(sb *Superblock) { sb.BMOffset = -64 },
		func(sb *Superblock) { sb.BMOffset = -71 },
		func(sb *Superblock) { sb.ALOffset = -63 },
		func(sb *Superblock) { sb.ALOffset = -56 },
		func(sb *Superblock) { sb.ALOffset, sb.BMOffset = 8, 72 },
		func(sb *Superblock) { sb.ALOffset, sb.BMOffset = 0, 72 },
	} {
		bad := sb
		damage(&bad)
		_, err := bad.Layout(Internal(), 1<<30)
		require.ErrorIs(t, err, ErrCorruptOffsets, "%+v", bad)
	}
}

func TestValidate(t *testing.T) {
	const bytes = 1 << 30
	fresh := func(v Version, loc Location) Superblock {
		l, err := NewLayout(v, loc, bytes, Geometry{})
		require.NoError(t, err)
		sb, err := NewSuperblock(l, CreateOptions{})
		require.NoError(t, err)
		return sb
	}
	internal, external := fresh(V09, Internal()), fresh(V08, FlexExternal())
	require.ErrorIs(t, internal.Validate(Internal(), bytes+1<<30), ErrMisplaced)
	require.ErrorIs(t, internal.Validate(Internal(), bytes+1<<30), ErrCorrupt)
	require.ErrorIs(t, internal.Validate(FlexExternal(), bytes), ErrCorruptOffsets)
	require.ErrorIs(t, external.Validate(Internal(), bytes), ErrCorruptOffsets)
	require.ErrorIs(t, external.Validate(InternalFixed(), bytes), ErrInvalidLocation)
	require.ErrorIs(t, external.Validate(FlexExternal(), 100), ErrDeviceTooSmall)
	require.NoError(t, external.Validate(FlexExternal(), 2*bytes))
	require.ErrorIs(t, (&Superblock{}).Validate(Internal(), bytes), ErrUnknownVersion)

	bad := internal
	bad.Peers[0].BitmapIndex = -2
	require.ErrorIs(t, bad.Validate(Internal(), bytes), ErrCorruptBitmapIndex)
	bad = internal
	bad.MDSizeSectors++
	require.ErrorIs(t, bad.Validate(Internal(), bytes), ErrMisplaced)
	old := fresh(V07, Internal())
	old.MDSizeSectors += 2
	require.NoError(t, old.Validate(Internal(), bytes), "the tool tolerates this of v07")
	huge := internal
	require.ErrorIs(t, huge.Validate(Internal(), 1<<60), ErrDeviceTooLarge)
}

func TestLocations(t *testing.T) {
	for _, c := range []struct {
		text  string
		v     Version
		want  Location
		index int
	}{
		{"internal", V07, InternalFixed(), -1},
		{"internal", V08, Internal(), -3},
		{"flex-internal", V07, Internal(), -3},
		{"flex-internal", V09, Internal(), -3},
		{"flex-external", V08, FlexExternal(), -2},
		{"0", V08, Indexed(0), 0},
		{"255", V09, Indexed(255), 255},
	} {
		got, err := ParseLocation(c.text, c.v)
		require.NoError(t, err)
		require.Equal(t, c.want, got)
		require.Equal(t, c.index, got.Index())
	}
	for _, s := range []string{"", "256", "-1", "flexible", "internal ", "0x1", "1.0"} {
		_, err := ParseLocation(s, V08)
		require.ErrorIs(t, err, ErrInvalidLocation, "%q", s)
	}
	for i := range 256 {
		require.Equal(t, fmt.Sprint(i), Indexed(i).String())
	}
	require.Equal(t, []string{"internal", "internal-fixed", "flex-external", "invalid"},
		[]string{Internal().String(), InternalFixed().String(), FlexExternal().String(), Indexed(999).String()})
	require.Equal(t, -4, Indexed(999).Index())
}
