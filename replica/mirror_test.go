// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// eachNetwork runs a test over the network in memory and over loopback TCP.
func eachNetwork(t *testing.T, test func(t *testing.T, tcp bool)) {
	t.Run("memory", func(t *testing.T) { defer goleak.VerifyNone(t); test(t, false) })
	t.Run("tcp", func(t *testing.T) { defer goleak.VerifyNone(t); test(t, true) })
}

// writer writes random requests to its own stripe of the volume, reads them back,
// and remembers what must be there.
type writer struct {
	vol   *Volume
	rng   *rand.Rand
	from  int64
	model []byte
}

func newWriter(t *testing.T, vol *Volume, index, count int) *writer {
	stripe := vol.Size() / int64(count) &^ 4095
	w := &writer{vol: vol, rng: rand.New(rand.NewPCG(7, uint64(index))), from: int64(index) * stripe, model: make([]byte, stripe)}
	_, err := vol.ReadAt(w.model, w.from)
	require.NoError(t, err)
	return w
}

// step writes once, and reads back what it wrote.
func (w *writer) step(ctx context.Context) error {
	n := 512 * (1 + w.rng.IntN(16))
	if w.rng.IntN(50) == 0 {
		n = 512 * (1 + w.rng.IntN(1500))
	}
	n = min(n, len(w.model)-512)
	off := int64(w.rng.IntN((len(w.model)-n)/512)) * 512
	part := w.model[off : off+int64(n)]
	var err error
	switch w.rng.IntN(20) {
	case 0:
		clear(part)
		err = w.vol.WriteZeroes(ctx, w.from+off, int64(n))
	case 1:
		fill(part, w.rng)
		_, err = w.vol.WriteFUA(ctx, part, w.from+off)
	case 2:
		return w.vol.Flush(ctx)
	default:
		fill(part, w.rng)
		_, err = w.vol.WriteAtContext(ctx, part, w.from+off)
	}
	if err != nil {
		return err
	}
	return w.verify(ctx, off, n)
}

func (w *writer) verify(ctx context.Context, off int64, n int) error {
	got := make([]byte, n)
	if _, err := w.vol.ReadAtContext(ctx, got, w.from+off); err != nil {
		return err
	}
	if string(got) != string(w.model[off:off+int64(n)]) {
		return fmt.Errorf("%d bytes at %d are not what was written", n, w.from+off)
	}
	return nil
}

func fill(p []byte, rng *rand.Rand) {
	x := rng.Uint64()
	for i := range p {
		x = x*6364136223846793005 + 1442695040888963407
		p[i] = byte(x >> 56)
	}
}

// runWriters runs count writers until each has done steps, or stop is set.
func runWriters(t *testing.T, vol *Volume, count, steps int, stop *atomic.Bool) []*writer {
	t.Helper()
	ctx := testContext(t)
	writers := make([]*writer, count)
	var wg sync.WaitGroup
	for i := range writers {
		w := newWriter(t, vol, i, count)
		writers[i] = w
		wg.Go(func() {
			for n := 0; n < steps && (stop == nil || !stop.Load()); n++ {
				if err := w.step(ctx); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return writers
}

// verifyAll reads every writer's stripe through vol.
func verifyAll(t *testing.T, vol *Volume, writers []*writer) {
	t.Helper()
	for _, w := range writers {
		w.vol = vol
		require.NoError(t, w.verify(testContext(t), 0, len(w.model)))
	}
}

// steps is how much a test does: less under the race detector's eyes.
func steps(n int) int {
	if raceEnabled || testing.Short() {
		return n / 5
	}
	return n
}

func TestConcurrentWrites(t *testing.T) {
	eachNetwork(t, func(t *testing.T, tcp bool) {
		p := newPair(t, pairOptions{tcp: tcp})
		p.start(t)
		writers := runWriters(t, p.alpha.vol, 16, steps(400), nil)
		verifyAll(t, p.alpha.vol, writers)
		st := p.alpha.res.Status()
		require.True(t, st.Volumes[0].InSync(), "%v", st)
		p.stop(t)
		p.requireSame(t)
	})
}

// What one Primary wrote, the other reads after the roles have changed places.
func TestRolesChange(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	from, to := p.alpha, p.beta
	for range 4 {
		writers := runWriters(t, from.vol, 4, steps(100), nil)
		require.ErrorIs(t, to.res.Promote(ctx), protocol.CodeTwoPrimaries)
		require.NoError(t, from.res.Demote(ctx))
		waitFor(t, to.res, func(s protocol.State) bool { return s.Peer == protocol.Secondary })
		require.NoError(t, to.res.Promote(ctx))
		verifyAll(t, to.vol, writers)
		from, to = to, from
	}
	p.stop(t)
	p.requireSame(t)
}

// Fresh disks are filled from the node that is promoted with force, while it writes.
func TestInitialSync(t *testing.T) {
	eachNetwork(t, func(t *testing.T, tcp bool) {
		p := newPair(t, pairOptions{tcp: tcp, fresh: true})
		copy := randomBytes(1<<20, 3)
		_, err := p.alpha.disk.WriteAt(copy, 5<<20)
		require.NoError(t, err)
		p.connect(t)
		ctx := testContext(t)
		require.ErrorIs(t, p.alpha.res.Promote(ctx), ErrNoUpToDateData)
		events := p.alpha.res.Events(ctx)
		require.NoError(t, p.alpha.res.Promote(ctx, Force()))
		writers := runWriters(t, p.alpha.vol, 4, steps(100), nil)
		for ev := range events {
			if ev.Kind == EventResyncDone {
				require.Zero(t, ev.Failed)
				break
			}
		}
		require.NoError(t, p.alpha.res.WaitSync(ctx))
		require.NoError(t, p.beta.res.WaitSync(ctx))
		verifyAll(t, p.alpha.vol, writers)
		p.stop(t)
		p.requireSame(t)
	})
}

// A diskless Primary works on the peer's disk.
func TestDisklessPrimary(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	writers := runWriters(t, p.alpha.vol, 4, steps(100), nil)
	require.NoError(t, p.alpha.vol.Detach(ctx))
	require.Equal(t, protocol.Diskless, p.alpha.res.Status().Volumes[0].State.Disk)
	verifyAll(t, p.alpha.vol, writers)
	writers = runWriters(t, p.alpha.vol, 4, steps(100), nil)
	require.NoError(t, p.alpha.vol.Attach(ctx, Disk{}))
	require.ErrorIs(t, p.alpha.vol.Attach(ctx, Disk{}), ErrAttached)
	require.NoError(t, p.alpha.res.WaitSync(ctx))
	verifyAll(t, p.alpha.vol, writers)
	p.stop(t)
	p.requireSame(t)
}

// Connections break again and again while the Primary writes; no write fails, and
// in the end both disks are equal.
func TestReconnect(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	var stop atomic.Bool
	done := make(chan []*writer)
	go func() { done <- runWriters(t, p.alpha.vol, 8, 1<<30, &stop) }()
	for i := range max(2, steps(6)) {
		if i%2 == 0 {
			events := p.alpha.res.Events(ctx)
			p.net.Reset("alpha", "beta")
			for ev := range events {
				if ev.New.Conn == protocol.Connected {
					break
				}
			}
		} else {
			p.net.Cut("alpha", "beta")
			waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn < protocol.Connected })
			p.net.Heal("alpha", "beta")
		}
		require.NoError(t, p.alpha.res.WaitSync(ctx))
	}
	stop.Store(true)
	writers := <-done
	require.NoError(t, p.alpha.res.WaitSync(ctx))
	verifyAll(t, p.alpha.vol, writers)
	p.stop(t)
	p.requireSame(t)
}

// waitFor waits for a state of the first volume.
func waitFor(t testing.TB, r *Resource, cond func(protocol.State) bool) {
	t.Helper()
	require.NoError(t, r.wait(testContext(t), func(s *core.Snapshot) (bool, error) { return cond(s.Volumes[0].State), nil }))
}

func TestLargeRequests(t *testing.T) {
	eachNetwork(t, func(t *testing.T, tcp bool) {
		p := newPair(t, pairOptions{tcp: tcp})
		p.start(t)
		ctx := testContext(t)
		data := randomBytes(9<<20+1536, 5)
		n, err := p.alpha.vol.WriteAt(data, 512)
		require.NoError(t, err)
		require.Equal(t, len(data), n)
		got := make([]byte, len(data))
		n, err = p.alpha.vol.ReadAt(got, 512)
		require.NoError(t, err)
		require.Equal(t, len(data), n)
		require.True(t, string(data) == string(got))
		require.NoError(t, p.alpha.vol.WriteZeroes(ctx, 1<<20, 11<<20, MayUnmap()))
		require.NoError(t, p.alpha.vol.Discard(ctx, 512, 20<<20))
		p.stop(t)
		p.requireSame(t)
		require.Equal(t, make([]byte, 20<<20), p.beta.content(21 << 20)[512:512+20<<20])
	})
}

func TestRequestErrors(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	vol, size := p.alpha.vol, p.alpha.vol.Size()
	buf := make([]byte, 4096)

	n, err := vol.ReadAt(buf, size-1024)
	require.Equal(t, 1024, n)
	require.Equal(t, io.EOF, err)
	n, err = vol.ReadAt(buf, size)
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
	n, err = vol.ReadAt(nil, 1)
	require.Zero(t, n)
	require.NoError(t, err)

	for _, tc := range []struct {
		name string
		do   func() error
		want error
	}{
		{"read unaligned", func() error { _, err := vol.ReadAt(buf, 1); return err }, ErrAlignment},
		{"read short", func() error { _, err := vol.ReadAt(buf[:100], 0); return err }, ErrAlignment},
		{"read negative", func() error { _, err := vol.ReadAt(buf, -512); return err }, ErrRange},
		{"write unaligned", func() error { _, err := vol.WriteAt(buf, 100); return err }, ErrAlignment},
		{"write beyond", func() error { _, err := vol.WriteAt(buf, size-512); return err }, ErrRange},
		{"write overflow", func() error { _, err := vol.WriteAt(buf, 1<<63-512); return err }, ErrRange},
		{"discard beyond", func() error { return vol.Discard(ctx, 0, size+512) }, ErrRange},
		{"zeroes negative", func() error { return vol.WriteZeroes(ctx, 0, -512) }, ErrRange},
		{"secondary writes", func() error { _, err := p.beta.vol.WriteAt(buf, 0); return err }, ErrNotPrimary},
		{"secondary reads", func() error { _, err := p.beta.vol.ReadAt(buf, 0); return err }, ErrNotPrimary},
		{"secondary flushes", func() error { return p.beta.vol.Flush(ctx) }, ErrNotPrimary},
		{"connect twice", func() error { return p.alpha.res.Connect(ctx) }, ErrConnected},
		{"attach twice", func() error { return p.alpha.vol.Attach(ctx, Disk{}) }, ErrAttached},
		{"second primary", func() error { return p.beta.res.Promote(ctx) }, ErrRefused},
		{"metadata exists", func() error { return CreateMetadata(Disk{Device: p.alpha.disk}, metadata.CreateOptions{}) }, ErrMetadataExists},
	} {
		err := tc.do()
		require.ErrorIs(t, err, tc.want, tc.name)
		require.ErrorContains(t, err, "replica: ", tc.name)
	}
	require.Nil(t, p.alpha.res.Volume(7))
	require.Len(t, p.alpha.res.Volumes(), 1)
	p.stop(t)
	_, err = vol.WriteAt(buf, 0)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, p.alpha.res.Promote(ctx), ErrClosed)
	require.ErrorIs(t, p.alpha.res.WaitConnected(ctx), ErrClosed)
	require.ErrorIs(t, p.alpha.res.Status().Failed, ErrClosed)
}

// A request that waits for admission is withdrawn with its context; one without
// is served when I/O is resumed.
func TestSuspendedRequests(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	require.NoError(t, p.alpha.res.SuspendIO(ctx))
	require.True(t, p.alpha.res.Status().Suspended)
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err := p.alpha.vol.WriteAtContext(short, make([]byte, 512), 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	gone, cancelGone := context.WithCancelCause(ctx)
	because := fmt.Errorf("because")
	cancelGone(because)
	require.ErrorIs(t, p.alpha.vol.Flush(gone), because)

	result := make(chan error, 1)
	go func() {
		_, err := p.alpha.vol.WriteAt(blockdev.AlignedBuffer(3<<20), 0)
		result <- err
	}()
	require.NoError(t, p.alpha.res.ResumeIO(ctx))
	require.NoError(t, <-result)
	p.stop(t)
	p.requireSame(t)
}
