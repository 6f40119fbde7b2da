// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// naiveDecode decodes one compressed body bit by bit, in the words of the
// specification (wire 6.2). It returns the set runs and the new cursor.
func naiveDecode(body []byte, at, total uint64) (set []span, end uint64, ok bool) {
	if len(body) < 2 || body[0]&15 != 2 {
		return nil, 0, false
	}
	var stream []byte
	for _, b := range body[1:] {
		for i := range 8 {
			stream = append(stream, b>>i&1)
		}
	}
	stream = stream[:len(stream)-int(body[0]>>4&7)]
	take := func(n int) (v uint64) {
		for i := range n {
			v |= uint64(stream[i]) << i
		}
		stream = stream[n:]
		return v
	}
	table := []struct {
		prefix     string
		data       int
		firstValue uint64
	}{
		{"0", 1, 1}, {"10", 1, 3}, {"110", 2, 5}, {"1110", 3, 9}, {"11110", 5, 17}, {"111110", 8, 49},
		{"11111100", 13, 305}, {"11111110", 21, 8497}, {"11111101", 34, 2105649}, {"11111111", 56, 17181974833},
	}
	value := body[0]&0x80 != 0
next:
	for len(stream) > 0 {
		for _, l := range table {
			if len(stream) < len(l.prefix)+l.data {
				continue
			}
			match := true
			for i := range l.prefix {
				match = match && stream[i] == l.prefix[i]-'0'
			}
			if !match {
				continue
			}
			stream = stream[len(l.prefix):]
			run := take(l.data) + l.firstValue
			if run > total-at {
				return nil, 0, false
			}
			if value {
				set = append(set, span{at, at + run})
			}
			value = !value
			at += run
			continue next
		}
		return nil, 0, false
	}
	return set, at, true
}

// FuzzCompressed compares the decoder with a naive one, on a body that follows
// another.
func FuzzCompressed(f *testing.F) {
	for _, s := range []string{
		"b23fe50e", "12cdc772f9e921fc2004", "52cd8fb701", "22f1497e7805", "62f5e75b00", "923fcfe215", "b23fe502", "c27ccef79fea00",
		"82ffffffffffffffff", "82bfffffffffff00", "827f000000", "0200", "f2ff", "01", "",
	} {
		f.Add(unhex(f, s), unhex(f, "0240"), uint64(2070))
		f.Add(unhex(f, "0240"), unhex(f, s), uint64(1<<21+1000))
	}
	f.Fuzz(func(t *testing.T, first, second []byte, n uint64) {
		n %= 1 << 22
		m, want := bitmap.New(n), bitmap.New(n)
		d := bitmap.NewDecoder(m)
		at := uint64(0)
		for _, body := range [][]byte{first, second} {
			set, end, ok := naiveDecode(body, at, n)
			ok = ok && len(body) <= 4080 && !d.Done()
			err := d.Compressed(body, 4080)
			require.Equal(t, ok, err == nil, "%v", err)
			if err != nil {
				require.True(t, errors.Is(err, bitmap.ErrCode) || errors.Is(err, bitmap.ErrPastEnd))
				require.Equal(t, at, d.Bit())
				require.GreaterOrEqual(t, m.Count(), want.Count())
				return
			}
			at = end
			for _, s := range set {
				want.SetRange(s.from, s.to)
			}
			require.Equal(t, at, d.Bit())
			require.Equal(t, at == n, d.Done())
			require.Equal(t, want.Count(), d.Changed())
			same(t, want, m)
		}
	})
}

// FuzzPlain merges a chunk at any place and compares it with the bits it stands for.
func FuzzPlain(f *testing.F) {
	f.Add([]byte("12345678"), 0, uint64(70))
	f.Add([]byte("12345678\xff\xff\xff\xff\xff\xff\xff\xff"), 0, uint64(70))
	f.Add([]byte("123"), 1, uint64(70))
	f.Add([]byte{}, -1, uint64(0))
	f.Fuzz(func(t *testing.T, chunk []byte, word int, n uint64) {
		n %= 1 << 20
		m := bitmap.New(n)
		set, err := m.MergePlain(word, chunk)
		require.Equal(t, m.Count(), set)
		words := int(n+63) / 64
		if len(chunk)%8 != 0 || word < 0 || word > words || len(chunk)/8 > words-word {
			require.Error(t, err)
			require.Zero(t, set)
			return
		}
		require.NoError(t, err)
		var want uint64
		for i := range uint64(len(chunk)) * 8 {
			if at := uint64(word)*64 + i; at < n && chunk[i/8]>>(i%8)&1 == 1 {
				require.True(t, m.Test(at))
				want++
			}
		}
		require.Equal(t, want, set)
		if out := m.AppendPlain(nil, word, len(chunk)); uint64(word+len(chunk)/8)*64 <= n {
			require.True(t, bytes.Equal(chunk, out))
		}
	})
}

// FuzzLoad loads a slot from a device of any content and length: the bits are those
// of the formula (on-disk 4.2), or it is an error.
func FuzzLoad(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xa5, 3, 0}, 2000), uint64(1000), 1, 3)
	f.Add(bytes.Repeat([]byte{0xff}, 4096), uint64(32768), 0, 1)
	f.Add(bytes.Repeat([]byte{0xff}, 4096), uint64(32769), 0, 1)
	f.Add([]byte{}, uint64(0), -1, 0)
	f.Fuzz(func(t *testing.T, raw []byte, n uint64, slot, slots int) {
		n %= 1 << 18
		m := bitmap.New(n)
		err := m.Load(bytes.NewReader(raw), 0, slot, slots)
		switch {
		case slots < 1 || slots > 31 || slot < 0 || slot >= slots:
			require.ErrorIs(t, err, bitmap.ErrSlot)
			return
		case int(n+63)/64*8*slots > len(raw):
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			return
		}
		require.NoError(t, err)
		var want uint64
		for b := range n {
			at := b&^31*uint64(slots) + uint64(slot)*32 + b&31
			if raw[at/8]>>(at%8)&1 == 1 {
				want++
				if !m.Test(b) {
					t.Fatalf("bit %d is set on disk", b)
				}
			}
		}
		require.Equal(t, want, m.Count())
		require.Zero(t, m.DirtyCount())
	})
}
