// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
)

// drawBits sets random bits of a slot and returns them.
func drawBits(t *rapid.T, d *sparse, l Layout, sectors uint64, slot int) *bitmap.Bitmap {
	b := bitmap.New(bitmap.BitsFor(sectors))
	for range rapid.IntRange(0, 20).Draw(t, "ranges") {
		from := rapid.Uint64Max(b.Len()-1).Draw(t, "from")
		b.SetRange(from, min(from+rapid.Uint64Max(3000).Draw(t, "bits"), b.Len()))
	}
	require.NoError(t, b.Store(d, l.BitmapOffset, slot, int(l.Geometry.MaxPeers)))
	return b
}

func sameBits(t require.TestingT, want *bitmap.Bitmap, d *sparse, l Layout, slot int) {
	got := bitmap.New(want.Len())
	require.NoError(t, got.Load(d, l.BitmapOffset, slot, int(l.Geometry.MaxPeers)))
	require.Equal(t, want.Count(), got.Count())
	for from, to := range want.Ranges() {
		require.Equal(t, to-from, got.CountRange(from, to))
	}
}

// TestResize: size, place and number of peers may be any: every slot keeps its
// bits, the log keeps its extents, the data is not touched.
func TestResize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]Version{V08, V09}).Draw(t, "version")
		var g Geometry
		if v == V09 {
			g.MaxPeers = rapid.Uint32Range(1, 5).Draw(t, "peers")
		}
		sectors := rapid.Uint64Range(1000, 1<<20).Draw(t, "sectors")
		oldBytes := int64(sectors)*SectorSize + 2<<20 + rapid.Int64Range(0, 1<<26).Draw(t, "spare")
		newBytes := oldBytes + rapid.OneOf(rapid.Int64Range(-1<<20, 1<<20), rapid.Int64Range(0, 1<<30)).Draw(t, "growth")
		l, err := NewLayout(v, Internal(), oldBytes, g)
		require.NoError(t, err)
		d := newSparse(max(oldBytes, newBytes))
		sb, err := Create(d, v, Internal(), oldBytes, CreateOptions{Geometry: g, EffectiveSize: sectors, Current: 99})
		require.NoError(t, err)
		var slots []*bitmap.Bitmap
		for slot := range int(l.Geometry.MaxPeers) {
			slots = append(slots, drawBits(t, d, l, sectors, slot))
		}
		log := activitylog.New(activitylog.DefaultExtents, l.alGeometry())
		log.TryHold(3)
		var block [BlockSize]byte
		tr, _, ok := log.Prepare(&block, nil)
		require.True(t, ok)
		_, err = d.WriteAt(block[:], l.ActivityLogOffset+tr.Offset())
		require.NoError(t, err)
		data := bytes.Repeat([]byte("data"), 1024)
		_, err = d.WriteAt(data, int64(sectors)*SectorSize-int64(len(data)))
		require.NoError(t, err)

		setNew := rapid.Bool().Draw(t, "set new")
		got, to, err := Resize(d, Internal(), oldBytes, newBytes, ResizeOptions{SetNew: setNew})
		require.NoError(t, err)
		want, err := NewLayout(v, Internal(), newBytes, g)
		require.NoError(t, err)
		require.Equal(t, want, to)
		sb.BMOffset, sb.MDSizeSectors = to.BMOffset, to.MDSizeSectors
		require.Equal(t, sb, got)
		onDisk, _, err := Read(d, Internal(), newBytes)
		require.NoError(t, err)
		require.Equal(t, sb, onDisk)
		for slot, b := range slots {
			sameBits(t, b, d, to, slot)
		}
		replay, err := activitylog.Replay(d, to.ActivityLogOffset, to.alGeometry())
		require.NoError(t, err)
		require.Equal(t, []activitylog.Extent{3}, replay.Hot)
		require.Equal(t, data, d.bytes(int64(sectors)*SectorSize-int64(len(data)), int64(len(data))))
		if tail := to.BitmapSize - l.BitmapSize; tail > 0 {
			fill := byte(0)
			if setNew {
				fill = 0xff
			}
			require.Equal(t, bytes.Repeat([]byte{fill}, int(tail)), d.bytes(to.BitmapOffset+l.BitmapSize, tail))
		}
		if l.SuperblockOffset != to.SuperblockOffset {
			_, _, err = Read(d, Internal(), oldBytes)
			require.Error(t, err, "the old superblock is still there")
		}
	})
}

// TestResizeCrash: a power cut anywhere leaves the old or the new metadata, whose
// bitmap is right or declared worthless, or none.
func TestResizeCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const oldBytes = 64 << 20
		newBytes := oldBytes + rapid.SampledFrom([]int64{BlockSize, 5 * BlockSize, 1 << 20, 256 << 20, -BlockSize, -1 << 20}).Draw(t, "growth")
		disk := newSparse(max(oldBytes, newBytes))
		_, err := Create(disk, V08, Internal(), oldBytes, CreateOptions{EffectiveSize: 100000})
		require.NoError(t, err)
		l, err := NewLayout(V08, Internal(), oldBytes, Geometry{})
		require.NoError(t, err)
		want := drawBits(t, disk, l, 100000, 0)
		disk.log, disk.failAt = nil, rapid.IntRange(1, 14).Draw(t, "fail at")
		c := &crash{sparse: disk, durable: disk.clone()}
		_, _, _ = Resize(c, Internal(), oldBytes, newBytes, ResizeOptions{})
		after := c.survivors(t, writeUnit(V08))
		for _, size := range []int64{newBytes, oldBytes} {
			sb, l, err := Read(after, Internal(), size)
			if err != nil || sb.Flags&FullSync != 0 {
				continue
			}
			sameBits(t, want, after, l, 0)
		}
	})
}

func TestResizeErrors(t *testing.T) {
	d := newSparse(1 << 30)
	_, err := Create(d, V08, Internal(), 64<<20, CreateOptions{EffectiveSize: 120000})
	require.NoError(t, err)
	d.log = nil
	_, _, err = Resize(d, FlexExternal(), 64<<20, 1<<30, ResizeOptions{})
	require.ErrorIs(t, err, ErrInvalidLocation)
	_, _, err = Resize(d, Internal(), 65<<20, 1<<30, ResizeOptions{})
	require.ErrorIs(t, err, ErrNoMetadata)
	_, _, err = Resize(d, Internal(), 64<<20, 58<<20, ResizeOptions{})
	require.ErrorIs(t, err, ErrDeviceTooSmall)
	_, _, err = Resize(d, Internal(), 64<<20, 1000, ResizeOptions{})
	require.ErrorIs(t, err, ErrDeviceTooSmall)
	_, _, err = Resize(d, Internal(), 64<<20, 64<<20, ResizeOptions{})
	require.NoError(t, err)
	require.Empty(t, d.log)

	never := newSparse(64 << 20)
	_, err = Create(never, V08, Internal(), never.size, CreateOptions{})
	require.NoError(t, err)
	_, _, err = Resize(never, Internal(), never.size, never.size-BlockSize, ResizeOptions{})
	require.ErrorIs(t, err, ErrDeviceTooSmall)
	_, err = Create(never, V07, Internal(), never.size, CreateOptions{})
	require.NoError(t, err)
	_, _, err = Resize(never, Internal(), never.size, never.size+1<<20, ResizeOptions{})
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestConvert(t *testing.T) {
	v07 := Superblock{Version: V07, Flags: 0xf, Counters: Counters{0x10002, 3, 4, 5}, MaxPeers: 1, NodeID: Unassigned, BytesPerBit: 4096, EffectiveSize: 1000}
	v08, err := v07.Convert(V08)
	require.NoError(t, err)
	require.Equal(t, []UUID{0x000200030009BABE, 0, 0x000200030008BABE, 0x000200030007BABE},
		[]UUID{v08.Current, v08.Bitmap, v08.History[0], v08.History[1]})
	require.Equal(t, Flags(0xf), v08.Flags)
	require.True(t, v08.NeedsApplyAL())
	require.EqualValues(t, 1000, v08.EffectiveSize)

	v08.Flags |= PeerOutdated | ALClean
	v08.Unclean, v08.Bitmap, v08.DeviceUUID = true, 77, 88
	v09, err := v08.Convert(V09)
	require.NoError(t, err)
	require.Equal(t, Consistent|PrimaryInd, v09.Flags, "unclean v08 must not become clean v09")
	require.Equal(t, PeerConnected|PeerFullSync|PeerIsOutdated, v09.Peers[0].Flags)
	for i := range v09.Peers {
		require.EqualValues(t, Unassigned, v09.Peers[i].BitmapIndex)
		require.Zero(t, v09.Peers[i].BitmapUUID)
	}
	require.EqualValues(t, 88, v09.DeviceUUID)

	v09.Peers[0].BitmapUUID, v09.History[5], v09.Members = 77, 5, 3
	v09.Flags |= HaveQuorum
	back, err := v09.Convert(V08)
	require.NoError(t, err)
	v08.Unclean = false
	v08.Flags &^= ALClean
	require.Equal(t, v08, back)

	v09.MaxPeers = 2
	_, err = v09.Convert(V08)
	require.ErrorIs(t, err, ErrConversion)
	v09.MaxPeers, v09.BytesPerBit = 1, 8192
	_, err = v09.Convert(V08)
	require.ErrorIs(t, err, ErrConversion)
	for _, to := range []Version{V07, V09} {
		_, err = v07.Convert(to)
		require.ErrorIs(t, err, ErrConversion)
	}
	_, err = v08.Convert(V07)
	require.ErrorIs(t, err, ErrConversion)
}

// TestGoldenConversions: the images the tool converted come out the same.
func TestGoldenConversions(t *testing.T) {
	byName := map[string]golden{}
	for _, g := range goldens(t) {
		byName[g.Name] = g
	}
	from, to := byName["v07-flexint-fresh"], byName["v08-from-v07"]
	d := from.device(t, "")
	_, _, err := ConvertDevice(d, V08, Internal(), Internal(), from.DeviceBytes)
	require.NoError(t, err)
	require.True(t, d.equal(to.device(t, "")))

	to = byName["v09-from-v08"]
	d = newSparse(to.DeviceBytes)
	sb, err := Create(d, V08, Internal(), d.size, CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, sb.SetGI(0, "AABBCCDDEEFF0010:1122334455667788:99AABBCCDDEEFF00:0102030405060708:1:1:0:1:1:1:1"))
	l, err := sb.Layout(Internal(), d.size)
	require.NoError(t, err)
	require.NoError(t, WriteSuperblock(d, l, &sb))
	_, _, err = ConvertDevice(d, V09, Internal(), Internal(), d.size)
	require.NoError(t, err)
	require.True(t, d.equal(to.device(t, "")))
}

// TestConvertDevice moves v07's fixed place to the end, the bitmap with it.
func TestConvertDevice(t *testing.T) {
	for _, bytes := range []int64{200 << 20, slotBytes + 1<<20, 4<<40 + 3*SectorSize} {
		d := newSparse(bytes)
		l, err := NewLayout(V07, InternalFixed(), bytes, Geometry{})
		require.NoError(t, err)
		_, err = Create(d, V07, InternalFixed(), bytes, CreateOptions{EffectiveSize: 2000})
		require.NoError(t, err)
		b := bitmap.New(bitmap.BitsFor(2000))
		b.SetRange(3, 90)
		require.NoError(t, b.Store(d, l.BitmapOffset, 0, 1))
		_, _, err = ConvertDevice(d, V08, InternalFixed(), FlexExternal(), bytes)
		require.ErrorIs(t, err, ErrConversion)
		_, _, err = ConvertDevice(d, V09, InternalFixed(), Internal(), bytes)
		require.ErrorIs(t, err, ErrConversion)
		sb, to, err := ConvertDevice(d, V08, InternalFixed(), Internal(), bytes)
		require.NoError(t, err)
		sameBits(t, b, d, to, 0)
		got, _, err := Read(d, Internal(), bytes)
		require.NoError(t, err)
		require.Equal(t, sb, got)
		_, _, err = Read(d, InternalFixed(), bytes)
		require.Error(t, err)
	}
}
