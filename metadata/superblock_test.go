// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawSuperblock draws any superblock that a version can express.
func drawSuperblock(t *rapid.T) Superblock {
	v := rapid.SampledFrom([]Version{V07, V08, V09}).Draw(t, "version")
	u64, u32 := rapid.Uint64(), rapid.Uint32()
	sb := Superblock{
		Version:       v,
		Flags:         Flags(u32.Draw(t, "flags")),
		MDSizeSectors: u32.Draw(t, "md size"),
		ALOffset:      rapid.Int32().Draw(t, "al"), BMOffset: rapid.Int32().Draw(t, "bm"),
		ALExtents:   u32.Draw(t, "al extents"),
		BytesPerBit: DefaultBytesPerBit, ALStripes: 1, ALStripeSize4k: 8,
		MaxPeers: 1, NodeID: Unassigned,
	}
	if v == V07 {
		sb.MDSizeSectors &^= 1
		sb.EffectiveSize = rapid.Uint64Max(1<<63-1).Draw(t, "KiB") * 2
		sb.Counters = Counters{u32.Draw(t, "human"), u32.Draw(t, "timeout"), u32.Draw(t, "connected"), u32.Draw(t, "arbitrary")}
		return sb
	}
	sb.EffectiveSize, sb.DeviceUUID = u64.Draw(t, "size"), u64.Draw(t, "device")
	sb.Current, sb.PeerMaxBioSize = UUID(u64.Draw(t, "current")), u32.Draw(t, "bio")
	sb.ALStripes = rapid.Uint32Range(1, 1024).Draw(t, "stripes")
	sb.ALStripeSize4k = rapid.Uint32Range(8, 4096).Draw(t, "stripe size")
	history := 2
	if v == V08 {
		sb.Bitmap, sb.Unclean = UUID(u64.Draw(t, "bitmap")), rapid.Bool().Draw(t, "unclean")
	} else {
		history = HistoryUUIDs
		drawPeers(t, &sb)
	}
	for i := range history {
		sb.History[i] = UUID(u64.Draw(t, "history"))
	}
	return sb
}

func drawPeers(t *rapid.T, sb *Superblock) {
	sb.Members = rapid.Uint64().Draw(t, "members")
	sb.BytesPerBit = DefaultBytesPerBit << rapid.IntRange(0, 8).Draw(t, "bits")
	sb.MaxPeers = rapid.Uint32Range(1, MaxPeers).Draw(t, "peers")
	sb.NodeID = rapid.Int32Range(Unassigned, PeerRecords-1).Draw(t, "node")
	for i := range sb.Peers {
		sb.Peers[i] = PeerRecord{
			UUID(rapid.Uint64().Draw(t, "bitmap")), rapid.Uint64().Draw(t, "dagtag"),
			PeerFlags(rapid.Uint32().Draw(t, "flags")), rapid.Int32Range(Unassigned, PeerRecords-1).Draw(t, "slot"),
		}
	}
}

func TestSuperblockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sb := drawSuperblock(t)
		var block, again [BlockSize]byte
		for i := range block {
			block[i] = 0xaa // Encode must leave nothing of what was there
		}
		sb.Encode(&block)
		got, err := Decode(block[:])
		require.NoError(t, err)
		require.Equal(t, sb, got)
		got.Encode(&again)
		require.Equal(t, block, again)
		if sb.Version != V09 {
			require.Equal(t, [BlockSize - SectorSize]byte{}, [BlockSize - SectorSize]byte(block[SectorSize:]))
		}
	})
}

func TestSuperblockAllocatesNothing(t *testing.T) {
	for _, v := range []Version{V07, V08, V09} {
		l, err := NewLayout(v, Internal(), 1<<30, Geometry{})
		require.NoError(t, err)
		sb, err := NewSuperblock(l, CreateOptions{})
		require.NoError(t, err)
		var block [BlockSize]byte
		require.Zero(t, testing.AllocsPerRun(100, func() { sb.Encode(&block) }))
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if _, err := Decode(block[:]); err != nil {
				panic(err)
			}
		}))
	}
}

func TestEncodeWithoutVersion(t *testing.T) {
	block := [BlockSize]byte{1, 2, 3}
	(&Superblock{Flags: ALClean, Current: 4}).Encode(&block)
	require.Equal(t, [BlockSize]byte{}, block)
	_, err := Decode(block[:])
	require.ErrorIs(t, err, ErrNoMetadata)
	require.NotErrorIs(t, err, ErrCorrupt)
}

func TestDecodeErrors(t *testing.T) {
	base := func(v Version) Superblock {
		l, err := NewLayout(v, Internal(), 1<<30, Geometry{})
		require.NoError(t, err)
		sb, err := NewSuperblock(l, CreateOptions{})
		require.NoError(t, err)
		return sb
	}
	for _, c := range []struct {
		name   string
		v      Version
		damage func(sb *Superblock, block *[BlockSize]byte)
		want   error
	}{
		{"v07 size", V07, func(_ *Superblock, b *[BlockSize]byte) { b[0] = 0x80 }, ErrCorruptSize},
		{"v07 metadata size", V07, func(_ *Superblock, b *[BlockSize]byte) { b[32] = 0x80 }, ErrCorruptSize},
		{"v08 bytes per bit", V08, func(sb *Superblock, _ *[BlockSize]byte) { sb.BytesPerBit = 8192 }, ErrCorruptBytesPerBit},
		{"v08 one stripe field 0", V08, func(sb *Superblock, _ *[BlockSize]byte) { sb.ALStripes = 0 }, ErrCorruptGeometry},
		{"v08 short log", V08, func(sb *Superblock, _ *[BlockSize]byte) { sb.ALStripeSize4k = 7 }, ErrCorruptGeometry},
		{"v08 log overflow", V08, func(sb *Superblock, _ *[BlockSize]byte) { sb.ALStripes, sb.ALStripeSize4k = 1<<31, 1<<31 }, ErrCorruptGeometry},
		{"v09 both stripe fields 0", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.ALStripes, sb.ALStripeSize4k = 0, 0 }, ErrCorruptGeometry},
		{"v09 no slots", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.MaxPeers = 0 }, ErrCorruptMaxPeers},
		{"v09 32 slots", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.MaxPeers = 32 }, ErrCorruptMaxPeers},
		{"v09 bytes per bit", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.BytesPerBit = 12288 }, ErrCorruptBytesPerBit},
		{"v09 node", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.NodeID = 32 }, ErrCorruptNodeID},
		{"v09 negative node", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.NodeID = -2 }, ErrCorruptNodeID},
		{"v09 slot", V09, func(sb *Superblock, _ *[BlockSize]byte) { sb.Peers[0].BitmapIndex = 32 }, ErrCorruptBitmapIndex},
	} {
		t.Run(c.name, func(t *testing.T) {
			sb := base(c.v)
			var block [BlockSize]byte
			c.damage(&sb, &block)
			sb.Encode(&block)
			c.damage(&sb, &block)
			_, err := Decode(block[:])
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, ErrCorrupt)
			require.NotErrorIs(t, err, ErrNoMetadata)
		})
	}
	_, err := Decode(make([]byte, BlockSize-1))
	require.ErrorIs(t, err, ErrShortBlock)
}

// TestDecodeBefore84: superblocks from before 8.4 have no log geometry.
func TestDecodeBefore84(t *testing.T) {
	l, err := NewLayout(V08, Internal(), 1<<30, Geometry{})
	require.NoError(t, err)
	sb, err := NewSuperblock(l, CreateOptions{})
	require.NoError(t, err)
	old := sb
	old.ALStripes, old.ALStripeSize4k = 0, 0
	var block [BlockSize]byte
	old.Encode(&block)
	got, err := Decode(block[:])
	require.NoError(t, err)
	require.Equal(t, sb, got)
}

func TestNeedsApplyAL(t *testing.T) {
	for _, c := range []struct {
		sb   Superblock
		want bool
	}{
		{Superblock{Version: V07, Flags: ALClean}, true},
		{Superblock{Version: V08, Flags: ALClean}, false},
		{Superblock{Version: V08}, true},
		{Superblock{Version: V08, Flags: ALClean, Unclean: true}, true},
		{Superblock{Version: V09, Flags: ALClean}, false},
		{Superblock{Version: V09}, true},
	} {
		require.Equal(t, c.want, c.sb.NeedsApplyAL(), "%+v", c.sb)
	}
}

func TestSuperblockNames(t *testing.T) {
	require.Equal(t, "0", Flags(0).String())
	require.Equal(t, "Consistent | WasUpToDate | ALClean", (Consistent | WasUpToDate | ALClean).String())
	require.Equal(t, "HaveQuorum | 0x800=? | 0x80000000=?", (HaveQuorum | 1<<11 | 1<<31).String())
	require.Equal(t, "connected | <=outdated | fencing | full-sync | seen | 0x20=? | exists", PeerFlags(0x1003f).String())
	require.Equal(t, "Version(6)", Version(6).String())
	for _, v := range []Version{V07, V08, V09} {
		got, err := ParseVersion(v.String())
		require.NoError(t, err)
		require.Equal(t, v, got)
	}
	_, err := ParseVersion("v06")
	require.ErrorIs(t, err, ErrUnknownVersion)
}

func TestSuperblockGenerationIDs(t *testing.T) {
	g := GenerationIDs{Current: 1, Bitmap: 2, History: [2]UUID{3, 4}}
	sb := Superblock{Version: V08, Flags: ALClean}
	sb.SetGenerationIDs(g)
	require.Equal(t, g, sb.GenerationIDs())
	line, err := sb.GI(0)
	require.NoError(t, err)
	require.Contains(t, line, "0000000000000001:0000000000000002:0000000000000003:0000000000000004:")
}

func FuzzDecode(f *testing.F) {
	for _, g := range goldens(f) {
		d := g.device(f, "")
		_, l, err := Read(d, g.location(f), g.DeviceBytes)
		require.NoError(f, err)
		f.Add(d.bytes(l.SuperblockOffset, BlockSize), g.DeviceBytes)
	}
	f.Add([]byte{}, int64(0))
	locs := []Location{Internal(), InternalFixed(), FlexExternal(), Indexed(3)}
	f.Fuzz(func(t *testing.T, block []byte, deviceBytes int64) {
		sb, err := Decode(block)
		if err != nil {
			require.Equal(t, Superblock{}, sb)
			return
		}
		var again [BlockSize]byte
		sb.Encode(&again)
		same, err := Decode(again[:])
		require.NoError(t, err)
		require.Equal(t, sb, same)
		for _, loc := range locs {
			_ = sb.Validate(loc, deviceBytes)
			_ = sb.CheckAttach(AttachTarget{Location: loc, MetaBytes: deviceBytes, DataBytes: deviceBytes})
			l, err := sb.Layout(loc, deviceBytes)
			if err != nil {
				continue
			}
			checkLayout(t, l)
			AppendDump(nil, &sb, l, DumpOptions{})
		}
	})
}
