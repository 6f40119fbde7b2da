// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
)

func golden(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := readImage(name)
	require.NoError(t, err)
	return raw
}

func readImage(name string) ([]byte, error) {
	f, err := os.Open("testdata/" + name + ".md.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

var crashExtents = []activitylog.Extent{
	2, 7, 10, 13, 21, 24, 27, 32, 35, 38, 43, 46, 49, 57, 60, 63, 68, 71, 74, 79, 82, 85, 88, 93, 96, 99, 104, 107, 110,
	118, 121, 124, 129, 132, 135, 140, 143, 146, 154, 157, 160, 165, 168, 171, 176, 179, 182, 185, 190, 193, 196, 201,
	204, 207, 215, 218, 221, 226, 229, 232, 237, 240, 243, 246, 251, 254, 255,
}

// image is what the test needs to know of a superblock.
type image struct {
	name     string
	magic    uint32
	al       int64 // offset of the log in the region
	g        activitylog.Geometry
	slots    uint32 // al_nr_extents
	format   activitylog.Format
	updates  int
	invalid  int
	warning  string
	hot      []activitylog.Extent
	bitmapAt int64  // offset of the bitmap in the region
	bits     uint64 // 0: the tool applied nothing
	peers    int
}

const (
	v07        = 0x8374026A
	v08Clean   = 0x8374026B
	v08Unclean = 0x8374026C
	v09        = 0x8374026D
)

func extents(from, to activitylog.Extent) (list []activitylog.Extent) {
	for e := from; e <= to; e++ {
		list = append(list, e)
	}
	return list
}

func images() []image {
	ring := activitylog.Geometry{Stripes: 1, StripeSize4k: 8}
	return []image{
		{name: "v08-internal-fresh", magic: v08Clean, al: 4096, g: ring, slots: 257},
		{name: "v08-flexext-stripes-fresh", magic: v08Clean, al: 4096, g: activitylog.Geometry{Stripes: 4, StripeSize4k: 8}, slots: 257},
		{name: "v07-internal-fresh", magic: v07, al: 4096, g: ring, slots: 257, format: activitylog.FormatSectors, invalid: 6, warning: "6 of 6 sectors"},
		{name: "v08-internal-attached", magic: v08Unclean, al: 36864, g: ring, slots: 67, updates: 8},
		{name: "v08-internal-crash", magic: v08Unclean, al: 36864, g: ring, slots: 67, updates: 8, hot: crashExtents, bits: 262126},
		{name: "v08-indexed1-crash", magic: v08Unclean, al: 4096, g: ring, slots: 1237, updates: 8, hot: []activitylog.Extent{3, 7, 12, 40, 55, 60, 61, 62}},
		{
			name: "v08-flexext-stripes-crash", magic: v08Unclean, al: 4096, g: activitylog.Geometry{Stripes: 2, StripeSize4k: 16}, slots: 1237,
			updates: 27, hot: append(append(extents(1, 12), extents(60, 62)...), extents(88, 99)...), bitmapAt: 135168, bits: 102401,
		},
		{name: "v08-internal-detached", magic: v08Unclean, al: 4096, g: ring, slots: 1237, updates: 3, hot: []activitylog.Extent{0, 5, 9}},
		{
			name: "v08-internal-al83", magic: v08Clean, al: 4096, g: ring, slots: 257, format: activitylog.FormatSectors,
			updates: 3, invalid: 3, warning: "3 of 6 sectors", hot: []activitylog.Extent{5, 9}, bits: 16250,
		},
		{
			name: "v08-internal-al-corrupt", magic: v08Unclean, al: 65536, g: ring, slots: 1237,
			updates: 7, invalid: 1, warning: "1 of 8 blocks are invalid, 1 of them between transactions", hot: extents(5, 14), bits: 500000,
		},
		{name: "v08-flexext-last-extent", magic: v08Unclean, al: 4096, g: ring, slots: 1237, updates: 2, hot: []activitylog.Extent{3, 255}, bitmapAt: 36864, bits: 262144},
		{name: "v09-internal-3peers-crash", magic: v09, al: 196608, g: ring, slots: 1237, updates: 6, hot: []activitylog.Extent{0, 1, 7, 63, 300, 488}, bits: 500000, peers: 3},
	}
}

// Logs that a real kernel, a real tool or a careful hand wrote.
func TestGoldenImages(t *testing.T) {
	for _, im := range images() {
		t.Run(im.name, func(t *testing.T) {
			raw := golden(t, im.name)
			format, err := activitylog.DetectFormat(bytes.NewReader(raw), im.al, im.g, im.magic)
			require.NoError(t, err)
			require.Equal(t, im.format, format)

			res, err := activitylog.ReplayFormat(format, bytes.NewReader(raw), im.al, im.g, im.slots)
			require.NoError(t, err)
			require.Equal(t, im.hot, res.Hot)
			require.Equal(t, im.format, res.Format)
			require.Equal(t, im.updates, res.Updates)
			require.Equal(t, im.invalid, res.Invalid)
			require.Equal(t, res.Blocks, res.Updates+res.Invalid+res.Initialised)
			if im.warning == "" {
				require.Empty(t, res.Warnings)
			} else {
				require.Contains(t, strings.Join(res.Warnings, "\n"), im.warning)
			}
			if im.bits > 0 {
				require.Equal(t, toolBitmap(t, golden(t, im.name+".applied"), im), ourBitmap(t, raw, im, res.Hot))
			}
		})
	}
}

// ourBitmap is the bitmap of an image with the extents marked.
func ourBitmap(t *testing.T, raw []byte, im image, hot []activitylog.Extent) (spans [][2]uint64) {
	const bitsPerExtent = activitylog.ExtentSectors / 8
	for slot := range max(1, im.peers) {
		m := bitmap.New(im.bits)
		require.NoError(t, m.Load(bytes.NewReader(raw), im.bitmapAt, slot, max(1, im.peers)))
		for _, e := range hot {
			m.SetRange(uint64(e)*bitsPerExtent, (uint64(e)+1)*bitsPerExtent)
		}
		for from, to := range m.Ranges() {
			spans = append(spans, [2]uint64{from, to})
		}
	}
	return spans
}

func toolBitmap(t *testing.T, raw []byte, im image) [][2]uint64 {
	return ourBitmap(t, raw, im, nil)
}

// The numbers of the kernel's transactions, before and after a wrap.
func TestGoldenNumbers(t *testing.T) {
	raw := golden(t, "v08-internal-crash")
	res, err := activitylog.Replay(bytes.NewReader(raw), 36864, activitylog.Geometry{})
	require.NoError(t, err)
	require.Equal(t, uint32(7), res.Newest-res.Oldest)

	raw = golden(t, "v08-internal-al-corrupt")
	res, err = activitylog.Replay(bytes.NewReader(raw), 65536, activitylog.Geometry{})
	require.NoError(t, err)
	require.Equal(t, uint32(3), res.Newest)
	require.Equal(t, uint32(4294967292), res.Oldest)
}

// Each block that the kernel or the tool wrote decodes, and encodes to the same bytes.
func TestGoldenBlocks(t *testing.T) {
	for _, im := range images() {
		if im.format != activitylog.FormatBlocks {
			continue
		}
		raw := golden(t, im.name)
		invalid := 0
		for i := range int(im.g.Blocks()) {
			src := (*[4096]byte)(raw[int(im.al)+4096*i:])
			b, err := activitylog.DecodeBlock(src)
			if err != nil {
				require.ErrorIs(t, err, activitylog.ErrBlock)
				invalid++
				continue
			}
			var dst [4096]byte
			b.Encode(&dst)
			require.Equal(t, *src, dst, "%s block %d", im.name, i)
			if b.Type == activitylog.TypeInitialised {
				activitylog.InitBlock(&dst)
				require.Equal(t, *src, dst)
			}
		}
		require.Equal(t, im.invalid, invalid, im.name)
	}
}

// A log that does what the kernel did in the captured image writes the kernel's
// bytes: 67 slots, 8 transactions without changes at the first attach.
func TestFirstAttachLikeTheKernel(t *testing.T) {
	raw := golden(t, "v08-internal-attached")
	l := activitylog.New(67, activitylog.Geometry{})
	for range 8 {
		var block [4096]byte
		tr, ok := l.PrepareContext(&block)
		require.True(t, ok)
		require.Zero(t, tr.NUpdates)
		require.Equal(t, raw[36864+tr.Offset():][:4096], block[:])
		l.Commit()
	}
}
