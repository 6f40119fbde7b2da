// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newPureRing is newRing with everything that the ring can do going through it, a
// lone op too.
func newPureRing(t testing.TB, entries int) (*File, Queue) {
	t.Helper()
	f, q := newRing(t, entries)
	q.(*ringQueue).aside = 0
	return f, q
}

// newRing returns a ring on a new file, or skips the test where there are none.
func newRing(t testing.TB, entries int) (*File, Queue) {
	t.Helper()
	f := create(t, Options{})
	q, err := NewRing(f, entries)
	if errors.Is(err, ErrNotSupported) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skipf("no io_uring here: %v", err)
	}
	require.NoError(t, err)
	return f, q
}

func TestRing(t *testing.T) {
	for _, entries := range []int{0, 1, 3} {
		f, q := newRing(t, entries)
		testQueue(t, f, q)
		testQueueClose(t, q)
		f, q = newPureRing(t, entries)
		testQueue(t, f, q)
		testQueueClose(t, q)
	}
}

func TestRingUnusedClose(t *testing.T) {
	_, q := newRing(t, 0)
	require.NoError(t, q.Close())
}

func TestRingAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	_, q := newRing(t, 0)
	testQueueAllocations(t, q)
	require.NoError(t, q.Close())
	_, q = newPureRing(t, 0)
	testQueueAllocations(t, q)
	require.NoError(t, q.Close())
}

func TestNewQueueChooses(t *testing.T) {
	f, ring := newRing(t, 0)
	require.NoError(t, ring.Close())
	for _, tc := range []struct {
		dev  Device
		want any
	}{
		{f, &ringQueue{}},
		{NewMemory(4096), &poolQueue{}},
		{NewFaulty(f), &poolQueue{}},
		{create(t, Options{NoDirect: true}), &poolQueue{}},
	} {
		q := NewQueue(tc.dev, 2)
		require.IsType(t, tc.want, q)
		require.NoError(t, q.Close())
	}
	_, err := NewRing(create(t, Options{NoDirect: true}), 0)
	require.ErrorIs(t, err, ErrNotSupported)
	require.NoError(t, f.Close())
	_, err = NewRing(f, 0)
	require.ErrorIs(t, err, ErrClosed)
}

// TestRingReportsDiskErrors: reads behind the end of a file that was cut off by
// somebody else.
func TestRingReportsDiskErrors(t *testing.T) {
	f, q := newPureRing(t, 0)
	require.NoError(t, unix.Truncate(f.Path(), 4096))
	err := submit(q, &Op{Kind: OpRead, Buf: AlignedBuffer(8192)})
	require.ErrorContains(t, err, "truncated")
	require.NoError(t, q.Close())

	r, err := Open(f.Path(), Options{ReadOnly: true, NoLock: true})
	require.NoError(t, err)
	defer r.Close()
	q, err = NewRing(r, 0)
	require.NoError(t, err)
	q.(*ringQueue).aside = 0
	err = submit(q, &Op{Kind: OpWrite, Buf: AlignedBuffer(4096)})
	require.ErrorIs(t, err, unix.EBADF)
	require.ErrorContains(t, err, r.Path())
	require.NoError(t, q.Close())
}

// TestRingFlushes: many flushes at once, alone and before writes; a failure sticks.
func TestRingFlushes(t *testing.T) {
	f, q := newPureRing(t, 4)
	var wg sync.WaitGroup
	var ops []*Op
	for i := range 60 {
		op := &Op{Kind: OpFlush, Done: func(*Op) { wg.Done() }}
		if i%3 == 0 {
			op.Kind, op.Buf, op.Off, op.PreFlush = OpWrite, fill(4096, uint64(i)), int64(i)*4096, true
		}
		wg.Add(1)
		ops = append(ops, op)
		if i%2 == 0 {
			q.SubmitBatch(ops[i-i%2 : i+1])
		} else {
			q.Submit(op)
		}
	}
	wg.Wait()
	for i, op := range ops {
		require.NoError(t, op.Err)
		if op.Kind == OpWrite {
			got := AlignedBuffer(4096)
			_, err := f.ReadAt(got, int64(i)*4096)
			require.NoError(t, err)
			require.Equal(t, fill(4096, uint64(i)), got)
		}
	}
	f.flushFailed.Store(true)
	require.ErrorIs(t, submit(q, &Op{Kind: OpFlush}), ErrFlushFailed)
	require.ErrorIs(t, submit(q, &Op{Kind: OpWrite, Buf: AlignedBuffer(512), PreFlush: true}), ErrFlushFailed)
	require.NoError(t, submit(q, &Op{Kind: OpWrite, Buf: AlignedBuffer(512)}))
	require.NoError(t, q.Close())
}

// TestRingOutlivesFile: the ring has its own descriptor, so that a device closed
// too early does no harm to another file.
func TestRingOutlivesFile(t *testing.T) {
	f, q := newPureRing(t, 0)
	require.NoError(t, f.Close())
	require.NoError(t, submit(q, &Op{Kind: OpWrite, Buf: fill(4096, 1)}))
	require.ErrorIs(t, submit(q, &Op{Kind: OpZero, N: 4096}), ErrClosed)
	require.NoError(t, q.Close())
}

// TestRingSubmitterThreadEnds: the kernel cancels what a thread has submitted when
// the thread ends. The ops end well all the same.
func TestRingSubmitterThreadEnds(t *testing.T) {
	f, q := newPureRing(t, 0)
	var wg sync.WaitGroup
	ops := make([]*Op, 100)
	for i := range ops {
		ops[i] = &Op{
			Kind: OpWrite, Off: int64(i) * 4096, Buf: fill(4096, uint64(i)), FUA: i%3 == 0, PreFlush: i%10 == 0,
			Done: func(*Op) { wg.Done() },
		}
	}
	wg.Add(len(ops))
	for i := 0; i < len(ops); i += 10 {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			q.SubmitBatch(ops[i : i+10])
		}()
	}
	wg.Wait()
	require.NoError(t, q.Close())
	for i, op := range ops {
		require.NoError(t, op.Err)
		got := AlignedBuffer(4096)
		_, err := f.ReadAt(got, int64(i)*4096)
		require.NoError(t, err)
		require.Equal(t, fill(4096, uint64(i)), got)
	}
}

// TestRingAbandon: nothing that comes later reaches the disk.
func TestRingAbandon(t *testing.T) {
	f, q := newPureRing(t, 3)
	require.NoError(t, submit(q, &Op{Kind: OpWrite, Buf: fill(4096, 1)}))
	q.Abandon()
	for _, op := range []*Op{{Kind: OpWrite, Buf: fill(4096, 2)}, {Kind: OpFlush}, {Kind: OpWrite, Buf: fill(4096, 2), PreFlush: true, FUA: true}} {
		require.ErrorIs(t, submit(q, op), ErrAbandoned)
		op.Done = nil
		q.Do(op)
		require.ErrorIs(t, op.Err, ErrAbandoned)
	}
	require.NoError(t, q.Close())
	got := AlignedBuffer(4096)
	_, err := f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, fill(4096, 1), got)
}
