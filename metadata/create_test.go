// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// place is where the tests of writing put metadata.
type place struct {
	v     Version
	loc   Location
	bytes int64
	g     Geometry
}

var places = []place{
	{V07, Internal(), 10 << 20, Geometry{}},
	{V08, Internal(), 64<<20 + 3*SectorSize, Geometry{ALStripes: 2, ALStripeSize4k: 16}},
	{V08, FlexExternal(), 1<<20 + 5*SectorSize, Geometry{}},
	{V08, Indexed(1), 256 << 20, Geometry{}},
	{V09, Internal(), 100 << 20, Geometry{MaxPeers: 3}},
	{V09, FlexExternal(), 2 << 20, Geometry{MaxPeers: 31, BytesPerBit: 1 << 20}},
}

func (p place) String() string { return fmt.Sprintf("%s %s", p.v, p.loc) }

// full is a device that holds 0xA5 in and around the first and the last MiB of where
// its metadata will be.
func (p place) full(t testing.TB) (*sparse, Layout) {
	l, err := NewLayout(p.v, p.loc, p.bytes, p.g)
	require.NoError(t, err)
	d := newSparse(p.bytes)
	from, to := max(l.start()-8*BlockSize, 0), min(l.end()+8*BlockSize, p.bytes)
	stale := bytes.Repeat([]byte{0xa5}, int(min(to-from, 1<<20)))
	for _, at := range []int64{from, to - int64(len(stale))} {
		_, err = d.WriteAt(stale, at)
		require.NoError(t, err)
	}
	d.log = nil
	return d, l
}

func TestCreate(t *testing.T) {
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			d, l := p.full(t)
			before := d.clone()
			sb, err := Create(d, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g})
			require.NoError(t, err)
			got, layout, err := ReadVersion(d, p.v, p.loc, p.bytes)
			require.NoError(t, err)
			require.Equal(t, sb, got)
			require.Equal(t, l, layout)
			require.Equal(t, make([]byte, l.BitmapSize), d.bytes(l.BitmapOffset, l.BitmapSize))
			requireOutside(t, before, d, l)
			if p.v != V07 {
				res, err := ApplyAL(d, p.loc, p.bytes)
				require.NoError(t, err)
				require.True(t, res.Replay.Clean())
				require.False(t, res.LogInitialised)
			}
		})
	}
}

// requireOutside: nothing but the three areas changed.
func requireOutside(t testing.TB, before, after *sparse, l Layout) {
	masked := after.clone()
	for _, r := range []byteRange{{l.SuperblockOffset, BlockSize}, {l.ActivityLogOffset, l.ActivityLogSize}, {l.BitmapOffset, l.BitmapSize}} {
		for at := range masked.blocks {
			from, to := max(at, r.off), min(at+BlockSize, r.off+r.size)
			if from < to {
				_, err := masked.WriteAt(before.bytes(from, to-from), from)
				require.NoError(t, err)
			}
		}
	}
	require.True(t, before.equal(masked), "a byte outside the metadata changed")
}

// writerOnly hides everything of a device but WriteAt.
type writerOnly struct{ w io.WriterAt }

func (w writerOnly) WriteAt(p []byte, off int64) (int, error) { return w.w.WriteAt(p, off) }

// flusher has Flush instead of Sync.
type flusher struct {
	writerOnly
	flushed int
}

func (f *flusher) Flush() error { f.flushed++; return nil }

func TestCreateOnWriters(t *testing.T) {
	p := places[2]
	want, _ := p.full(t)
	_, err := Create(want, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g})
	require.NoError(t, err)
	got, _ := p.full(t)
	_, err = Create(writerOnly{got}, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g})
	require.NoError(t, err)
	require.True(t, want.equal(got))
	f := &flusher{writerOnly: writerOnly{newSparse(p.bytes)}}
	_, err = Create(f, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g})
	require.NoError(t, err)
	require.Equal(t, 4, f.flushed)
}

// TestCreateKeepsThin: what is zero already is not written.
func TestCreateKeepsThin(t *testing.T) {
	d := newSparse(slotBytes)
	_, err := Create(d, V08, Indexed(0), slotBytes, CreateOptions{})
	require.NoError(t, err)
	require.Less(t, len(d.blocks), 20)
}

func TestCreateErrors(t *testing.T) {
	d := newSparse(1 << 20)
	for _, c := range []struct {
		opt  CreateOptions
		want error
	}{
		{CreateOptions{Geometry: Geometry{MaxPeers: 32}}, ErrInvalidGeometry},
		{CreateOptions{EffectiveSize: 2048}, ErrDeviceTooSmall},
		{CreateOptions{PeerMaxBioSize: 1<<20 + 1}, ErrInvalidGeometry},
	} {
		_, err := Create(d, V08, Internal(), d.size, c.opt)
		require.ErrorIs(t, err, c.want)
	}
	require.Empty(t, d.log)
}

// crash is a disk with a volatile cache: what was written after the last sync may
// be lost, in any combination.
type crash struct {
	*sparse
	durable *sparse
}

func (c *crash) Sync() error {
	if err := c.sparse.Sync(); err != nil {
		return err
	}
	c.durable = c.sparse.clone()
	return nil
}

// survivors draws what is on the disk after a power cut, in units of what the disk
// writes as a whole: a sector, or a block.
func (c *crash) survivors(t *rapid.T, unit int) *sparse {
	d := c.durable.clone()
	for at, b := range c.sparse.blocks {
		for i := 0; i < BlockSize; i += unit {
			part, off := b[i:i+unit], at+int64(i)
			if off < d.size && !bytes.Equal(part, d.bytes(off, int64(unit))) && rapid.Bool().Draw(t, "survives") {
				_, err := d.WriteAt(part[:min(int64(unit), d.size-off)], off)
				require.NoError(t, err)
			}
		}
	}
	return d
}

// writeUnit is what tests of power cuts take as written as a whole: v08's
// superblock is safe against torn blocks, v09's is not (spec: on-disk 1).
func writeUnit(v Version) int {
	if v == V08 {
		return SectorSize
	}
	return BlockSize
}

// TestCreateCrash: an interrupted Create leaves no metadata, or all of it.
func TestCreateCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom([]place{places[1], places[2], places[4]}).Draw(t, "place")
		l, err := NewLayout(p.v, p.loc, p.bytes, p.g)
		require.NoError(t, err)
		disk := newSparse(p.bytes)
		_, err = Create(disk, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g, Current: 77, EffectiveSize: 1000})
		require.NoError(t, err)
		_, err = disk.WriteAt(bytes.Repeat([]byte{0xff}, 100), l.BitmapOffset)
		require.NoError(t, err)
		disk.log = nil
		disk.failAt = rapid.IntRange(1, 10).Draw(t, "fail at")
		c := &crash{sparse: disk, durable: disk.clone()}
		want, failed := Create(c, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g})
		after := c.survivors(t, writeUnit(p.v))
		sb, _, err := Read(after, p.loc, p.bytes)
		switch {
		case err != nil:
			require.ErrorIs(t, err, ErrNoMetadata)
			require.ErrorIs(t, failed, errInjected)
		case sb.Current == 77: // not even begun
			require.Equal(t, bytes.Repeat([]byte{0xff}, 100), after.bytes(l.BitmapOffset, 100))
			require.ErrorIs(t, failed, errInjected)
		default:
			require.Equal(t, want, sb)
			require.Equal(t, make([]byte, l.BitmapSize), after.bytes(l.BitmapOffset, l.BitmapSize))
		}
	})
}

// TestEveryWriteCanFail: any failing write or sync ends the operation with its error.
func TestEveryWriteCanFail(t *testing.T) {
	p := places[4]
	dump := func(d *sparse) *Dump {
		sb, l, err := Read(d, p.loc, p.bytes)
		require.NoError(t, err)
		out, err := ParseDump(bytes.NewBufferString(dumpOf(t, d, &sb, l, DumpOptions{})))
		require.NoError(t, err)
		return out
	}
	for name, do := range map[string]func(d *sparse) error{
		"create": func(d *sparse) error {
			_, err := Create(d, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g})
			return err
		},
		"apply": func(d *sparse) error {
			_, err := d.WriteAt([]byte{0}, d.size-BlockSize+offFlags+3) // clears AL_CLEAN
			if err != nil {
				return err
			}
			_, err = ApplyAL(d, p.loc, p.bytes)
			return err
		},
		"restore": func(d *sparse) error {
			_, _, err := dump(d).Restore(d, p.loc, p.bytes, RestoreOptions{})
			return err
		},
		"forget": func(d *sparse) error {
			sb, l, err := Read(d, p.loc, p.bytes)
			require.NoError(t, err)
			sb.Peers[1].BitmapIndex = 0
			return ForgetPeer(d, &sb, l, 1)
		},
		"shrink": func(d *sparse) error {
			_, _, err := Resize(d, p.loc, p.bytes, p.bytes-1<<20, ResizeOptions{SetNew: true})
			return err
		},
		"overlapping shrink": func(d *sparse) error {
			_, _, err := Resize(d, p.loc, p.bytes, p.bytes-BlockSize, ResizeOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				require.Less(t, n, 100)
				d := newSparse(p.bytes)
				_, err := Create(d, p.v, p.loc, p.bytes, CreateOptions{Geometry: p.g, EffectiveSize: 100000})
				require.NoError(t, err)
				d.log, d.failAt = nil, n
				err = do(d)
				if len(d.log) < n {
					require.NoError(t, err)
					require.Greater(t, n, 1)
					return
				}
				require.ErrorIs(t, err, errInjected)
			}
		})
	}
}

func TestReadErrors(t *testing.T) {
	d := newSparse(1 << 20)
	_, _, err := Read(d, Internal(), d.size)
	require.ErrorIs(t, err, ErrNoMetadata)
	_, _, err = Read(d, Indexed(256), d.size)
	require.ErrorIs(t, err, ErrInvalidLocation)
	_, _, err = Read(d, Internal(), 4096)
	require.ErrorIs(t, err, ErrDeviceTooSmall)
	_, _, err = Read(d, Internal(), 2*d.size)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, _, err = ReadVersion(d, V08, InternalFixed(), d.size)
	require.ErrorIs(t, err, ErrInvalidLocation)
	_, err = Create(d, V08, Internal(), d.size, CreateOptions{})
	require.NoError(t, err)
	_, _, err = ReadVersion(d, V09, Internal(), d.size)
	require.ErrorIs(t, err, ErrNoMetadata)
}

// TestBitmapBytes compares with package bitmap, which counts for itself.
func TestBitmapBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sectors := rapid.Uint64Max(MaxSectors).Draw(t, "sectors")
		slots := rapid.IntRange(1, MaxPeers).Draw(t, "slots")
		require.EqualValues(t, bitmap.AreaBytes(bitmap.BitsFor(sectors), slots),
			BitmapBytes(sectors, DefaultBytesPerBit, uint32(slots)))
	})
}
