// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawLived is metadata with a life behind it, clean, with random bitmaps.
func drawLived(t *rapid.T) (*sparse, Superblock, Layout) {
	v := rapid.SampledFrom([]Version{V08, V09}).Draw(t, "version")
	var g Geometry
	if v == V09 {
		g.MaxPeers = rapid.Uint32Range(1, MaxPeers).Draw(t, "peers")
	}
	l, err := NewLayout(v, FlexExternal(), 1<<20, g)
	require.NoError(t, err)
	sb := drawSuperblock(t)
	for sb.Version != v {
		sb = drawSuperblock(t)
	}
	sb.MDSizeSectors, sb.ALOffset, sb.BMOffset = l.MDSizeSectors, l.ALOffset, l.BMOffset
	sb.ALStripes, sb.ALStripeSize4k, sb.BytesPerBit, sb.MaxPeers = 1, 8, 4096, l.Geometry.MaxPeers
	sb.Flags, sb.Unclean, sb.ALExtents = sb.Flags|ALClean, false, DefaultALExtents
	sb.EffectiveSize = rapid.Uint64Range(0, min(l.UsableSectors, 1<<19)).Draw(t, "size")
	d := newSparse(l.DeviceBytes)
	p := make([]byte, l.BitmapBytes(sb.EffectiveSize))
	for at := 0; at+4 <= len(p); {
		word := rapid.SampledFrom([]uint32{0, 0xffffffff, 1, 0x80000000, 0x12345678}).Draw(t, "word")
		for range rapid.IntRange(1, 200).Draw(t, "run") {
			if at+4 <= len(p) {
				binary.LittleEndian.PutUint32(p[at:], word)
				at += 4
			}
		}
	}
	_, err = d.WriteAt(p, l.BitmapOffset)
	require.NoError(t, err)
	require.NoError(t, WriteSuperblock(d, l, &sb))
	return d, sb, l
}

// TestDumpRoundTrip: what is dumped is what is restored, except for padding that
// the text does not show.
func TestDumpRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, sb, l := drawLived(t)
		members := rapid.Bool().Draw(t, "members")
		var text bytes.Buffer
		require.NoError(t, WriteDump(&text, d, &sb, l, DumpOptions{Members: members}))
		dump, err := ParseDump(iotest.HalfReader(bytes.NewReader(text.Bytes())))
		require.NoError(t, err)
		fresh := newSparse(l.DeviceBytes)
		got, res, err := dump.Restore(fresh, l.Location, l.DeviceBytes, RestoreOptions{})
		require.NoError(t, err)
		require.Equal(t, sb, got)
		require.Equal(t, l, res.Layout)
		require.False(t, res.Truncated || res.Clipped)
		words := (sb.EffectiveSize + 511) / 512 // 64 bits of 8 sectors
		used := min(int64(words*8*uint64(sb.MaxPeers)), l.BitmapBytes(sb.EffectiveSize))
		require.True(t, bytes.Equal(d.bytes(l.BitmapOffset, used), fresh.bytes(l.BitmapOffset, used)))
	})
}

// naiveDump writes the bitmap as the rule of spec: on-disk 7.2 reads, with all
// words in memory.
func naiveDump(p []byte, peers, slot int) (text string, ones int) {
	var w []uint32
	for i := slot; 4*i+4 <= len(p); i += peers {
		w = append(w, binary.LittleEndian.Uint32(p[4*i:]))
		ones += bits.OnesCount32(w[len(w)-1])
	}
	var out strings.Builder
	out.WriteString("{")
	for k := 0; k < len(w); k++ {
		if k%8 == 0 {
			if (k*peers+slot)&63 == slot {
				fmt.Fprintf(&out, "\n   # at %dkB", 128*k*peers)
			}
			out.WriteString("\n   ")
			run := 0
			for k+run < len(w) && w[k+run] == w[k] {
				run++
			}
			if run &^= 7; run > 8 {
				fmt.Fprintf(&out, " %d times 0x%08X%08X;", run/2, w[k], w[k])
				k += run - 1
				continue
			}
		}
		if k%2 == 1 {
			fmt.Fprintf(&out, " 0x%08X%08X;", w[k], w[k-1])
		}
	}
	out.WriteString("\n}\n")
	return out.String(), ones
}

func TestDumpBitmapText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, sb, l := drawLived(t)
		p := d.bytes(l.BitmapOffset, l.BitmapBytes(sb.EffectiveSize))
		var want string
		ones := 0
		for slot := range int(sb.MaxPeers) {
			var text string
			text, ones = naiveDump(p, int(sb.MaxPeers), slot)
			if sb.Version == V09 {
				want += fmt.Sprintf("bitmap[%d] %s", slot, text)
			} else {
				want += "bm " + text
			}
		}
		want += fmt.Sprintf("# bits-set %d;\n", ones)
		got := dumpOf(dummyT{}, d, &sb, l, DumpOptions{})
		require.True(t, strings.HasSuffix(got, want), "got %s\nwant %s", got, want)
	})
}

// dummyT lets a helper of tests be used inside rapid; its failures panic.
type dummyT struct{ testing.TB }

func (dummyT) Helper()               {}
func (dummyT) Errorf(string, ...any) { panic("failed") }
func (dummyT) FailNow()              { panic("failed") }

// TestDumpLargeRuns: a run is folded across the buffers it is read through.
func TestDumpLargeRuns(t *testing.T) {
	l, err := NewLayout(V08, Internal(), 1<<40, Geometry{})
	require.NoError(t, err)
	d := newSparse(l.DeviceBytes)
	sb, err := Create(d, V08, Internal(), l.DeviceBytes, CreateOptions{EffectiveSize: l.UsableSectors})
	require.NoError(t, err)
	text := dumpOf(t, d, &sb, l, DumpOptions{})
	require.Contains(t, text, "bm {\n   # at 0kB\n    4194304 times 0x0000000000000000;\n}\n# bits-set 0;\n")
	require.Less(t, len(text), 1000)

	broken := &truncated{d, l.BitmapOffset + 2*wordRunsBuffer}
	require.ErrorIs(t, WriteDump(io.Discard, broken, &sb, l, DumpOptions{}), io.ErrUnexpectedEOF)
	require.ErrorIs(t, WriteDump(failingWriter{}, d, &sb, l, DumpOptions{}), errInjected)
}

type truncated struct {
	io.ReaderAt
	end int64
}

func (r *truncated) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.end {
		return 0, io.EOF
	}
	return r.ReaderAt.ReadAt(p, off)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errInjected }

const smallDump = `version "v08";
uuid { 0x0000000000000004; 0x0000000000000000; 0x0000000000000000; 0x0000000000000000; flags 0x00000080; }
la-size-sect 4096; bm-byte-per-bit 4096; device-uuid 0x0000000000000000;
la-peer-max-bio-size 0; al-stripes 1; al-stripe-size-4k 8;
bm { 0x0123456789ABCDEF; 3 times 0x00000000FFFFFFFF; 0x00000000FFFFFFFF; 0 times 0x1111111111111111; }
`

func TestParseDump(t *testing.T) {
	d, err := ParseDump(strings.NewReader(smallDump))
	require.NoError(t, err)
	require.Equal(t, [][]BitmapRun{{{1, 0x0123456789ABCDEF}, {4, 0xFFFFFFFF}}}, d.Bitmaps)
	require.EqualValues(t, 4096, d.Superblock.EffectiveSize)
	require.Equal(t, ALClean, d.Superblock.Flags)

	for _, c := range []struct{ old, new, want string }{
		{"flags 0x00000080", "flags 0xabcdef01", ""},
		{"; 0x", ";0x", ""},
		{"uuid {", "uuid\t\r\n{ # { } comment\n", ""},
		{"la-peer-max-bio-size 0", "la-peer-max-bio-size -1", ""},
		{"3 times", "9223372036854775807 times", ""},
		{"3 times", "003 times", ""},
		{"\nuuid", "\n" + uncleanMarker + "\nuuid", "apply-al"},
		{`"v08";`, `"v08"`, "line 2: ; expected, not uuid"},
		{`"v08"`, `"v10"`, `line 1: unknown version "v10"`},
		{`"v08"`, `v08`, "line 1: a quoted version expected, not v08"},
		{`"v08"`, `""`, "line 1: invalid string"},
		{`"v08"`, `"v08`, "line 1: invalid string"},
		{`"v08"`, `"v0888888888888888888"`, "line 1: unknown version"},
		{`"v08"`, `"v08888888888888888888"`, "line 1: invalid string"},
		{"version", "Version", "line 1: keyword version expected, not Version"},
		{"0x0123456789ABCDEF", "0x01234567", "line 5: a 16-digit hexadecimal number expected, not 0x01234567"},
		{"0x0123456789ABCDEF", "0x0123456789ABCDE", "line 5: invalid hexadecimal number"},
		{"0x0123456789ABCDEF", "0x0123456789ABCDEFF", "line 5: invalid hexadecimal number"},
		{"0x0123456789ABCDEF", "0x0123456789ABCDEX", "line 5: invalid hexadecimal number"},
		{"0x0123456789ABCDEF", "0X0123456789ABCDEF", "line 5: invalid number"},
		{"flags 0x00000080", "flags 0x0000000000000080", "line 2: an 8-digit hexadecimal number expected"},
		{"3 times", "-3 times", "line 5: number -3 is not in 0.."},
		{"3 times", "9223372036854775808 times", "line 5: invalid number"},
		{"3 times", "3 time", "line 5: keyword times expected, not time"},
		{"3 times", "3times", "line 5: invalid number 3times"},
		{"la-size-sect 4096", "la-size-sect -1", "line 3: number -1 is not in 0.."},
		{"la-size-sect 4096", "la-size-sect 0x00001000", "line 3: a decimal number expected"},
		{"bm-byte-per-bit 4096", "bm-byte-per-bit 8192", "invalid bytes per bitmap bit: 8192"},
		{"al-stripes 1", "al-stripes 0", "invalid activity log geometry"},
		{"al-stripes 1", "al-stripes 4294967297", "line 4: number 4294967297 is not in"},
		{"bm {", "bm { @", `line 5: invalid character '@'`},
		{"bm {", "bm { \x00", `line 5: invalid character '\x00'`},
		{"}\n", "} }\n", "keyword la-size-sect expected, not }"},
		{"1111; }\n", "1111; } bm {}\n", "line 5: end of file expected, not bm"},
		{"1111; }\n", "1111;\n", "the end"},
		{"1111; }\n", strings.Repeat("x", 100), "line 5: "},
	} {
		text := strings.Replace(smallDump, c.old, c.new, 1)
		require.NotEqual(t, smallDump, text)
		_, err := ParseDump(strings.NewReader(text))
		if c.want == "" {
			require.NoError(t, err, "%s for %s", c.new, c.old)
		} else {
			require.ErrorContains(t, err, c.want, "%s for %s", c.new, c.old)
		}
	}
	for n := range smallDump[:len(smallDump)-2] {
		_, err := ParseDump(strings.NewReader(smallDump[:n]))
		var syntax *DumpError
		require.ErrorAs(t, err, &syntax)
	}
	for _, at := range []int{0, 3, 10, 60, len(smallDump) - 1} {
		_, err := ParseDump(io.MultiReader(strings.NewReader(smallDump[:at]), iotest.ErrReader(errInjected)))
		require.ErrorIs(t, err, errInjected, "at %d", at)
	}
}

func TestParseDumpV09(t *testing.T) {
	g := goldens(t)
	for i := range g {
		if g[i].version(t) != V09 {
			continue
		}
		d := g[i].device(t, "")
		sb, l, err := Read(d, g[i].location(t), g[i].DeviceBytes)
		require.NoError(t, err)
		text := dumpOf(t, d, &sb, l, DumpOptions{Members: true})
		dump, err := ParseDump(strings.NewReader(text))
		if sb.NeedsApplyAL() {
			require.ErrorIs(t, err, ErrUncleanDump)
			continue
		}
		require.NoError(t, err)
		require.Len(t, dump.Bitmaps, int(sb.MaxPeers))
		for _, c := range []struct{ old, new, want string }{
			{"peer[1] {", "peer[0] {", "peer 0 is there twice"},
			{"peer[1] {", "peer[32] {", "number 32 is not in 0..31"},
			{"bitmap-index ", "bitmap-index 3", ""},
			{"node-id ", "node-id 77", "number 77"},
			{"max-peers ", "max-peers 9", "number 9"},
			{"bitmap[0]", "bitmap[1]", "number 1 is not in 0..0"},
			{"members 0x0000000000000000;", "", ""},
		} {
			_, err := ParseDump(strings.NewReader(strings.Replace(text, c.old, c.new, 1)))
			if c.want != "" {
				require.ErrorContains(t, err, c.want, c.new)
			}
		}
	}
}

func TestRestoreOptions(t *testing.T) {
	d, err := ParseDump(strings.NewReader(smallDump))
	require.NoError(t, err)
	dev := newSparse(8 << 20)
	_, err = dev.WriteAt(bytes.Repeat([]byte{0xee}, 1<<20), 7<<20) // stale bits and a stale log
	require.NoError(t, err)
	sb, res, err := d.Restore(dev, Internal(), dev.size, RestoreOptions{ALStripes: 2, ALStripeSize4k: 16})
	require.NoError(t, err)
	require.EqualValues(t, -256, sb.ALOffset)
	require.False(t, res.Truncated)
	want := append([]byte("\xef\xcd\xab\x89\x67\x45\x23\x01"), bytes.Repeat([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 4)...)
	want = append(want, make([]byte, res.Layout.BitmapSize-int64(len(want)))...)
	require.Equal(t, want, dev.bytes(res.Layout.BitmapOffset, res.Layout.BitmapSize))
	applied, err := ApplyAL(dev, Internal(), dev.size)
	require.NoError(t, err)
	require.True(t, applied.Replay.Clean())

	d.Superblock.EffectiveSize = 1 << 40
	sb, res, err = d.Restore(dev, FlexExternal(), dev.size, RestoreOptions{})
	require.NoError(t, err)
	require.True(t, res.Clipped)
	require.Equal(t, res.Layout.UsableSectors, sb.EffectiveSize)

	d.Bitmaps[0] = append(d.Bitmaps[0], BitmapRun{1 << 60, 0})
	_, res, err = d.Restore(dev, FlexExternal(), dev.size, RestoreOptions{})
	require.NoError(t, err)
	require.True(t, res.Truncated)
	d.Bitmaps = nil // an empty body clears
	_, res, err = d.Restore(dev, FlexExternal(), dev.size, RestoreOptions{})
	require.NoError(t, err)
	require.Equal(t, make([]byte, res.Layout.BitmapSize), dev.bytes(res.Layout.BitmapOffset, res.Layout.BitmapSize))
	_, _, err = d.Restore(dev, FlexExternal(), dev.size, RestoreOptions{ALStripes: 9999})
	require.ErrorIs(t, err, ErrInvalidGeometry)
}

func FuzzParseDump(f *testing.F) {
	f.Add([]byte(smallDump))
	for _, g := range goldens(f) {
		d := g.device(f, "")
		sb, l, err := Read(d, g.location(f), g.DeviceBytes)
		require.NoError(f, err)
		sb.Flags |= ALClean
		sb.Unclean = false
		f.Add([]byte(dumpOf(f, d, &sb, l, DumpOptions{})))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDump(bytes.NewReader(text))
		if err != nil {
			var syntax *DumpError
			require.True(t, errors.As(err, &syntax) || errors.Is(err, ErrUncleanDump), "%v", err)
			return
		}
		runs := 0
		for _, b := range d.Bitmaps {
			runs += len(b)
		}
		require.LessOrEqual(t, runs*18, len(text), "more runs than the text has words")
		dev := newSparse(4 << 20)
		sb, _, err := d.Restore(dev, FlexExternal(), dev.size, RestoreOptions{})
		if err != nil {
			return
		}
		got, l, err := ReadVersion(dev, sb.Version, FlexExternal(), dev.size)
		require.NoError(t, err)
		require.Equal(t, sb, got)
		require.NoError(t, WriteDump(io.Discard, dev, &got, l, DumpOptions{}))
	})
}
