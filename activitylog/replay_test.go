// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// The one-stripe ring of 8 blocks.
var eight = activitylog.Geometry{Stripes: 1, StripeSize4k: 8}

// ringOf builds a ring of 8 blocks: nil is an initialised one.
func ringOf(blocks ...*activitylog.Block) []byte {
	ring := make([]byte, 8*4096)
	for i := range 8 {
		raw := (*[4096]byte)(ring[4096*i:])
		if i < len(blocks) && blocks[i] != nil {
			blocks[i].Encode(raw)
		} else {
			activitylog.InitBlock(raw)
		}
	}
	return ring
}

// change is a transaction that puts extents into slots 0, 1, ... and has no context.
func change(number uint32, extents ...extent) *activitylog.Block {
	b := &activitylog.Block{Number: number, NUpdates: uint16(len(extents)), ContextSize: 67}
	for i := range b.Context {
		b.Context[i] = activitylog.Free
	}
	b.ContextStart = 67
	for i := range b.UpdateSlot {
		b.UpdateSlot[i], b.UpdateExtent[i] = 0xffff, activitylog.Free
		if i < len(extents) {
			b.UpdateSlot[i], b.UpdateExtent[i] = uint16(i), extents[i]
		}
	}
	return b
}

func replay(ring []byte) (activitylog.Result, error) {
	return activitylog.Replay(bytes.NewReader(ring), 0, eight)
}

func TestInitBlock(t *testing.T) {
	var b [4096]byte
	activitylog.InitBlock(&b)
	require.Equal(t, uint32(0x69CB65A2), binary.BigEndian.Uint32(b[0:]))
	require.Equal(t, uint32(0x709CC651), binary.BigEndian.Uint32(b[8:]), "spec: on-disk 5.1")
	require.Equal(t, []byte{0xff, 0xff}, b[12:14])
	clear(b[0:4])
	clear(b[8:14])
	require.Equal(t, [4096]byte{}, b)
}

// Spec: on-disk 5.5 step 3.
func TestReplayWithoutUpdates(t *testing.T) {
	for _, tc := range []struct {
		name    string
		invalid []int
		err     error
	}{
		{"all initialised", nil, nil},
		{"the first block torn", []int{0}, nil},
		{"another block torn", []int{1}, activitylog.ErrDamaged},
		{"the last block torn", []int{7}, activitylog.ErrDamaged},
		{"the first block torn, and another", []int{0, 5}, activitylog.ErrDamaged},
		{"one left", []int{0, 1, 2, 3, 4, 5, 6}, activitylog.ErrDamaged},
		{"none left", []int{0, 1, 2, 3, 4, 5, 6, 7}, activitylog.ErrNoLog},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ring := ringOf()
			for _, i := range tc.invalid {
				ring[4096*i+4000] ^= 1
			}
			res, err := replay(ring)
			require.ErrorIs(t, err, tc.err)
			require.Empty(t, res.Hot)
			require.True(t, res.Clean())
			require.Equal(t, len(tc.invalid), res.Invalid)
			require.Equal(t, 8, res.Blocks)
		})
	}
}

func TestReplayOrder(t *testing.T) {
	// The newest transaction is at position 1, the oldest at 2.
	res, err := replay(ringOf(change(8, 10), change(9, 20), change(2, 30), change(3, 40), change(4), change(5), change(6), change(7, 50, 51)))
	require.NoError(t, err)
	require.Equal(t, []extent{20, 51}, res.Hot)
	require.Equal(t, uint32(2), res.Oldest)
	require.Equal(t, uint32(9), res.Newest)
	require.False(t, res.Clean())
	require.Empty(t, res.Warnings)

	// The counter wraps.
	top := ^uint32(0)
	res, err = replay(ringOf(change(0, 10), change(1, 20), change(top-5, 30), change(top-4, 40), change(top-3), change(top-2), change(top-1), change(top, 50, 51)))
	require.NoError(t, err)
	require.Equal(t, []extent{20, 51}, res.Hot)
	require.Equal(t, top-5, res.Oldest)
	require.Equal(t, uint32(1), res.Newest)

	// The newest one is torn: as if it had never been written.
	ring := ringOf(change(8, 10), change(9, 20), change(2, 30), change(3, 40), change(4), change(5), change(6), change(7, 50, 51))
	ring[4096+77] ^= 1
	res, err = replay(ring)
	require.NoError(t, err)
	require.Equal(t, []extent{10, 51}, res.Hot)
	require.Equal(t, []string{"1 of 8 blocks are invalid, 0 of them between transactions; one is usual after a crash"}, res.Warnings)

	// One in the middle is damaged: what is left counts.
	ring = ringOf(change(0, 10), change(1, 20), change(2, 30, 31))
	ring[4096+77] ^= 1
	res, err = replay(ring)
	require.NoError(t, err)
	require.Equal(t, []extent{30, 31}, res.Hot)
	require.Contains(t, res.Warnings[0], "1 of them between")
}

// An extent in two slots is hot once.
func TestReplayDuplicates(t *testing.T) {
	res, err := replay(ringOf(change(0, 9, 9, 3)))
	require.NoError(t, err)
	require.Equal(t, []extent{3, 9}, res.Hot)
}

func TestReplayErrors(t *testing.T) {
	_, err := activitylog.Replay(bytes.NewReader(nil), 0, activitylog.Geometry{Stripes: 1})
	require.ErrorIs(t, err, activitylog.ErrGeometry)
	_, err = activitylog.ReplayPersistent(bytes.NewReader(nil), 0, activitylog.Geometry{Stripes: 1}, 1)
	require.ErrorIs(t, err, activitylog.ErrGeometry)

	ring := ringOf(change(0, 1))
	for _, n := range []int{0, 1, 4096, 8*4096 - 1} {
		short := bytes.NewReader(ring[:n])
		_, err = activitylog.Replay(short, 0, eight)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		_, err = activitylog.ReplayOld(short, 0, 4000)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		_, err = activitylog.ReplayPersistent(short, 0, eight, 65534)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	_, err = activitylog.DetectFormat(bytes.NewReader(ring[:4097]), 0, eight, v09)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)

	// A read error in the first pass, and one in the second.
	for fail := 1; ; fail++ {
		_, err = activitylog.Replay(&failingReader{bytes.NewReader(ring), fail}, 0, eight)
		if err == nil {
			require.Equal(t, 10, fail, "8 blocks, then the one transaction again")
			break
		}
		require.ErrorIs(t, err, errBroken)
	}
}

var errBroken = errors.New("disk broken")

// failingReader fails at the n-th read.
type failingReader struct {
	r io.ReaderAt
	n int
}

func (f *failingReader) ReadAt(p []byte, off int64) (int, error) {
	if f.n--; f.n == 0 {
		return 0, errBroken
	}
	return f.r.ReadAt(p, off)
}

// naiveReplay is spec: on-disk 5.5 word for word, over decoded blocks by ring position
// (nil: not valid).
func naiveReplay(ring []*activitylog.Block) []extent {
	oldest, newest := -1, -1
	for r, b := range ring {
		if b == nil || b.Type == activitylog.TypeInitialised {
			continue
		}
		if oldest < 0 || int32(b.Number-ring[oldest].Number) < 0 {
			oldest = r
		}
		if newest < 0 || int32(b.Number-ring[newest].Number) > 0 {
			newest = r
		}
	}
	if oldest < 0 {
		return nil
	}
	slot := map[int]extent{}
	for r := oldest; ; r = (r + 1) % len(ring) {
		if b := ring[r]; b != nil && b.Type != activitylog.TypeInitialised {
			for i := range 919 {
				s := int(b.ContextStart) + i
				if b.Context[i] == activitylog.Free && s >= int(b.ContextSize) || s >= 65534 {
					continue
				}
				slot[s] = b.Context[i]
			}
			for i := range 64 {
				s := int(b.UpdateSlot[i])
				if i >= int(b.NUpdates) && s == 0xffff || s >= 65534 {
					continue
				}
				slot[s] = b.UpdateExtent[i]
			}
		}
		if r == newest {
			break
		}
	}
	hot := map[extent]bool{}
	for _, e := range slot {
		if e != activitylog.Free {
			hot[e] = true
		}
	}
	return slices.Sorted(maps.Keys(hot))
}

// decodeRing decodes the blocks by ring position.
func decodeRing(ring []byte, g activitylog.Geometry) (blocks []*activitylog.Block) {
	for pos := range g.Blocks() {
		b, err := activitylog.DecodeBlock((*[4096]byte)(ring[4096*g.Position(pos):]))
		if err != nil {
			blocks = append(blocks, nil)
		} else {
			blocks = append(blocks, &b)
		}
	}
	return blocks
}

// Whatever valid and damaged blocks a ring holds, Replay does what the specification
// says.
func TestReplayModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	g := activitylog.Geometry{Stripes: 2, StripeSize4k: 4}
	nonEmpty := 0
	for range 500 {
		ring := oddRing(rnd, g)
		res, err := activitylog.Replay(bytes.NewReader(ring), 0, g)
		want := naiveReplay(decodeRing(ring, g))
		require.Equal(t, want, res.Hot)
		if err != nil {
			require.True(t, errors.Is(err, activitylog.ErrNoLog) || errors.Is(err, activitylog.ErrDamaged))
			require.Zero(t, res.Updates)
		}
		nonEmpty += min(1, len(want))
	}
	require.Greater(t, nonEmpty, 200)
}

// oldRing builds a log of 64 sectors in the form of 8.3.
type oldPair struct {
	slot   uint32
	extent extent
}

func oldSector(number uint32, pairs ...oldPair) []byte {
	raw := make([]byte, 512)
	binary.BigEndian.PutUint32(raw[0:], 0x83740267)
	binary.BigEndian.PutUint32(raw[4:], number)
	var xor uint32
	for i := range 62 {
		p := oldPair{^uint32(0), activitylog.Free}
		if i < len(pairs) {
			p = pairs[i]
		}
		binary.BigEndian.PutUint32(raw[8+8*i:], p.slot)
		binary.BigEndian.PutUint32(raw[12+8*i:], uint32(p.extent))
		xor ^= uint32(p.extent)
	}
	binary.BigEndian.PutUint32(raw[504:], xor)
	return raw
}

func oldArea(sectors ...[]byte) []byte {
	area := make([]byte, 64*512)
	for i, s := range sectors {
		copy(area[512*i:], s)
	}
	return area
}

func TestReplayOld(t *testing.T) {
	free := activitylog.Free
	for _, tc := range []struct {
		name    string
		area    []byte
		slots   uint32
		hot     []extent
		updates int
		blocks  int
	}{
		{"nothing", oldArea(), 257, nil, 0, 6},
		{"no slots", oldArea(oldSector(0, oldPair{0, 7})), 0, []extent{7}, 1, 1},
		{"the change wins over the context", oldArea(oldSector(5, oldPair{1, 7}, oldPair{1, 8}, oldPair{2, 9})), 61, []extent{7, 9}, 1, 2},
		{"the free mark clears nothing", oldArea(oldSector(5, oldPair{1, 7}), oldSector(6, oldPair{1, free})), 61, []extent{7}, 2, 2},
		{"a slot that cannot be", oldArea(oldSector(5, oldPair{65534, 7}, oldPair{65533, 8})), 61, []extent{8}, 1, 2},
		{"oldest first", oldArea(oldSector(9, oldPair{1, 7}), oldSector(8, oldPair{1, 8})), 61, []extent{7}, 2, 2},
		{"across the wrap", oldArea(oldSector(0, oldPair{1, 7}), oldSector(^uint32(0), oldPair{1, 8})), 61, []extent{7}, 2, 2},
		{"past the ring", oldArea(oldSector(1, oldPair{1, 7}), nil, oldSector(2, oldPair{1, 8})), 61, []extent{7}, 1, 2},
		{"more slots than the area describes", oldArea(oldSector(1, oldPair{1, 7})), 1 << 31, []extent{7}, 1, 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, err := activitylog.ReplayOld(bytes.NewReader(tc.area), 0, tc.slots)
			require.NoError(t, err)
			require.Equal(t, tc.hot, res.Hot)
			require.Equal(t, tc.updates, res.Updates)
			require.Equal(t, tc.blocks, res.Blocks)
			require.Equal(t, tc.blocks-tc.updates, res.Invalid)
		})
	}
	torn := oldArea(oldSector(1, oldPair{1, 7}))
	torn[100] ^= 1
	res, err := activitylog.ReplayOld(bytes.NewReader(torn), 0, 61)
	require.NoError(t, err)
	require.Empty(t, res.Hot)
}

// persistentArea is the array of DRBD 9 in persistent memory.
func persistentArea(extents ...extent) []byte {
	area := make([]byte, 8*4096)
	binary.BigEndian.PutUint32(area, 0x6AA667A6)
	for i, e := range extents {
		binary.BigEndian.PutUint32(area[4+4*i:], uint32(e))
	}
	return area
}

func TestReplayPersistent(t *testing.T) {
	area := persistentArea(5, activitylog.Free, 3, 5, 99)
	res, err := activitylog.ReplayPersistent(bytes.NewReader(area), 0, eight, 4)
	require.NoError(t, err)
	require.Equal(t, []extent{3, 5}, res.Hot, "the fifth element is no slot")
	require.False(t, res.Clean())
	_, err = activitylog.ReplayPersistent(bytes.NewReader(area), 0, eight, ^uint32(0))
	require.NoError(t, err, "no more than the area holds")
	_, err = activitylog.ReplayPersistent(bytes.NewReader(ringOf()), 0, eight, 4)
	require.ErrorIs(t, err, activitylog.ErrNoLog)
}

// Spec: on-disk 5.6, 5.7.
func TestDetectFormat(t *testing.T) {
	blocks, old, persistent := ringOf(), oldArea(oldSector(1, oldPair{1, 7})), persistentArea(1)
	second := bytes.Clone(old)
	copy(second[4096:], blocks[4096:8192])
	wide := activitylog.Geometry{Stripes: 1, StripeSize4k: 16}
	for i, tc := range []struct {
		area  []byte
		g     activitylog.Geometry
		magic uint32
		want  activitylog.Format
	}{
		{blocks, eight, v07, activitylog.FormatSectors},
		{blocks, eight, v08Clean, activitylog.FormatBlocks},
		{old, eight, v08Clean, activitylog.FormatSectors},
		{old, activitylog.Geometry{}, v08Clean, activitylog.FormatSectors},
		{old, wide, v08Clean, activitylog.FormatBlocks},
		{old, eight, v08Unclean, activitylog.FormatBlocks},
		{old, eight, v09, activitylog.FormatBlocks},
		{second, eight, v08Clean, activitylog.FormatBlocks},
		{persistent, eight, v09, activitylog.FormatPersistent},
	} {
		f, err := activitylog.DetectFormat(bytes.NewReader(tc.area), 0, tc.g, tc.magic)
		require.NoError(t, err)
		require.Equal(t, tc.want, f, "case %d", i)
		res, err := activitylog.ReplayFormat(f, bytes.NewReader(tc.area), 0, eight, 61)
		require.Equal(t, f, res.Format)
		if f != activitylog.FormatBlocks {
			require.NoError(t, err)
		}
	}
	require.Equal(t, "blocks, sectors, persistent memory, Format(7)", strings.Join([]string{
		activitylog.FormatBlocks.String(), activitylog.FormatSectors.String(),
		activitylog.FormatPersistent.String(), fmt.Sprint(activitylog.Format(7)),
	}, ", "))
}

func TestDecodeBlockErrors(t *testing.T) {
	ring := ringOf(change(7, 1, 2))
	raw := (*[4096]byte)(ring)
	for i := range 4096 {
		raw[i] ^= 0x10
		_, err := activitylog.DecodeBlock(raw)
		require.ErrorIs(t, err, activitylog.ErrBlock, "byte %d", i)
		raw[i] ^= 0x10
	}
	b, err := activitylog.DecodeBlock(raw)
	require.NoError(t, err)
	require.Equal(t, *change(7, 1, 2), b)
}
