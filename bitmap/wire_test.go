// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// packet is one packet of a bitmap transfer.
type packet struct {
	compressed bool
	body       []byte
}

func (p packet) decode(d *bitmap.Decoder, maxBytes int) error {
	if p.compressed {
		return d.Compressed(p.body, maxBytes)
	}
	return d.Plain(p.body, maxBytes)
}

// encode returns all packets of a transfer.
func encode(m *bitmap.Bitmap, maxBytes int, compress bool) []packet {
	return encodeMixed(m, maxBytes, func() bool { return compress })
}

func encodeMixed(m *bitmap.Bitmap, maxBytes int, compress func() bool) (packets []packet) {
	for e := bitmap.NewEncoder(m); !e.Done(); {
		var body []byte
		ok := false
		if compress() {
			body, ok = e.Next(nil, maxBytes)
		}
		if !ok {
			body = e.Plain(nil, maxBytes)
		}
		packets = append(packets, packet{ok, body})
	}
	return packets
}

// span is a range of set bits [from, to).
type span struct{ from, to uint64 }

func build(n uint64, spans ...span) *bitmap.Bitmap {
	m := bitmap.New(n)
	for _, s := range spans {
		m.SetRange(s.from, s.to)
	}
	return m
}

func spansOf(m *bitmap.Bitmap) (spans []span) {
	for from, to := range m.Ranges() {
		spans = append(spans, span{from, to})
	}
	return spans
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func same(t require.TestingT, want, got *bitmap.Bitmap) {
	require.Equal(t, want.Len(), got.Len())
	require.Equal(t, want.Count(), got.Count())
	require.Equal(t, spansOf(want), spansOf(got))
}

func TestMaxBody(t *testing.T) {
	require.Equal(t, 4088, bitmap.MaxBody(8))
	require.Equal(t, 4080, bitmap.MaxBody(16))
}

// The worked bytes of the wire specification, and what a Linux 6.1 kernel with DRBD
// 8.4.11 sent in the named captures: encoding gives these bytes, decoding gives these
// bits.
func TestCompressedGolden(t *testing.T) {
	for _, tc := range []struct {
		name string
		bits uint64
		set  []span
		body string
	}{
		{"spec 13, c_reconnect_bitmap", 2070, []span{{4, 7}, {100, 110}, {1500, 1501}}, "12 cd c7 72 f9 e9 21 fc 20 04"},
		{"spec 13, a_initial_sync", 4118, []span{{0, 4118}}, "b2 3f e5 0e"},
		{"d_split_brain", 2070, []span{{4, 7}}, "52 cd 8f b7 01"},
		{"e_verify_csums_integrity", 1046, []span{{3, 5}, {40, 41}}, "22 f1 49 7e 78 05"},
		{"i_detach_diskless, two blocks", 1046, []span{{4, 6}}, "62 f5 e7 5b 00"},
		{"i_detach_diskless, an extent", 1046, []span{{0, 1024}}, "92 3f cf e2 15"},
		{"o_two_volumes", 534, []span{{0, 534}}, "b2 3f e5 00"},
		{"p_live_proto100", 1046, []span{{0, 1046}}, "b2 3f e5 02"},
		{"q_trim_with_integrity", 1046, []span{{0, 1}, {256, 272}}, "c2 7c ce f7 9f ea 00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want, body := build(tc.bits, tc.set...), unhex(t, tc.body)
			require.Equal(t, []packet{{true, body}}, encode(want, 4080, true))

			got := bitmap.New(tc.bits)
			d := bitmap.NewDecoder(got)
			require.False(t, d.Done())
			require.NoError(t, d.Compressed(body, 4080))
			require.True(t, d.Done())
			require.Equal(t, want.Count(), d.Changed())
			same(t, want, got)
		})
	}
}

// Capture c2_reconnect_bitmap_norle: 41014 bits in two chunks and an empty packet.
// Capture p_live_proto86: 1046 bits in one chunk and an empty packet.
func TestPlainGolden(t *testing.T) {
	for _, tc := range []struct {
		bits  uint64
		max   int
		sizes []int
	}{
		{41014, 4080, []int{4080, 1048, 0}},
		{1046, 4088, []int{136, 0}},
		{4088 * 8, 4088, []int{4088, 0}},
		{4088*8 + 1, 4088, []int{4088, 8, 0}},
	} {
		m := build(tc.bits, span{3, 6}, span{tc.bits - 10, tc.bits})
		packets := encode(m, tc.max, false)
		var sizes []int
		var all []byte
		for _, p := range packets {
			require.False(t, p.compressed)
			sizes = append(sizes, len(p.body))
			all = append(all, p.body...)
		}
		require.Equal(t, tc.sizes, sizes)
		for i := range uint64(len(all)) * 8 {
			require.Equal(t, m.Test(i), all[i/8]&(1<<(i%8)) != 0, "bit %d", i)
		}
	}
}

// Code words of the wire specification, section 13, as the run that follows a single
// set bit (code 00). The runs of level 10 are longer than any bitmap that fits.
func TestCodeWords(t *testing.T) {
	for _, tc := range []struct {
		run   uint64
		code  uint64
		width int
	}{
		{1, 0x0, 2}, {2, 0x2, 2}, {3, 0x1, 3}, {4, 0x5, 3}, {5, 0x3, 5}, {8, 0x1b, 5}, {9, 0x7, 7},
		{17, 0xf, 10}, {49, 0x1f, 14}, {305, 0x3f, 21}, {8496, 0x1fff3f, 21}, {8497, 0x7f, 29},
		{2105649, 0xbf, 42},
	} {
		t.Run(fmt.Sprint(tc.run), func(t *testing.T) {
			m := build(tc.run+1, span{0, 1})
			body, ok := bitmap.NewEncoder(m).Next(nil, 4080)
			if bytes := (2 + tc.width + 7) / 8; uint64(bytes)*8 > m.Len() {
				require.False(t, ok, "does not pay")
				return
			}
			require.True(t, ok)
			pad := (8 - (2+tc.width)%8) % 8
			require.Equal(t, byte(0x82|pad<<4), body[0])
			var got uint64
			for i, b := range body[1:] {
				got |= uint64(b) << (8 * i)
			}
			require.Equal(t, tc.code<<2, got)

			back := bitmap.New(m.Len())
			require.NoError(t, bitmap.NewDecoder(back).Compressed(body, 4080))
			same(t, m, back)
		})
	}
}

// A packet that is full ends at a run boundary, and the next one begins there.
func TestCompressedSplits(t *testing.T) {
	m := runs(1<<20, 50)
	packets := encode(m, 4080, true)
	require.Greater(t, len(packets), 3)
	got := bitmap.New(m.Len())
	d := bitmap.NewDecoder(got)
	for i, p := range packets {
		require.True(t, p.compressed)
		require.LessOrEqual(t, len(p.body), 4080)
		if i < len(packets)-1 {
			require.Greater(t, len(p.body), 4070)
		}
		require.False(t, d.Done())
		require.NoError(t, d.Compressed(p.body, 4080))
		require.True(t, d.Done() || d.Bit()%50 == 0)
	}
	require.True(t, d.Done())
	same(t, m, got)
}

// Random data does not compress: the encoder declines, and does not move. One bit of
// data per bit of code is still worth it.
func TestEncoderDeclines(t *testing.T) {
	m := every(1<<16, 2) // runs of one: two bits of code each
	e := bitmap.NewEncoder(m)
	dst := []byte("before")
	body, ok := e.Next(dst, 4080)
	require.False(t, ok)
	require.Equal(t, "before", string(body))
	require.Zero(t, e.Bit())
	require.Len(t, e.Plain(nil, 4080), 4080)
	require.Equal(t, uint64(4080*8), e.Bit())
	require.Equal(t, 510, e.Word())

	pairs := build(16, span{0, 2}, span{4, 6}, span{8, 10}, span{12, 14})
	body, ok = bitmap.NewEncoder(pairs).Next(nil, 4080)
	require.True(t, ok, "8 runs of two are 16 bits of code for 16 bits")
	require.Len(t, body, 3)
}

// After a compressed packet that stops inside a word a plain chunk repeats that
// word's first bits.
func TestPlainAfterCompressed(t *testing.T) {
	m := build(1000, span{10, 70}, span{100, 101}, span{900, 1000})
	e := bitmap.NewEncoder(m)
	body, ok := e.Next(nil, 3) // 16 bits of code: 10, then it is full
	require.True(t, ok)
	require.Equal(t, uint64(10), e.Bit())
	require.Zero(t, e.Word())
	got := bitmap.New(1000)
	d := bitmap.NewDecoder(got)
	require.NoError(t, d.Compressed(body, 3))
	require.Equal(t, uint64(10), d.Bit())

	chunk := e.Plain(nil, 16)
	require.Len(t, chunk, 16)
	require.Equal(t, uint64(128), e.Bit())
	require.ErrorIs(t, d.Plain(chunk[:8], 16), bitmap.ErrChunkLength)
	require.NoError(t, d.Plain(chunk, 16))

	body, ok = e.Next(nil, 4080)
	require.True(t, ok)
	require.True(t, e.Done())
	require.NoError(t, d.Compressed(body, 4080))
	require.True(t, d.Done())
	same(t, m, got)
}

func TestDecoderRefuses(t *testing.T) {
	code := func(s string) packet { return packet{true, unhex(t, s)} }
	plain := func(n int) packet { return packet{false, make([]byte, n)} }
	for _, tc := range []struct {
		name    string
		bits    uint64
		packets []packet
		err     error
	}{
		{"empty body", 64, []packet{code("")}, bitmap.ErrCode},
		{"no code", 64, []packet{code("02")}, bitmap.ErrCode},
		{"too long", 64, []packet{{true, make([]byte, 4081)}}, bitmap.ErrCode},
		{"unknown encoding", 64, []packet{code("01 00")}, bitmap.ErrCode},
		{"cut off prefix", 4118, []packet{code("82 3f")}, bitmap.ErrCode},
		{"cut off data", 4118, []packet{code("b2 3f e5")}, bitmap.ErrCode},
		{"cut off by padding", 4118, []packet{code("f2 3f e5 0e")}, bitmap.ErrCode},
		{"ones past the end", 4117, []packet{code("b2 3f e5 0e")}, bitmap.ErrPastEnd},
		{"zeroes past the end", 4117, []packet{code("32 3f e5 0e")}, bitmap.ErrPastEnd},
		{"longest run", 64, []packet{code("82 ff ff ff ff ff ff ff ff")}, bitmap.ErrPastEnd},
		{"packet after the last", 4118, []packet{code("b2 3f e5 0e"), code("b2 3f e5 0e")}, bitmap.ErrPastEnd},
		{"empty packet after a compressed end", 4118, []packet{code("b2 3f e5 0e"), plain(0)}, bitmap.ErrPastEnd},
		{"second empty packet", 64, []packet{plain(8), plain(0), plain(0)}, bitmap.ErrPastEnd},
		{"chunk too short", 41014, []packet{plain(4072)}, bitmap.ErrChunkLength},
		{"chunk too long", 1046, []packet{plain(144)}, bitmap.ErrChunkLength},
		{"no whole words", 1046, []packet{plain(135)}, bitmap.ErrChunkLength},
		{"empty too early", 41014, []packet{plain(4080), plain(0)}, bitmap.ErrChunkLength},
		{"last chunk too long", 41014, []packet{plain(4080), plain(4080)}, bitmap.ErrChunkLength},
		{"chunk after the end", 1046, []packet{plain(136), plain(136)}, bitmap.ErrChunkLength},
		{"run after a plain end", 1046, []packet{plain(136), code("b2 3f e5 0e")}, bitmap.ErrPastEnd},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := bitmap.NewDecoder(bitmap.New(tc.bits))
			for i, p := range tc.packets {
				before := d.Bit()
				err := p.decode(d, 4080)
				if i < len(tc.packets)-1 {
					require.NoError(t, err)
					continue
				}
				require.ErrorIs(t, err, tc.err)
				require.Equal(t, before, d.Bit())
			}
		})
	}
}

func TestMergePlain(t *testing.T) {
	m := bitmap.New(70)
	n, err := m.MergePlain(1, bytes.Repeat([]byte{0xff}, 8))
	require.NoError(t, err)
	require.Equal(t, uint64(6), n, "surplus bits of the last word are dropped")
	require.Equal(t, []span{{64, 70}}, spansOf(m))

	for _, at := range []int{-1, 2, 3} {
		_, err = m.MergePlain(at, make([]byte, 8))
		require.ErrorIs(t, err, bitmap.ErrPastEnd)
	}
	_, err = m.MergePlain(0, make([]byte, 7))
	require.ErrorIs(t, err, bitmap.ErrChunkLength)
	n, err = m.MergePlain(2, nil)
	require.NoError(t, err)
	require.Zero(t, n)
}

// An empty bitmap is transferred as nothing but the closing packet.
func TestTransferOfNothing(t *testing.T) {
	packets := encode(bitmap.New(0), 4080, true)
	require.Len(t, packets, 1)
	require.False(t, packets[0].compressed)
	require.Empty(t, packets[0].body)
	d := bitmap.NewDecoder(bitmap.New(0))
	require.NoError(t, d.Plain(nil, 4080))
	require.True(t, d.Done())
}

// Whatever mixture of packets a sender chooses, of whatever size, the receiver ends
// with the union of both bitmaps.
func TestTransferModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]uint64{300, 4000, 80000}).Draw(t, "size") + rapid.Uint64Range(0, 200).Draw(t, "more")
		source, target := drawBitmap(t, n), drawBitmap(t, n)
		maxBytes := rapid.SampledFrom([]int{4080, 4088, 8, 16, 200}).Draw(t, "maxBytes")
		way := rapid.SliceOfN(rapid.Bool(), 5, 5).Draw(t, "compress")
		k := 0
		packets := encodeMixed(source, maxBytes, func() bool { k++; return way[k%len(way)] })

		union := clone(target)
		added := union.Or(source)
		d := bitmap.NewDecoder(target)
		for _, p := range packets {
			require.False(t, d.Done())
			require.True(t, len(p.body) > 1 || !p.compressed)
			require.NoError(t, p.decode(d, maxBytes))
		}
		require.True(t, d.Done())
		require.Equal(t, added, d.Changed())
		require.Equal(t, n, d.Bit())
		same(t, union, target)
	})
}

// A large bitmap of random runs, dense in one part and sparse in another, goes over
// in both kinds of packets.
func TestTransferLarge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := bitmap.New(5_000_000)
	for at := uint64(0); at < m.Len(); {
		longest := uint64(3)
		if at/500_000%2 == 1 {
			longest = 400
		}
		from := at + 1 + rnd.Uint64N(longest)
		at = from + 1 + rnd.Uint64N(longest)
		m.SetRange(from, at)
	}
	got := bitmap.New(m.Len())
	d := bitmap.NewDecoder(got)
	kinds := map[bool]int{}
	for _, p := range encode(m, 4080, true) {
		kinds[p.compressed]++
		require.NoError(t, p.decode(d, 4080))
	}
	require.True(t, d.Done())
	require.Greater(t, kinds[true], 10)
	require.Greater(t, kinds[false], 10)
	same(t, m, got)
}

// The longest code word there is decodes to the longest run.
func TestLongestRun(t *testing.T) {
	err := bitmap.NewDecoder(bitmap.New(64)).Compressed(unhex(t, "82 ff ff ff ff ff ff ff ff"), 4080)
	require.ErrorContains(t, err, "72057611219902768")
	err = bitmap.NewDecoder(bitmap.New(64)).Compressed(unhex(t, "62 fc 03 00 00 00 00 00 00 00"), 4080)
	require.ErrorContains(t, err, "17181974833")
	err = bitmap.NewDecoder(bitmap.New(64)).Compressed(unhex(t, "62 fc ff ff ff ff ff ff ff 03"), 4080)
	require.ErrorContains(t, err, "72057611219902768", "a code word that spans nine bytes")
}

// drawBitmap returns a bitmap of runs whose lengths come from all levels of the code
// that fit.
func drawBitmap(t *rapid.T, n uint64) *bitmap.Bitmap {
	m := bitmap.New(n)
	at := uint64(0)
	set := rapid.Bool().Draw(t, "first")
	top := rapid.SampledFrom([]uint64{2, 4, 48, 304, 9000, 80000}).Draw(t, "longest")
	for k := 0; at < n && k < 3000; k++ {
		run := rapid.Uint64Range(1, top).Draw(t, "run")
		if set {
			m.SetRange(at, at+run)
		}
		at += run
		set = !set
	}
	return m
}

func clone(m *bitmap.Bitmap) *bitmap.Bitmap {
	c := bitmap.New(m.Len())
	c.Or(m)
	return c
}
