// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"sync"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func withVerify(alg string) func(string, *Config) {
	return func(_ string, cfg *Config) { cfg.Peers[0].VerifyAlg = alg }
}

// plant changes blocks behind the mirror.
func (n *node) plant(blocks ...int64) {
	n.t.Helper()
	for _, b := range blocks {
		var x [512]byte
		off := b*4096 + b%8*512
		_, err := n.disk.ReadAt(x[:], off)
		require.NoError(n.t, err)
		x[b%512] ^= 0x40
		_, err = n.disk.WriteAt(x[:], off)
		require.NoError(n.t, err)
	}
}

func TestVerifyReportsAndRepairs(t *testing.T) {
	eachNetwork(t, func(t *testing.T, tcp bool) {
		for _, primary := range []string{"alpha", "none"} {
			p := newPair(t, pairOptions{tcp: tcp, size: 17 << 20, config: withVerify("sha256")})
			p.connect(t)
			ctx := testContext(t)
			if primary == "alpha" {
				require.NoError(t, p.alpha.res.Promote(ctx))
				_, err := p.alpha.vol.WriteAt(randomBytes(1<<20, 3), 4<<20)
				require.NoError(t, err)
			}
			want := []ByteRange{{99 * 4096, 4096}, {1340 * 4096, 8192}, {3980 * 4096, 4096}}
			for _, n := range []*node{p.beta, p.alpha} {
				other := p.alpha
				if n == other {
					other = p.beta
				}
				found, err := n.vol.Verify(ctx)
				require.NoError(t, err)
				require.Empty(t, found.Ranges)
				require.Equal(t, VerifyReport{To: n.vol.Size(), Complete: true}, found)

				good := n.content(n.vol.Size())
				if primary == "alpha" {
					good = p.alpha.content(n.vol.Size())
				}
				p.beta.plant(99, 1340, 1341, 3980)
				if primary == "none" {
					good = n.content(n.vol.Size())
				}
				// The other node may still be about to tell of the end of the first one.
				other.waitVolume(0, "end of the verify", func(st VolumeStatus) bool { return st.State.Conn == protocol.Connected })
				events := other.res.Events(ctx)
				found, err = n.vol.Verify(ctx, VerifyFrom(0))
				require.NoError(t, err)
				require.Equal(t, want, found.Ranges)
				require.EqualValues(t, 4*4096, found.Different)
				var heard []ByteRange
				for ev := range events {
					if ev.Kind == EventOutOfSync {
						heard = append(heard, ByteRange{ev.Off, ev.Size})
					}
					if ev.Kind == EventVerifyDone {
						require.EqualValues(t, 4, ev.Failed)
						break
					}
				}
				require.Equal(t, want, heard)
				st, _ := other.res.Status().Volume(0)
				require.EqualValues(t, 4*4096, st.OutOfSync)
				found, err = n.vol.Verify(ctx, VerifyFrom(1340*4096), VerifyTo(1341*4096), VerifyAndRepair())
				require.NoError(t, err)
				require.Equal(t, want[1].Off, found.From)
				require.EqualValues(t, 4096, found.Different)
				require.NoError(t, other.res.WaitSync(ctx))
				p.requireSame(t)
				require.Equal(t, good, n.content(n.vol.Size()))
				require.NoError(t, n.vol.Repair(ctx), "nothing to do")
			}
			p.stop(t)
		}
	})
}

// TestVerifyWhileWriting: on a real disk queue, under load, nothing false is reported.
func TestVerifyWhileWriting(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, wire := range []protocol.ReplicationProtocol{protocol.A, protocol.C} {
		p := newPair(t, pairOptions{size: 9 << 20, config: func(name string, cfg *Config) {
			cfg.Peers[0].VerifyAlg, cfg.Peers[0].Protocol = "crc32c", wire
			cfg.Volumes[0].Resync = ResyncConfig{PlanAhead: -1, Rate: 64 << 20}
		}})
		p.start(t)
		p.beta.plant(2150)
		ctx, stop := context.WithCancel(testContext(t))
		var wg sync.WaitGroup
		for i := range 4 {
			w := newWriter(t, p.alpha.vol, i, 5) // the last fifth is left alone
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := w.step(context.Background()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for _, n := range []*node{p.alpha, p.beta} {
			found, err := n.vol.Verify(testContext(t))
			require.NoError(t, err)
			require.Equal(t, []ByteRange{{2150 * 4096, 4096}}, found.Ranges)
		}
		stop()
		wg.Wait()
		p.stop(t)
		p.beta.plant(2150)
		p.requireSame(t)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{config: func(_ string, cfg *Config) {
		cfg.Peers[0].VerifyAlg = "xxhash64"
		cfg.Volumes[0].Resync = ResyncConfig{PlanAhead: -1, Rate: 2 << 20}
	}})
	p.start(t)
	ctx, cancel := context.WithCancel(testContext(t))
	events := p.alpha.res.Events(ctx)
	type result struct {
		found VerifyReport
		err   error
	}
	done := make(chan result)
	go func() {
		found, err := p.alpha.vol.Verify(ctx)
		done <- result{found, err}
	}()
	for ev := range events {
		if ev.Kind == EventVerifyStart {
			break
		}
	}
	st, _ := p.alpha.res.Status().Volume(0)
	require.NotNil(t, st.Resync)
	require.Contains(t, p.alpha.res.Status().String(), "verified:")
	_, err := p.beta.vol.Verify(testContext(t))
	require.ErrorIs(t, err, ErrRefused)
	cancel()
	r := <-done
	require.ErrorIs(t, r.err, context.Canceled)
	require.False(t, r.found.Complete)
	require.NoError(t, p.alpha.res.WaitSync(testContext(t)))
	rest, err := p.alpha.vol.Verify(testContext(t), VerifyTo(r.found.To+1<<20))
	require.NoError(t, err)
	require.Equal(t, r.found.To, rest.From, "it goes on where it was stopped")
	_, err = p.alpha.vol.Verify(testContext(t), VerifyFrom(1<<40))
	require.ErrorIs(t, err, ErrRange)
	p.stop(t)
	_, err = p.alpha.vol.Verify(testContext(t))
	require.ErrorIs(t, err, ErrClosed)
}

func TestVerifyAlgorithmsMustAgree(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{config: func(name string, cfg *Config) {
		if name == "alpha" {
			cfg.Peers[0].VerifyAlg = "md5"
		}
	}})
	ctx := testContext(t)
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.beta.res.Connect(ctx))
	require.ErrorIs(t, p.alpha.res.WaitConnected(ctx), ErrIncompatible)
	p.stop(t)
	for field, cfg := range map[string]PeerConfig{
		"verify-alg": {Name: "x", VerifyAlg: "rot13"}, "csums-alg": {Name: "x", CSumsAlg: "crc32c"},
	} {
		_, err := Open(ctx, Config{Name: "r0", Volumes: []VolumeConfig{{}}, Peers: []PeerConfig{cfg}})
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, field)
	}
}

// TestChecksumAndThinResync: what is equal, or zero, does not travel.
func TestChecksumAndThinResync(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, csums := range []bool{true, false} {
		p := newPair(t, pairOptions{size: 16 << 20, config: func(_ string, cfg *Config) {
			cfg.Volumes[0].Resync = ResyncConfig{PlanAhead: -1, Rate: 4 << 30}
			if csums {
				cfg.Peers[0].CSumsAlg = "sha1"
			} else {
				cfg.Volumes[0].Resync.ThinGranularity = 64 << 10
			}
		}})
		p.start(t)
		ctx := testContext(t)
		_, err := p.alpha.vol.WriteAt(randomBytes(1<<20, 1), 1<<20)
		require.NoError(t, err)
		p.beta.plant(3000)
		require.NoError(t, p.beta.vol.Invalidate(ctx))
		require.NoError(t, p.beta.res.WaitSync(ctx))
		require.NoError(t, p.alpha.res.WaitSync(ctx))
		st, _ := p.alpha.res.Status().Volume(0)
		if csums {
			require.LessOrEqual(t, st.Sent, int64(1<<20+64<<10))
		} else {
			require.LessOrEqual(t, st.Sent, int64(2<<20+192<<10))
		}
		p.requireSame(t)
		p.stop(t)
	}
}

// TestVerifyOverBadDisk: what cannot be read counts as different, and costs the disk.
func TestVerifyOverBadDisk(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPair(t, pairOptions{config: withVerify("crc32c"), disks: func(string) blockdev.Device {
		return blockdev.NewFaulty(blockdev.NewMemory(testDiskBytes))
	}})
	p.start(t)
	p.beta.disk.(*blockdev.Faulty).Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpRead}, Off: 8 << 20, Len: 4096})
	_, err := p.alpha.vol.Verify(testContext(t))
	require.Error(t, err)
	st, _ := p.alpha.res.Status().Volume(0)
	require.NotEqual(t, protocol.VerifyS, st.State.Conn)
	p.stop(t)
}
