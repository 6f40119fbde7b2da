// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// stopping is a connected pair with disk-timeout, whose disks can be told to stop.
type stopping struct {
	*pair
	t             *testing.T
	ctx           context.Context
	alphas, betas *blockdev.Faulty
}

func newStopping(t *testing.T, change func(name string, cfg *Config)) *stopping {
	const size = 8 << 20
	s := &stopping{t: t, ctx: context.Background(),
		alphas: blockdev.NewFaulty(blockdev.NewMemory(size)), betas: blockdev.NewFaulty(blockdev.NewMemory(size))}
	s.pair = newPair(t, pairOptions{size: size,
		disks: func(name string) blockdev.Device {
			return map[string]blockdev.Device{"alpha": s.alphas, "beta": s.betas}[name]
		},
		config: func(name string, cfg *Config) {
			cfg.Volumes[0].DiskTimeout = 2 * time.Second
			if change != nil {
				change(name, cfg)
			}
		}})
	s.start(t)
	return s
}

func (s *stopping) state(n *node) VolumeStatus { v, _ := n.res.Status().Volume(0); return v }

// waits waits for a disk state of a node.
func (s *stopping) waits(n *node, d protocol.DiskState) {
	s.t.Helper()
	for range 600 {
		if s.state(n).State.Disk == d {
			return
		}
		time.Sleep(10 * time.Millisecond) // of the bubble's time
	}
	s.t.Fatalf("%s is %v", n.name, s.state(n).State)
}

// again attaches the disk when it has answered everything, and not before.
func (s *stopping) again(n *node, disk *blockdev.Faulty) {
	s.t.Helper()
	require.NotZero(s.t, s.state(n).Hung)
	require.ErrorIs(s.t, n.vol.Attach(s.ctx, Disk{}), ErrHung)
	disk.Heal()
	synctest.Wait()
	require.Zero(s.t, s.state(n).Hung)
	require.NoError(s.t, n.vol.Attach(s.ctx, Disk{}))
	require.NoError(s.t, n.res.WaitSync(s.ctx))
	s.waits(n, protocol.UpToDate)
	s.requireSame(s.t)
}

// TestDiskTimeoutWrite: writes on a disk that has stopped complete over the peer. The
// application's buffers are its own again: what it puts there reaches no disk.
func TestDiskTimeoutWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, func(_ string, cfg *Config) { cfg.Volumes[0].QueueDepth = 2 })
		s.alphas.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Off: 1 << 20, Len: 1 << 20, Hang: true})
		reached := 0
		s.alphas.Observe(func(r blockdev.Request) {
			if r.Kind == blockdev.OpWrite && r.Off >= 1<<20 && r.Off < 2<<20 {
				reached++
			}
		})
		bufs := make([][]byte, 8)
		var wg sync.WaitGroup
		began := time.Now()
		for i := range bufs {
			bufs[i] = bytes.Repeat([]byte{byte(i + 1)}, 4096)
			wg.Go(func() {
				_, err := s.alpha.vol.WriteAt(bufs[i], 1<<20+int64(i)*4096)
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 2*time.Second, time.Since(began))
		for _, b := range bufs {
			copy(b, bytes.Repeat([]byte{0xff}, 4096))
		}
		s.waits(s.alpha, protocol.Diskless)
		got := make([]byte, 4096)
		_, err := s.alpha.vol.ReadAt(got, 1<<20)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{1}, 4096), got)
		s.alphas.Heal()
		synctest.Wait()
		s.alphas.Observe(nil)
		require.Equal(t, 2, reached, "what had not reached the disk does not do so later")
		late := make([]byte, 8*4096)
		_, err = s.alphas.ReadAt(late, 1<<20)
		require.NoError(t, err)
		require.NotContains(t, late, byte(0xff))
		require.NoError(t, s.alpha.vol.Attach(s.ctx, Disk{}))
		require.NoError(t, s.alpha.res.WaitSync(s.ctx))
		s.requireSame(t)
	})
}

// TestDiskTimeoutRead: the peer serves a read, and what the disk delivers in the end does
// not reach the application's buffer.
func TestDiskTimeoutRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, nil)
		_, err := s.alpha.vol.WriteAt(bytes.Repeat([]byte{1}, 4096), 4096)
		require.NoError(t, err)
		s.alphas.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpRead}, Hang: true})
		buf := make([]byte, 4096)
		_, err = s.alpha.vol.ReadAt(buf, 4096)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{1}, 4096), buf)
		copy(buf, bytes.Repeat([]byte{2}, 4096))
		s.again(s.alpha, s.alphas)
		require.Equal(t, bytes.Repeat([]byte{2}, 4096), buf)
	})
}

// TestDiskTimeoutSecondary: the Primary's writes go on although the Secondary's disk has
// swallowed all the memory that the Secondary has for them; and the connection stays.
func TestDiskTimeoutSecondary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, func(_ string, cfg *Config) { cfg.Peers[0].MaxBuffers = 32 })
		s.betas.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Hang: true})
		events := s.alpha.res.Events(s.ctx)
		data := randomBytes(6<<20, 1)
		_, err := s.alpha.vol.WriteAt(data, 0)
		require.NoError(t, err)
		s.waits(s.beta, protocol.Diskless)
		synctest.Wait() // until the Primary has heard of it
		require.Equal(t, protocol.Connected, s.state(s.alpha).State.Conn)
		require.Equal(t, protocol.Diskless, s.state(s.alpha).State.PeerDisk)
		s.again(s.beta, s.betas)
		require.NoError(t, s.alpha.res.Close())
		for e := range events {
			require.False(t, e.Kind == EventState && e.New.Conn < protocol.Connected && e.New.Conn > protocol.Disconnecting && e.New.Conn != protocol.Unconnected,
				"%s", e)
		}
	})
}

// TestDiskTimeoutEvent: what happened is told, in DRBD's words where it has some.
func TestDiskTimeoutEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, func(_ string, cfg *Config) { cfg.Volumes[0].OnIOError = PassOn })
		events := s.alpha.res.Events(s.ctx)
		s.alphas.Inject(blockdev.Fault{Hang: true})
		require.NoError(t, s.alpha.vol.Flush(s.ctx))
		s.waits(s.alpha, protocol.Diskless)
		for e := range events {
			if e.Kind == EventIOError {
				require.Contains(t, e.Text, "disk-timeout")
				require.Contains(t, e.Text, "a flush has taken 2s")
				break
			}
		}
		s.again(s.alpha, s.alphas)
	})
}

// TestDiskTimeoutChange: the option changes while the volume is in use.
func TestDiskTimeoutChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, func(_ string, cfg *Config) { cfg.Volumes[0].DiskTimeout = 0 })
		require.NoError(t, s.alpha.vol.Change(s.ctx, func(v *VolumeConfig) { v.DiskTimeout = 500 * time.Millisecond }))
		s.alphas.Inject(blockdev.Fault{Hang: true})
		began := time.Now()
		_, err := s.alpha.vol.WriteAt(make([]byte, 4096), 0)
		require.NoError(t, err)
		require.Equal(t, 500*time.Millisecond, time.Since(began))
		err = s.alpha.vol.Change(s.ctx, func(v *VolumeConfig) { v.DiskTimeout = time.Millisecond })
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "DiskTimeout")
		s.waits(s.alpha, protocol.Diskless)
		s.again(s.alpha, s.alphas)
	})
}

// TestDiskTimeoutOtherDisk: a disk that hangs does not keep another from taking its place.
func TestDiskTimeoutOtherDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, nil)
		_, err := s.alpha.vol.WriteAt(randomBytes(1<<20, 3), 0)
		require.NoError(t, err)
		s.alphas.Inject(blockdev.Fault{Hang: true})
		_, err = s.alpha.vol.WriteAt(make([]byte, 4096), 0)
		require.NoError(t, err)
		s.waits(s.alpha, protocol.Diskless)
		spare := blockdev.NewMemory(8 << 20)
		require.NoError(t, CreateMetadata(Disk{Device: spare}, metadata.CreateOptions{}))
		require.NoError(t, s.alpha.vol.Attach(s.ctx, Disk{Device: spare}))
		require.NoError(t, s.alpha.res.WaitSync(s.ctx))
		require.NotZero(t, s.state(s.alpha).Hung, "the old one still hangs")
		s.waits(s.alpha, protocol.UpToDate)
		s.alphas.Heal()
		synctest.Wait()
		require.Zero(t, s.state(s.alpha).Hung)
		s.alpha.disk = spare
		s.requireSame(t)
	})
}

// TestDiskTimeoutClose: a node whose disk hangs closes; the device is in use until it answers.
func TestDiskTimeoutClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, nil)
		s.alpha.mayFail = true
		require.NoError(t, s.alpha.res.Disconnect(s.ctx))
		s.alphas.Inject(blockdev.Fault{Hang: true})
		done := make(chan error, 1)
		go func() { _, err := s.alpha.vol.WriteAt(make([]byte, 4096), 0); done <- err }()
		synctest.Wait()
		began := time.Now()
		require.ErrorIs(t, s.alpha.res.Close(), ErrHung)
		require.LessOrEqual(t, time.Since(began), 2*time.Second+forcedTimeout)
		require.Error(t, <-done)
		s.alphas.Heal()
	})
}

// TestDiskTimeoutForcedDetach: without a timeout, an administrator ends the wait of a
// Secondary's disk; its memory does not count any more.
func TestDiskTimeoutForcedDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStopping(t, func(_ string, cfg *Config) { cfg.Volumes[0].DiskTimeout = 0 })
		s.betas.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Hang: true})
		done := make(chan error, 1)
		go func() { _, err := s.alpha.vol.WriteAt(randomBytes(2<<20, 1), 0); done <- err }()
		synctest.Wait()
		require.NoError(t, s.beta.vol.Detach(s.ctx, Force()))
		require.NoError(t, <-done)
		s.again(s.beta, s.betas)
	})
}

// TestMaxBuffers: a node whose disk is slow keeps no more of the peer's data in memory than
// max-buffers says, and at least 2 MiB; the peer waits (spec: behaviour 10.1).
func TestMaxBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pages := range []int{32, 1024} {
			s := newStopping(t, func(_ string, cfg *Config) {
				cfg.Volumes[0].DiskTimeout = 0
				cfg.Peers[0].MaxBuffers, cfg.Peers[0].KoCount = pages, -1
			})
			time.Sleep(time.Second) // its metadata is written by then
			remove := s.betas.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Len: 7 << 20, Hang: true})
			done := make(chan error, 1)
			go func() { _, err := s.alpha.vol.WriteAt(randomBytes(7<<20, 1), 0); done <- err }()
			time.Sleep(5 * time.Second)
			bound := max(int64(pages)*4096, minBufferBytes)
			received := s.state(s.beta).Received // none of it can leave the memory
			require.LessOrEqual(t, received, bound)
			require.Greater(t, received, bound/2, "it is used")
			remove()
			require.NoError(t, <-done)
			s.stop(t)
			s.requireSame(t)
		}
	})
}
