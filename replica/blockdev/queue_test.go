// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// submit performs op through the queue and waits for it.
func submit(q Queue, op *Op) error {
	done := make(chan struct{})
	op.Done = func(*Op) { close(done) }
	q.Submit(op)
	<-done
	return op.Err
}

// testQueue checks what every Queue promises, on a device of testSize bytes.
func testQueue(t *testing.T, dev Device, q Queue) {
	t.Run("kinds", func(t *testing.T) { testQueueKinds(t, dev, q) })
	t.Run("parallel", func(t *testing.T) { testQueueParallel(t, dev, q) })
	t.Run("errors", func(t *testing.T) { testQueueErrors(t, q) })
	t.Run("done may submit", func(t *testing.T) {
		ended := make(chan struct{})
		n := 0
		op := &Op{Kind: OpWrite, Buf: AlignedBuffer(4096)}
		op.Done = func(op *Op) {
			if n++; n == 100 || op.Err != nil {
				close(ended)
				return
			}
			q.Submit(op)
		}
		q.Submit(op)
		<-ended
		require.NoError(t, op.Err)
		require.Equal(t, 100, n)
	})
}

func testQueueKinds(t *testing.T, dev Device, q Queue) {
	for _, flags := range []Op{{}, {PreFlush: true}, {FUA: true}, {PreFlush: true, FUA: true}} {
		for _, how := range []func(*Op) error{
			func(op *Op) error { return submit(q, op) },
			func(op *Op) error { q.Do(op); return op.Err },
		} {
			for _, buf := range [][]byte{fill(12<<10, 1), misaligned(12 << 10), AlignedBuffer(512), {}} {
				op := flags
				op.Kind, op.Off, op.Buf = OpWrite, 8192, buf
				require.NoError(t, how(&op))
				got := &Op{Kind: OpRead, Off: 8192, Buf: misaligned(len(buf))}
				require.NoError(t, how(got))
				require.Equal(t, append([]byte{}, buf...), append([]byte{}, got.Buf...))
			}
			op := flags
			op.Kind, op.Off, op.N, op.MayUnmap = OpZero, 8192, 4096, true
			require.NoError(t, how(&op))
			got := &Op{Kind: OpRead, Off: 8192, Buf: AlignedBuffer(4096)}
			require.NoError(t, how(got))
			require.Equal(t, make([]byte, 4096), got.Buf)
			require.NoError(t, how(&Op{Kind: OpFlush}))
			err := how(&Op{Kind: OpDiscard, Off: 8192, N: 4096, FUA: flags.FUA, PreFlush: flags.PreFlush})
			if LimitsOf(dev).DiscardSupported {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrNotSupported)
			}
		}
	}
}

// testQueueParallel keeps many ops of all kinds under way, each goroutine in its
// own part of the device.
func testQueueParallel(t *testing.T, dev Device, q Queue) {
	const parts, rounds = 8, 12
	const part = testSize / parts / 4096 * 4096
	zeroes := LimitsOf(dev).DiscardSupported && LimitsOf(dev).DiscardZeroes
	var wg sync.WaitGroup
	for g := range parts {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			base := int64(g) * part
			model := make([]byte, part)
			first := &Op{Kind: OpZero, Off: base, N: part}
			require.NoError(t, submit(q, first))
			for i := range rounds {
				off := rng.Int64N(part/512) * 512
				n := (1 + rng.Int64N(min(64<<10, part-off)/512)) * 512
				op := &Op{Off: base + off, N: n, PreFlush: rng.IntN(16) == 0, FUA: rng.IntN(16) == 0}
				switch k := rng.IntN(6); {
				case k < 3:
					op.Kind, op.Buf = OpWrite, fill(int(n), uint64(g*1000+i))
					copy(model[off:], op.Buf)
				case k == 3:
					op.Kind, op.MayUnmap = OpZero, rng.IntN(2) == 0
					clear(model[off : off+n])
				case k == 4 && zeroes:
					op.Kind = OpDiscard
					clear(model[off : off+n])
				default:
					op.Kind, op.Buf, op.FUA = OpRead, AlignedBuffer(int(n)), false
				}
				require.NoError(t, submit(q, op))
				if op.Kind == OpRead {
					require.Equal(t, model[off:off+n], op.Buf)
				}
			}
			all := &Op{Kind: OpRead, Off: base, Buf: AlignedBuffer(part)}
			q.Do(all)
			require.NoError(t, all.Err)
			require.Equal(t, model, all.Buf)
		})
	}
	wg.Wait()
}

func testQueueErrors(t *testing.T, q Queue) {
	tests := []struct {
		op   Op
		want error
	}{
		{Op{Kind: OpWrite, Off: 1, Buf: AlignedBuffer(512)}, ErrAlignment},
		{Op{Kind: OpRead, Off: 0, Buf: AlignedBuffer(100)}, ErrAlignment},
		{Op{Kind: OpRead, Off: testSize, Buf: AlignedBuffer(512)}, ErrRange},
		{Op{Kind: OpZero, Off: testSize, N: 512}, ErrRange},
		{Op{Kind: OpZero, Off: 0, N: -512}, ErrRange},
		{Op{Kind: 99}, errors.ErrUnsupported},
		{Op{}, errors.ErrUnsupported},
	}
	for _, tc := range tests {
		op := tc.op
		require.ErrorIs(t, submit(q, &op), tc.want)
		op = tc.op
		op.PreFlush = true
		require.ErrorIs(t, submit(q, &op), tc.want)
		op = tc.op
		q.Do(&op)
		require.ErrorIs(t, op.Err, tc.want)
	}
}

// testQueueClose checks that Close ends everything, once.
func testQueueClose(t *testing.T, q Queue) {
	var mu sync.Mutex
	ended := 0
	var ops []*Op
	for i := range 50 {
		ops = append(ops, &Op{Kind: OpWrite, Off: int64(i) * 4096, Buf: AlignedBuffer(4096), FUA: i%7 == 0, PreFlush: i%11 == 0,
			Done: func(op *Op) {
				mu.Lock()
				defer mu.Unlock()
				if op.Err == nil {
					ended++
				}
			}})
	}
	q.SubmitBatch(ops)
	require.NoError(t, q.Close())
	require.Equal(t, 50, ended, "Close waits for what was submitted")
	require.ErrorIs(t, q.Close(), ErrClosed)
	for _, op := range ops[:2] {
		require.ErrorIs(t, submit(q, op), ErrClosed)
	}
	q.SubmitBatch([]*Op{{Kind: OpFlush}})
	op := &Op{Kind: OpFlush}
	q.Do(op)
	require.ErrorIs(t, op.Err, ErrClosed)
}

// testQueueAllocations proves that a steady stream of ops allocates nothing.
func testQueueAllocations(t *testing.T, q Queue) {
	done := make(chan struct{}, 8)
	ops := make([]*Op, 8)
	for i := range ops {
		ops[i] = &Op{Kind: OpWrite, Off: int64(i) * 4096, Buf: AlignedBuffer(4096), Done: func(*Op) { done <- struct{}{} }}
	}
	ops[6].FUA = true
	ops[7].PreFlush = true
	round := func() {
		q.SubmitBatch(ops)
		for range ops {
			<-done
		}
		q.Do(ops[0])
		<-done
		q.Submit(ops[1])
		<-done
	}
	round()
	require.Zero(t, testing.AllocsPerRun(50, round))
	for _, op := range ops {
		require.NoError(t, op.Err)
	}
}

func TestPoolQueueClose(t *testing.T) { testQueueClose(t, NewPoolQueue(NewMemory(testSize), 3)) }
func TestPoolQueueUnusedClose(t *testing.T) {
	require.NoError(t, NewPoolQueue(NewMemory(0), 0).Close())
}

func TestPoolQueueAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	q := NewPoolQueue(NewMemory(testSize), 3)
	testQueueAllocations(t, q)
	require.NoError(t, q.Close())
}

// TestFlushesAreCombined: ops that ask for a flush while one runs share the next.
func TestFlushesAreCombined(t *testing.T) {
	f := NewFaulty(NewMemory(testSize))
	q := NewPoolQueue(f, 2)
	release := f.Inject(Fault{Kinds: []OpKind{OpFlush}, Hang: true, Times: 1})
	var wg sync.WaitGroup
	add := func(op *Op) {
		wg.Add(1)
		op.Done = func(*Op) { wg.Done() }
		q.Submit(op)
	}
	add(&Op{Kind: OpFlush})
	f.WaitHung(1)
	for i := range 20 {
		add(&Op{Kind: OpWrite, Off: int64(i) * 512, Buf: fill(512, uint64(i)), PreFlush: true})
		add(&Op{Kind: OpFlush})
	}
	// They wait without a worker: there are two, one of them hangs, and this works.
	require.NoError(t, submit(q, &Op{Kind: OpRead, Buf: AlignedBuffer(512)}))
	release()
	wg.Wait()
	require.NoError(t, q.Close())
	require.LessOrEqual(t, f.Count(OpFlush), 3)
	for i := range 20 {
		got := AlignedBuffer(512)
		_, err := f.ReadAt(got, int64(i)*512)
		require.NoError(t, err)
		require.Equal(t, fill(512, uint64(i)), got)
	}
}

// TestFlushErrorReachesAll: an error of a shared flush is everybody's, and a write
// behind it is not done.
func TestFlushErrorReachesAll(t *testing.T) {
	f := NewFaulty(NewMemory(testSize))
	q := NewPoolQueue(f, 1)
	release := f.Inject(Fault{Kinds: []OpKind{OpFlush}, Hang: true, Times: 1})
	f.Inject(Fault{Kinds: []OpKind{OpFlush}})
	var wg sync.WaitGroup
	wg.Add(3)
	ops := []*Op{{Kind: OpFlush}, {Kind: OpFlush}, {Kind: OpWrite, Buf: fill(512, 1), PreFlush: true}}
	for _, op := range ops {
		op.Done = func(*Op) { wg.Done() }
	}
	q.Submit(ops[0])
	f.WaitHung(1)
	q.Submit(ops[1])
	q.Submit(ops[2])
	release()
	wg.Wait()
	require.NoError(t, ops[0].Err)
	require.ErrorIs(t, ops[1].Err, ErrInjected)
	require.ErrorIs(t, ops[2].Err, ErrInjected)
	require.Zero(t, f.Count(OpWrite))
	require.NoError(t, q.Close())
}

// TestQueueDurability: what the flags promise survives a power cut at that moment.
func TestQueueDurability(t *testing.T) {
	for seed := range uint64(50) {
		mem := NewMemory(1 << 20)
		f := NewFaulty(plainFUA(mem, seed%2 == 0))
		require.NoError(t, f.VolatileCache(true))
		q := NewPoolQueue(f, 2)
		require.NoError(t, submit(q, &Op{Kind: OpWrite, Off: 0, Buf: fill(8192, 1)}))
		require.NoError(t, submit(q, &Op{Kind: OpWrite, Off: 8192, Buf: fill(8192, 2), PreFlush: true}))
		require.NoError(t, submit(q, &Op{Kind: OpWrite, Off: 16384, Buf: fill(8192, 3), FUA: true}))
		require.NoError(t, f.Crash(seed))
		got := mem.Bytes()
		require.Equal(t, fill(8192, 1), got[:8192], "completed before the PreFlush")
		require.Equal(t, fill(8192, 3), got[16384:24576], "FUA")
		require.ErrorIs(t, submit(q, &Op{Kind: OpFlush}), ErrPowerLost)
		require.NoError(t, q.Close())
	}
}

// plainFUA returns dev with or without its FUA.
func plainFUA(dev Device, with bool) Device {
	if with {
		return dev
	}
	return plainest{dev}
}

func TestOpKindString(t *testing.T) {
	for k, want := range map[OpKind]string{OpRead: "read", OpWrite: "write", OpFlush: "flush", OpDiscard: "discard", OpZero: "zero", 77: "OpKind(77)"} {
		require.Equal(t, want, k.String())
	}
}
