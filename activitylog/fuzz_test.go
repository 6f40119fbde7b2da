// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// seal makes a block of any content valid: the checksum is the one of the
// specification, computed in another way than the package does.
func seal(raw []byte) {
	binary.BigEndian.PutUint32(raw, 0x69CB65A2)
	binary.BigEndian.PutUint32(raw[8:], 0)
	binary.BigEndian.PutUint32(raw[8:], ^crc32.Update(0xFFFFFFFF, crc32.MakeTable(crc32.Castagnoli), raw[:4096]))
}

// The check value of the specification, on-disk 5.1.
func TestChecksumConvention(t *testing.T) {
	require.Equal(t, uint32(0x58E3FA20), ^crc32.Update(0xFFFFFFFF, crc32.MakeTable(crc32.Castagnoli), []byte("123456789")))
}

// FuzzDecodeBlock: a block of any content decodes if its checksum is right, and
// encodes to the same bytes but for the reserved ones.
func FuzzDecodeBlock(f *testing.F) {
	f.Add(ringOf(change(7, 1, 2))[:4096], true)
	f.Add(ringOf(change(7, 1, 2))[:4096], false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		var raw, again [4096]byte
		copy(raw[:], data)
		if sealed {
			seal(raw[:])
		}
		b, err := activitylog.DecodeBlock(&raw)
		if err != nil {
			require.ErrorIs(t, err, activitylog.ErrBlock)
			require.False(t, sealed)
			return
		}
		b.Encode(&again)
		if binary.BigEndian.Uint64(raw[20:])|binary.BigEndian.Uint64(raw[28:]) == 0 {
			require.Equal(t, raw, again)
		}
		c, err := activitylog.DecodeBlock(&again)
		require.NoError(t, err)
		require.Equal(t, b, c)
	})
}

// spread cuts the data into 8 heads of blocks; the rest of each is free marks.
func spread(data []byte) []byte {
	ring := bytes.Repeat([]byte{0xff}, 8*4096)
	n := min((len(data)+7)/8, 4096)
	for i := range 8 {
		copy(ring[4096*i:4096*(i+1)], data[min(i*n, len(data)):min((i+1)*n, len(data))])
	}
	return ring
}

// heads is the first bytes of all blocks, from which spread makes a ring.
func heads(ring []byte, n int) (data []byte) {
	for i := range 8 {
		data = append(data, ring[4096*i:][:n]...)
	}
	return data
}

// FuzzReplay builds a ring of 8 blocks out of the data, seals those that the mask
// names, and compares with the naive replay. Give it -fuzzminimizetime=5x: shrinking
// inputs of this size takes longer than finding them.
func FuzzReplay(f *testing.F) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for range 5 {
		f.Add(heads(oddRing(rnd, eight), 440), byte(rnd.Uint32()))
	}
	f.Add(heads(ringOf(change(0, 10), change(1, 20), change(^uint32(0), 30)), 440), byte(0xff))
	f.Add(heads(ringOf(change(0, 10), change(1, 20), change(^uint32(0), 30)), 440), byte(0x83))
	f.Add([]byte{}, byte(0))
	f.Fuzz(func(t *testing.T, data []byte, mask byte) {
		ring := spread(data)
		for i := range 8 {
			if mask>>i&1 == 1 {
				seal(ring[4096*i:])
			}
		}
		res, err := replay(ring)
		require.Equal(t, 8, res.Blocks)
		require.Equal(t, 8, res.Updates+res.Initialised+res.Invalid)
		if err != nil {
			require.True(t, errors.Is(err, activitylog.ErrNoLog) || errors.Is(err, activitylog.ErrDamaged))
			require.True(t, res.Clean())
		}
		require.Equal(t, naiveReplay(decodeRing(ring, eight)), res.Hot)
	})
}

// FuzzOtherForms reads any area as each of the other forms.
func FuzzOtherForms(f *testing.F) {
	f.Add(oldArea(oldSector(5, oldPair{1, 7}, oldPair{1, 8}), oldSector(6, oldPair{2, 9}))[:1024], uint32(61), uint32(v08Clean), true)
	f.Add(persistentArea(5, 7, 7, activitylog.Free)[:20], uint32(4), uint32(v09), true)
	f.Add([]byte{}, ^uint32(0), uint32(v07), true)
	f.Add([]byte{}, ^uint32(0), uint32(v07), false)
	f.Fuzz(func(t *testing.T, data []byte, slots, magic uint32, whole bool) {
		if whole {
			data = append(bytes.Clone(data), make([]byte, 8*4096)...)
		}
		r := bytes.NewReader(data)
		format, err := activitylog.DetectFormat(r, 0, eight, magic)
		if err != nil {
			require.Less(t, len(data), 4100)
		}
		for _, f := range []activitylog.Format{format, activitylog.FormatSectors, activitylog.FormatPersistent} {
			res, err := activitylog.ReplayFormat(f, r, 0, eight, slots)
			if err != nil {
				continue
			}
			require.Equal(t, f, res.Format)
			require.True(t, slices.IsSorted(res.Hot))
			require.NotContains(t, res.Hot, activitylog.Free)
			require.LessOrEqual(t, len(res.Hot), 8*4096/4)
		}
	})
}
