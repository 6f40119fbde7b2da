// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const testSize = 1<<20 + 7*4096

// testDevice checks everything that Device and its optional abilities promise. dev
// has testSize bytes and is empty.
func testDevice(t *testing.T, dev Device) {
	require.EqualValues(t, testSize, dev.Size())
	l := LimitsOf(dev)
	require.EqualValues(t, SectorSize, l.LogicalBlockSize)
	require.GreaterOrEqual(t, l.PhysicalBlockSize, l.LogicalBlockSize)
	requireContents(t, make([]byte, testSize), dev)

	t.Run("refused", func(t *testing.T) { testRefused(t, dev) })
	t.Run("model", func(t *testing.T) { testModel(t, dev, l) })
	t.Run("queue", func(t *testing.T) {
		q := NewQueue(dev, 4)
		testQueue(t, dev, q)
		require.NoError(t, q.Close())
	})
	require.NoError(t, dev.Flush())
	require.NoError(t, dev.Close())
	_, err := dev.ReadAt(AlignedBuffer(512), 0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = dev.WriteAt(AlignedBuffer(512), 0)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, dev.Flush(), ErrClosed)
	require.ErrorIs(t, dev.Close(), ErrClosed)
}

func testRefused(t *testing.T, dev Device) {
	tests := []struct {
		off, n int64
		want   error
	}{
		{1, 512, ErrAlignment},
		{0, 511, ErrAlignment},
		{256, 256, ErrAlignment},
		{-512, 512, ErrRange},
		{testSize, 512, ErrRange},
		{testSize - 512, 1024, ErrRange},
		{1<<63 - 512, 512, ErrRange},
	}
	for _, tc := range tests {
		buf := AlignedBuffer(int(tc.n))
		_, err := dev.ReadAt(buf, tc.off)
		require.ErrorIs(t, err, tc.want, "read %d at %d", tc.n, tc.off)
		_, err = dev.WriteAt(buf, tc.off)
		require.ErrorIs(t, err, tc.want, "write %d at %d", tc.n, tc.off)
		require.ErrorIs(t, WriteZeroes(dev, tc.off, tc.n, true), tc.want)
		if LimitsOf(dev).DiscardSupported {
			require.ErrorIs(t, Discard(dev, tc.off, tc.n), tc.want)
		}
	}
	for _, off := range []int64{0, testSize} {
		n, err := dev.ReadAt(nil, off)
		require.NoError(t, err)
		require.Zero(t, n)
		require.NoError(t, WriteZeroes(dev, off, 0, false))
	}
	if !LimitsOf(dev).DiscardSupported {
		err := Discard(dev, 0, 4096)
		require.ErrorIs(t, err, ErrNotSupported)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
}

// testModel does random things to the device and to a byte slice.
func testModel(t *testing.T, dev Device, l Limits) {
	model := make([]byte, testSize)
	seed := uint64(0)
	one := func(t *rapid.T) {
		off := rapid.Int64Range(0, testSize/512-1).Draw(t, "sector") * 512
		if rapid.Bool().Draw(t, "aligned") {
			off &^= 4095
		}
		limit := rapid.SampledFrom([]int64{512, 4096, 70 << 10, testSize}).Draw(t, "limit")
		n := rapid.Int64Range(1, min(limit, testSize-off)/512).Draw(t, "sectors") * 512
		buf := AlignedBuffer(int(n))
		if rapid.Bool().Draw(t, "misaligned") {
			buf = misaligned(int(n))
		}
		seed++
		switch rapid.IntRange(0, 5).Draw(t, "op") {
		case 0:
			_, err := dev.ReadAt(buf, off)
			require.NoError(t, err)
			require.Equal(t, model[off:off+n], buf)
		case 1, 2:
			copy(buf, fill(int(n), seed))
			k, err := dev.WriteAt(buf, off)
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			copy(model[off:], buf)
		case 3:
			if fua, ok := dev.(FUAWriter); ok {
				copy(buf, fill(int(n), seed))
				k, err := fua.WriteAtFUA(buf, off)
				require.NoError(t, err)
				require.EqualValues(t, n, k)
				copy(model[off:], buf)
			}
		case 4:
			require.NoError(t, WriteZeroes(dev, off, n, rapid.Bool().Draw(t, "unmap")))
			clear(model[off : off+n])
		case 5:
			if l.DiscardSupported && l.DiscardZeroes {
				require.NoError(t, Discard(dev, off, n))
				clear(model[off : off+n])
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 3 {
			one(t)
		}
	})
	requireContents(t, model, dev)
	require.NoError(t, dev.Flush())
	require.NoError(t, writeZeroes(dev, 0, testSize))
}

func TestDevices(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testDevice(t, NewMemory(testSize)) })
	t.Run("faulty", func(t *testing.T) { testDevice(t, NewFaulty(NewMemory(testSize))) })
	t.Run("faulty, volatile", func(t *testing.T) {
		f := NewFaulty(NewMemory(testSize))
		require.NoError(t, f.VolatileCache(true))
		// What the cache emulates ends with the device.
		testDevice(t, f)
	})
	t.Run("plainest", func(t *testing.T) { testDevice(t, plainest{NewMemory(testSize)}) })
	t.Run("no discard", func(t *testing.T) {
		m := NewMemory(testSize)
		l := m.Limits()
		l.DiscardSupported = false
		m.SetLimits(l)
		testDevice(t, m)
	})
}

// plainest hides all optional abilities of a device.
type plainest struct{ Device }

func TestHelpers(t *testing.T) {
	dev := NewMemory(64 << 10)
	model := make([]byte, 64<<10)
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.Int64Range(0, 64<<10).Draw(t, "off")
		n := int(min(rapid.Int64Range(0, 3000).Draw(t, "n"), 64<<10-off))
		p := fill(n+8, uint64(off))[:n]
		require.NoError(t, WriteAt(dev, p, off))
		copy(model[off:], p)
		got := make([]byte, n+1)
		require.NoError(t, ReadAt(dev, got[:n], off))
		require.Equal(t, p, got[:n])
	})
	requireContents(t, model, dev)
	tail := make([]byte, 1001)
	require.NoError(t, ReadTail(dev, tail))
	require.Equal(t, model[64<<10-1001:], tail)
	require.ErrorIs(t, ReadTail(dev, make([]byte, 64<<10+1)), ErrRange)
	require.ErrorIs(t, ReadAt(dev, tail, 64<<10-1000), ErrRange)
	require.ErrorIs(t, WriteAt(dev, tail, 64<<10-1000), ErrRange)
}

func TestMemoryIsSparse(t *testing.T) {
	m := NewMemory(1 << 50)
	require.EqualValues(t, 0, m.Allocated())
	_, err := m.WriteAt(fill(4096, 1), 1<<50-4096)
	require.NoError(t, err)
	_, err = m.WriteAt(fill(4096, 2), memChunk-2048)
	require.NoError(t, err)
	require.EqualValues(t, 3*memChunk, m.Allocated())
	require.NoError(t, m.Discard(0, memChunk))
	require.EqualValues(t, 2*memChunk, m.Allocated())
	require.NoError(t, m.WriteZeroes(1<<50-memChunk, memChunk, true))
	require.EqualValues(t, memChunk, m.Allocated())
}

func TestMemorySnapshot(t *testing.T) {
	m := NewMemory(1 << 20)
	before := fill(1<<20, 1)
	_, err := m.WriteAt(before, 0)
	require.NoError(t, err)
	s := m.Snapshot()
	_, err = m.WriteAt(fill(1<<20, 2), 0)
	require.NoError(t, err)
	require.Equal(t, before, s.Bytes())
	require.NoError(t, m.Close())
	require.Equal(t, fill(1<<20, 2), m.Bytes(), "readable after Close")
	requireContents(t, fill(1<<20, 2), m.Snapshot())
}

func TestMemoryResize(t *testing.T) {
	m := NewMemory(1 << 20)
	_, err := m.WriteAt(fill(1<<20, 1), 0)
	require.NoError(t, err)
	m.Resize(100 << 10)
	_, err = m.ReadAt(make([]byte, 512), 100<<10)
	require.ErrorIs(t, err, ErrRange)
	m.Resize(1 << 20)
	want := append(fill(1<<20, 1)[:100<<10:100<<10], make([]byte, 1<<20-100<<10)...)
	requireContents(t, want, m)
	n, err := m.RefreshSize()
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, n)
}

func TestMemoryAllocations(t *testing.T) {
	m := NewMemory(1 << 20)
	buf := fill(128<<10, 1)
	_, err := m.WriteAt(buf, 0)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = m.WriteAt(buf, 0)
		_, _ = m.ReadAt(buf, 0)
	}))
}

// errDevice fails everything.
type errDevice struct{ Device }

func (errDevice) ReadAt([]byte, int64) (int, error)  { return 0, io.ErrUnexpectedEOF }
func (errDevice) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }

func TestHelpersReportErrors(t *testing.T) {
	dev := errDevice{NewMemory(4096)}
	require.ErrorIs(t, ReadAt(dev, make([]byte, 3), 1), io.ErrUnexpectedEOF)
	require.ErrorIs(t, WriteAt(dev, make([]byte, 3), 1), io.ErrUnexpectedEOF)
	require.ErrorIs(t, WriteAt(dev, make([]byte, 512), 0), io.ErrShortWrite)
	require.ErrorIs(t, WriteZeroes(dev, 0, 4096, true), io.ErrShortWrite)
}
