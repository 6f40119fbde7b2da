// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
)

// crashed is a device whose node was Primary with the given extents hot.
func crashed(t require.TestingT, v Version, g Geometry, sectors uint64, hot []activitylog.Extent) (*sparse, Layout) {
	l, err := NewLayout(v, Internal(), int64(sectors)*SectorSize+(64<<20), g)
	require.NoError(t, err)
	d := newSparse(l.DeviceBytes)
	_, err = Create(d, v, Internal(), l.DeviceBytes, CreateOptions{Geometry: g, EffectiveSize: sectors, Flags: Consistent | PrimaryInd})
	require.NoError(t, err)
	log := activitylog.New(activitylog.DefaultExtents, l.alGeometry())
	var block [BlockSize]byte
	for _, e := range hot {
		log.TryHold(e)
		if tr, _, ok := log.Prepare(&block, nil); ok {
			_, err = d.WriteAt(block[:], l.ActivityLogOffset+tr.Offset())
			require.NoError(t, err)
			log.Commit()
		}
	}
	setFlags(t, d, l, func(sb *Superblock) {
		sb.Flags &^= ALClean
		sb.Unclean = v == V08
	})
	return d, l
}

func setFlags(t require.TestingT, d *sparse, l Layout, change func(sb *Superblock)) {
	sb, _, err := Read(d, l.Location, l.DeviceBytes)
	require.NoError(t, err)
	change(&sb)
	require.NoError(t, WriteSuperblock(d, l, &sb))
	d.log = nil
}

// TestApplyALModel compares with bits set one by one, in all slots, for every
// number of peers and size of a bit, and with what package bitmap reads then.
func TestApplyALModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]Version{V08, V09}).Draw(t, "version")
		var g Geometry
		if v == V09 {
			g.MaxPeers = rapid.Uint32Range(1, MaxPeers).Draw(t, "peers")
			g.BytesPerBit = DefaultBytesPerBit << rapid.IntRange(0, 8).Draw(t, "bits")
		}
		extents := rapid.IntRange(1, 300).Draw(t, "extents")
		sectors := uint64(extents)*activitylog.ExtentSectors - rapid.Uint64Max(activitylog.ExtentSectors-1).Draw(t, "short")
		hot := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) activitylog.Extent {
			return activitylog.Extent(rapid.IntRange(0, extents+1).Draw(t, "extent"))
		}), 0, 40, rapid.ID[activitylog.Extent]).Draw(t, "hot")
		d, l := crashed(t, v, g, sectors, hot)
		before := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bitmap")
		size := l.BitmapBytes(sectors)
		before = before[:min(int64(len(before)), size)]
		_, err := d.WriteAt(before, l.BitmapOffset)
		require.NoError(t, err)

		want := d.bytes(l.BitmapOffset, size)
		beyond, changed := 0, uint64(0)
		peers, bits := int64(l.Geometry.MaxPeers), 4<<20/int64(l.Geometry.BytesPerBit)
		for _, e := range hot {
			whole := true
			for bit := int64(e) * bits; bit < int64(e+1)*bits; bit++ {
				for slot := range peers {
					onDisk := (bit&^31)*peers + slot*32 + bit&31
					if onDisk/8 >= size {
						whole = false
					} else if want[onDisk/8]&(1<<(onDisk%8)) == 0 {
						want[onDisk/8] |= 1 << (onDisk % 8)
						changed++
					}
				}
			}
			if !whole {
				beyond++
			}
		}
		res, err := ApplyAL(d, Internal(), l.DeviceBytes)
		require.NoError(t, err)
		require.Equal(t, want, d.bytes(l.BitmapOffset, size))
		require.Equal(t, changed, res.MarkedBits)
		require.Equal(t, changed*uint64(l.Geometry.BytesPerBit), res.MarkedBytes)
		require.Len(t, res.Beyond, beyond)
		require.Len(t, res.Replay.Hot, len(hot))

		if l.Geometry.BytesPerBit == DefaultBytesPerBit {
			for slot := range int(peers) {
				b := bitmap.New(bitmap.BitsFor(sectors))
				require.NoError(t, b.Load(d, l.BitmapOffset, slot, int(peers)))
				for _, e := range hot {
					from, to := min(uint64(e)*1024, b.Len()), min(uint64(e+1)*1024, b.Len())
					require.Equal(t, to-from, b.CountRange(from, to), "slot %d extent %d", slot, e)
				}
			}
		}
	})
}

// TestApplyALCrash: after a power cut anywhere inside, another ApplyAL finds
// everything that was hot, or it is in the bitmap already.
func TestApplyALCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hot := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) activitylog.Extent {
			return activitylog.Extent(rapid.IntRange(0, 255).Draw(t, "extent"))
		}), 1, 20, rapid.ID[activitylog.Extent]).Draw(t, "hot")
		disk, l := crashed(t, V08, Geometry{}, 1<<21, hot)
		disk.failAt = rapid.IntRange(1, 12).Draw(t, "fail at")
		c := &crash{sparse: disk, durable: disk.clone()}
		_, _ = ApplyAL(c, Internal(), l.DeviceBytes)
		after := c.survivors(t, writeUnit(V08))
		_, err := ApplyAL(after, Internal(), l.DeviceBytes)
		require.NoError(t, err)
		for _, e := range hot {
			require.Equal(t, bytes.Repeat([]byte{0xff}, 128), after.bytes(l.BitmapOffset+int64(e)*128, 128), "extent %d", e)
		}
		sb, _, err := Read(after, Internal(), l.DeviceBytes)
		require.NoError(t, err)
		require.False(t, sb.NeedsApplyAL())
		require.NotZero(t, sb.Flags&PrimaryInd)
	})
}

// TestApplyALOrder: bitmap, log, superblock, each synced before the next.
func TestApplyALOrder(t *testing.T) {
	d, l := crashed(t, V08, Geometry{}, 1<<21, []activitylog.Extent{1, 200})
	_, err := ApplyAL(d, Internal(), l.DeviceBytes)
	require.NoError(t, err)
	stage, dirty := 0, false
	for _, o := range d.log {
		at := map[bool]int{o.off < l.ActivityLogOffset: 1, o.off >= l.ActivityLogOffset && o.off < l.SuperblockOffset: 2, o.off == l.SuperblockOffset: 3}[true]
		switch {
		case o.sync:
			dirty = false
		case at > stage:
			require.False(t, dirty, "%+v before the last stage was synced", o)
			stage, dirty = at, true
		default:
			require.Equal(t, stage, at)
			dirty = true
		}
	}
	require.Equal(t, 3, stage)
	require.False(t, dirty)
}

func TestApplyALNotPrimary(t *testing.T) {
	for _, v := range []Version{V08, V09} {
		d, l := crashed(t, v, Geometry{}, 1<<20, []activitylog.Extent{1, 2})
		setFlags(t, d, l, func(sb *Superblock) { sb.Flags &^= PrimaryInd })
		res, err := ApplyAL(d, Internal(), l.DeviceBytes)
		require.NoError(t, err)
		require.Len(t, res.Replay.Hot, 2)
		require.Zero(t, res.MarkedBits)
		require.True(t, res.LogInitialised)
		require.True(t, res.SuperblockWritten)
		require.Empty(t, res.Messages(nil))
		require.Equal(t, make([]byte, l.BitmapSize), d.bytes(l.BitmapOffset, l.BitmapSize))
	}
}

func TestApplyALUselessLog(t *testing.T) {
	for _, c := range []struct {
		name   string
		blocks []int64 // damaged ones
		want   error
		says   string
	}{
		{"all", []int64{0, 1, 2, 3, 4, 5, 6, 7}, activitylog.ErrNoLog, "No usable activity log found. Do you need to create-md?"},
		{"one", []int64{3}, activitylog.ErrDamaged, "No valid AL update transaction found."},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, l := crashed(t, V08, Geometry{}, 1<<20, nil)
			for _, b := range c.blocks {
				_, err := d.WriteAt([]byte{1}, l.ActivityLogOffset+b*BlockSize+3000)
				require.NoError(t, err)
			}
			before := d.clone()
			res, err := ApplyAL(d, Internal(), l.DeviceBytes)
			require.ErrorIs(t, err, c.want)
			require.True(t, before.equal(d), "a Primary's useless log must not be touched")
			require.Contains(t, res.Messages(err), c.says)

			setFlags(t, d, l, func(sb *Superblock) { sb.Flags &^= PrimaryInd })
			res, err = ApplyAL(d, Internal(), l.DeviceBytes)
			require.NoError(t, err)
			require.ErrorIs(t, res.Ignored, c.want)
			require.Contains(t, res.Messages(err), "Error ignored, no need to apply the AL")
			res, err = ApplyAL(d, Internal(), l.DeviceBytes)
			require.NoError(t, err)
			require.False(t, res.LogInitialised)
			require.False(t, res.SuperblockWritten)
		})
	}
}

// TestApplyALTornFirst: a lone torn block at the start of a fresh log is harmless,
// and gone afterwards.
func TestApplyALTornFirst(t *testing.T) {
	d, l := crashed(t, V08, Geometry{}, 1<<20, nil)
	_, err := d.WriteAt([]byte{1}, l.ActivityLogOffset+3000)
	require.NoError(t, err)
	res, err := ApplyAL(d, Internal(), l.DeviceBytes)
	require.NoError(t, err)
	require.True(t, res.LogInitialised)
	require.Equal(t, []string{"1 corrupt AL transactions found"}, res.Messages(nil))
	res, err = ApplyAL(d, Internal(), l.DeviceBytes)
	require.NoError(t, err)
	require.Zero(t, res.Replay.Invalid)
}

// TestApplyALPersistent: the array that DRBD 9 keeps in persistent memory counts,
// and becomes a log of blocks.
func TestApplyALPersistent(t *testing.T) {
	d, l := crashed(t, V09, Geometry{MaxPeers: 2}, 1<<20, nil)
	array := bytes.Repeat([]byte{0xff}, 4*(1+DefaultALExtents))
	binary.BigEndian.PutUint32(array, 0x6AA667A6)
	binary.BigEndian.PutUint32(array[4*9:], 5)
	_, err := d.WriteAt(array, l.ActivityLogOffset)
	require.NoError(t, err)
	res, err := ApplyAL(d, Internal(), l.DeviceBytes)
	require.NoError(t, err)
	require.Equal(t, []activitylog.Extent{5}, res.Replay.Hot)
	require.EqualValues(t, 2*1024, res.MarkedBits)
	require.Equal(t, []string{"Marked additional 8192 KB as out-of-sync based on AL."}, res.Messages(nil))
	res, err = ApplyAL(d, Internal(), l.DeviceBytes)
	require.NoError(t, err)
	require.True(t, res.Replay.Clean())
}

// TestApplyALV07 marks, and leaves log and superblock: they cannot say more.
func TestApplyALV07(t *testing.T) {
	l, err := NewLayout(V07, Internal(), 64<<20, Geometry{})
	require.NoError(t, err)
	d := newSparse(l.DeviceBytes)
	_, err = Create(d, V07, Internal(), l.DeviceBytes, CreateOptions{EffectiveSize: 100000, Flags: PrimaryInd})
	require.NoError(t, err)
	sector := make([]byte, 512)
	be := binary.BigEndian
	be.PutUint32(sector, 0x83740267)
	be.PutUint32(sector[4:], 7)
	for i := range 62 {
		be.PutUint64(sector[8+8*i:], 0xffffffffffffffff)
	}
	be.PutUint32(sector[8:], 3)  // slot
	be.PutUint32(sector[12:], 2) // extent
	be.PutUint32(sector[504:], 2^0xffffffff)
	_, err = d.WriteAt(sector, l.ActivityLogOffset)
	require.NoError(t, err)
	before := d.bytes(l.ActivityLogOffset, l.DeviceBytes-l.ActivityLogOffset)
	res, err := ApplyAL(d, Internal(), l.DeviceBytes)
	require.NoError(t, err)
	require.EqualValues(t, 1024, res.MarkedBits)
	require.False(t, res.SuperblockWritten)
	require.Equal(t, bytes.Repeat([]byte{0xff}, 128), d.bytes(l.BitmapOffset+256, 128))
	require.Equal(t, before, d.bytes(l.ActivityLogOffset, l.DeviceBytes-l.ActivityLogOffset))
}
