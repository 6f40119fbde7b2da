// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestFaults(t *testing.T) {
	mem := NewMemory(1 << 20)
	f := NewFaulty(mem)
	buf := fill(4096, 1)
	write := func(off int64) error { _, err := f.WriteAt(buf, off); return err }

	// The third write and no other.
	remove := f.Inject(Fault{Kinds: []OpKind{OpWrite}, Skip: 2, Times: 1, Err: ErrNoSpace})
	require.NoError(t, write(0))
	require.NoError(t, write(4096))
	err := write(8192)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "write of 4096 bytes at 8192")
	require.NoError(t, write(8192))
	remove()

	// A range, for everything but flushes.
	remove = f.Inject(Fault{Off: 64 << 10, Len: 512})
	require.NoError(t, write(60<<10))
	require.ErrorIs(t, write(61<<10), ErrInjected)
	_, err = f.ReadAt(buf, 64<<10)
	require.ErrorIs(t, err, ErrInjected)
	require.ErrorIs(t, f.Discard(0, 1<<20), ErrInjected)
	require.ErrorIs(t, f.WriteZeroes(0, 1<<20, true), ErrInjected)
	require.NoError(t, write(64<<10+512))
	require.NoError(t, f.Flush())
	remove()
	require.NoError(t, write(64<<10))

	// Torn, and lying.
	clear(buf)
	require.NoError(t, write(0))
	f.Inject(Fault{Kinds: []OpKind{OpWrite}, Partial: 1024, Times: 1})
	buf = bytes.Repeat([]byte{7}, 4096)
	require.ErrorIs(t, write(0), ErrInjected)
	require.Equal(t, append(bytes.Repeat([]byte{7}, 1024), make([]byte, 3072)...), mem.Bytes()[:4096])
	f.Heal()
	f.Inject(Fault{Kinds: []OpKind{OpWrite}, After: true, Times: 1})
	require.ErrorIs(t, write(0), ErrInjected)
	require.Equal(t, buf, mem.Bytes()[:4096])

	require.Equal(t, 11, f.Count(OpWrite))
	require.Equal(t, 1, f.Count(OpFlush))
	require.Same(t, mem, f.Unwrap())
}

func TestFaultHang(t *testing.T) {
	f := NewFaulty(NewMemory(1 << 20))
	hang := func(fault Fault) (release func(), result chan error) {
		release = f.Inject(fault)
		result = make(chan error, 1)
		go func() { result <- f.Flush() }()
		f.WaitHung(1)
		return release, result
	}
	release, result := hang(Fault{Hang: true})
	require.Empty(t, result)
	release()
	require.NoError(t, <-result)

	_, result = hang(Fault{Hang: true, Err: errors.New("timed out")})
	f.Heal()
	require.ErrorContains(t, <-result, "timed out")

	_, result = hang(Fault{Hang: true})
	require.NoError(t, f.Crash(1))
	require.ErrorIs(t, <-result, ErrPowerLost)
	require.ErrorIs(t, f.Flush(), ErrPowerLost)
	f.Heal()
	f.Restart()
	require.NoError(t, f.Flush())
}

func TestObserve(t *testing.T) {
	f := NewFaulty(NewMemory(1 << 20))
	var seen []Request
	f.Observe(func(r Request) { seen = append(seen, r) })
	_, _ = f.WriteAt(make([]byte, 512), 1024)
	_, _ = f.WriteAtFUA(make([]byte, 512), 0)
	_ = f.Flush()
	f.Observe(nil)
	_ = f.Flush()
	require.Equal(t, []Request{{Kind: OpWrite, Off: 1024, N: 512}, {Kind: OpWrite, N: 512, FUA: true}, {Kind: OpFlush}}, seen)
}

// crashStep does one step of TestCrashModel: 0 to 2 a write, 3 one with FUA, 4
// zeroes, 5 a discard, 6 a flush.
func crashStep(f *Faulty, kind int, off, n int64, version byte) error {
	buf := bytes.Repeat([]byte{version}, int(n))
	var err error
	switch kind {
	case 0, 1, 2:
		_, err = f.WriteAt(buf, off)
	case 3:
		_, err = f.WriteAtFUA(buf, off)
	case 4:
		err = f.WriteZeroes(off, n, false)
	case 5:
		err = f.Discard(off, n)
	case 6:
		err = f.Flush()
	}
	return err
}

// TestCrashModel: after a power cut every sector holds what was durable or one of
// the versions written since, and the cut is the same for the same seed.
func TestCrashModel(t *testing.T) {
	const sectors = 32
	rapid.Check(t, func(t *rapid.T) {
		type world struct {
			mem *Memory
			f   *Faulty
		}
		var worlds [2]world
		for i := range worlds {
			m := NewMemory(sectors * 512)
			worlds[i] = world{m, NewFaulty(m)}
			require.NoError(t, worlds[i].f.VolatileCache(true))
		}
		var may [sectors]map[byte]bool // what a sector may hold after a crash
		var now [sectors]byte
		for i := range may {
			may[i] = map[byte]bool{0: true}
		}
		version := byte(0)
		steps := rapid.IntRange(1, 40).Draw(t, "steps")
		for range steps {
			at := rapid.IntRange(0, sectors-1).Draw(t, "at")
			n := rapid.IntRange(1, sectors-at).Draw(t, "n")
			kind := rapid.IntRange(0, 6).Draw(t, "kind")
			version++
			for _, w := range worlds {
				require.NoError(t, crashStep(w.f, kind, int64(at)*512, int64(n)*512, version))
			}
			for i := range now {
				inside := i >= at && i < at+n
				switch {
				case kind == 6:
					may[i] = map[byte]bool{now[i]: true}
				case !inside:
				case kind == 3:
					now[i] = version
					may[i] = map[byte]bool{version: true}
				case kind < 3:
					now[i] = version
					may[i][version] = true
				default:
					now[i] = 0
					may[i][0] = true
				}
			}
			for i := range now {
				got := make([]byte, 512)
				_, err := worlds[0].f.ReadAt(got, int64(i)*512)
				require.NoError(t, err)
				require.Equal(t, bytes.Repeat(now[i:i+1], 512), got, "before the crash the cache is read through")
			}
		}
		seed := rapid.Uint64().Draw(t, "seed")
		for _, w := range worlds {
			require.NoError(t, w.f.Crash(seed))
			require.Zero(t, w.f.Unflushed())
		}
		got := worlds[0].mem.Bytes()
		require.Equal(t, got, worlds[1].mem.Bytes(), "same seed, same contents")
		for i := range may {
			v := got[i*512]
			require.Equal(t, bytes.Repeat([]byte{v}, 512), got[i*512:i*512+512], "sectors are not torn")
			require.True(t, may[i][v], "sector %d holds version %d, allowed %v", i, v, may[i])
		}
	})
}

// TestCrashVariety: all of kept, dropped and torn happen.
func TestCrashVariety(t *testing.T) {
	var kept, dropped, torn bool
	for seed := range uint64(60) {
		m := NewMemory(4096)
		f := NewFaulty(m)
		require.NoError(t, f.VolatileCache(true))
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, 4096), 0)
		require.NoError(t, err)
		require.Equal(t, 1, f.Unflushed())
		require.NoError(t, f.Crash(seed))
		switch n := bytes.Count(m.Bytes(), []byte{1}); n {
		case 0:
			dropped = true
		case 4096:
			kept = true
		default:
			torn = true
		}
	}
	require.True(t, kept && dropped && torn)
}

func TestVolatileCacheOff(t *testing.T) {
	m := NewMemory(4096)
	f := NewFaulty(m)
	require.NoError(t, f.VolatileCache(false))
	require.NoError(t, f.VolatileCache(true))
	require.NoError(t, f.VolatileCache(true))
	_, err := f.WriteAt(fill(4096, 1), 0)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 4096), m.Bytes())
	require.NoError(t, f.VolatileCache(false))
	require.Equal(t, fill(4096, 1), m.Bytes())
}

// TestFlushThatFailsKeepsTheCache: its data can still be lost.
func TestFlushThatFailsKeepsTheCache(t *testing.T) {
	m := NewMemory(4096)
	f := NewFaulty(m)
	require.NoError(t, f.VolatileCache(true))
	_, err := f.WriteAt(fill(4096, 1), 0)
	require.NoError(t, err)
	f.Inject(Fault{Kinds: []OpKind{OpFlush}, Times: 1})
	require.ErrorIs(t, f.Flush(), ErrInjected)
	require.Equal(t, 1, f.Unflushed())
	require.NoError(t, f.Flush())
	require.Zero(t, f.Unflushed())
}
