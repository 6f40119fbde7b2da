// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Close ends in order, and leaves nothing behind, whatever is going on.
func TestCloseInEveryState(t *testing.T) {
	for _, tc := range []struct {
		name  string
		reach func(t *testing.T, p *pair)
	}{
		{"opened", func(*testing.T, *pair) {}},
		{"looking for the peer", func(t *testing.T, p *pair) {
			require.NoError(t, p.alpha.res.Connect(testContext(t)))
		}},
		{"connected", func(t *testing.T, p *pair) { p.connect(t) }},
		{"primary", func(t *testing.T, p *pair) { p.start(t) }},
		{"primary alone", func(t *testing.T, p *pair) {
			p.start(t)
			p.net.Cut("alpha", "beta")
			waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
		}},
		{"disconnected", func(t *testing.T, p *pair) {
			p.start(t)
			require.NoError(t, p.alpha.res.Disconnect(testContext(t)))
		}},
		{"disconnected by force", func(t *testing.T, p *pair) {
			p.start(t)
			require.NoError(t, p.beta.res.Disconnect(testContext(t), Force()))
		}},
		{"diskless", func(t *testing.T, p *pair) {
			p.start(t)
			require.NoError(t, p.alpha.vol.Detach(testContext(t)))
		}},
		{"suspended", func(t *testing.T, p *pair) {
			p.start(t)
			require.NoError(t, p.alpha.res.SuspendIO(testContext(t)))
		}},
		{"peer closed first", func(t *testing.T, p *pair) {
			p.start(t)
			require.NoError(t, p.beta.res.Close())
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			p := newPair(t, pairOptions{})
			tc.reach(t, p)
			ctx := testContext(t)
			require.NoError(t, p.alpha.res.Shutdown(ctx))
			require.NoError(t, p.beta.res.Shutdown(ctx))
			require.NoError(t, ctx.Err(), "it was not done by force")
			require.NoError(t, p.alpha.res.Close(), "again")
		})
	}
}

// Requests in flight, and requests that wait, get an answer when the resource is
// closed under them.
func TestCloseUnderLoad(t *testing.T) {
	for _, suspended := range []bool{false, true} {
		t.Run(map[bool]string{false: "writing", true: "suspended"}[suspended], func(t *testing.T) {
			defer goleak.VerifyNone(t)
			p := newPair(t, pairOptions{})
			p.start(t)
			if suspended {
				require.NoError(t, p.alpha.res.SuspendIO(testContext(t)))
			}
			var wg, begun sync.WaitGroup
			for i := range 8 {
				begun.Add(1)
				wg.Go(func() {
					buf := blockdev.AlignedBuffer(4096)
					begun.Done()
					for {
						if _, err := p.alpha.vol.WriteAt(buf, int64(i)*4096); err != nil {
							if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNotPrimary) {
								t.Errorf("unexpected: %v", err)
							}
							return
						}
					}
				})
			}
			begun.Wait()
			require.NoError(t, p.alpha.res.Close())
			wg.Wait()
			require.NoError(t, p.beta.res.Close())
			if !suspended {
				p.requireSame(t)
			}
		})
	}
}

// A disk that hangs bounds Close: it reports ErrHung, and the request that hangs
// ends when the disk answers.
func TestCloseWithHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := blockdev.NewFaulty(blockdev.NewMemory(testDiskBytes))
		p := newPair(t, pairOptions{disks: func(name string) blockdev.Device {
			if name == "alpha" {
				return disk
			}
			return blockdev.NewMemory(testDiskBytes)
		}})
		p.start(t)
		heal := disk.Inject(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Hang: true})
		result := make(chan error, 1)
		go func() {
			_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
			result <- err
		}()
		disk.WaitHung(1)
		began := time.Now()
		err := p.alpha.res.Close()
		require.ErrorIs(t, err, ErrHung)
		require.Equal(t, DefaultShutdownTimeout+forcedTimeout, time.Since(began))
		select {
		case err := <-result:
			t.Fatalf("the request ended with %v while its buffer was in use", err)
		default:
		}
		heal()
		require.ErrorIs(t, <-result, ErrClosed)
		require.ErrorIs(t, p.alpha.res.Close(), ErrHung, "again")
		p.alpha.mayFail = true
		require.NoError(t, p.beta.res.Close())
	})
}

// A peer that neither reads nor answers is noticed, and holds up a write no longer
// than that takes. When it is back, the nodes catch up.
func TestStalledPeer(t *testing.T) {
	for _, direction := range [][2]string{{"alpha", "beta"}, {"beta", "alpha"}} {
		t.Run(direction[0]+" to "+direction[1], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pairOptions{})
				p.start(t)
				p.net.Path(direction[0], direction[1]).Stall()
				began := time.Now()
				data := randomBytes(3<<20, 9)
				_, err := p.alpha.vol.WriteAt(data, 0)
				require.NoError(t, err)
				require.Less(t, time.Since(began), 12*time.Second, "ping-int and ping-timeout")
				require.False(t, p.alpha.res.Status().Volumes[0].InSync())
				p.net.Heal("alpha", "beta")
				require.NoError(t, p.alpha.res.WaitSync(testContext(t)))
				require.NoError(t, p.beta.res.WaitSync(testContext(t)))
				p.stop(t)
				p.requireSame(t)
			})
		})
	}
}

// A stalled peer does not hold up an orderly end for longer than it is given.
func TestCloseWithStalledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pairOptions{})
		p.start(t)
		p.net.Path("alpha", "beta").Stall()
		result := make(chan error, 1)
		go func() {
			_, err := p.alpha.vol.WriteAt(make([]byte, 1<<20), 0)
			result <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.NoError(t, p.alpha.res.Shutdown(ctx))
		require.LessOrEqual(t, time.Since(began), time.Second+forcedTimeout)
		require.ErrorIs(t, <-result, ErrClosed)
		p.net.Heal("alpha", "beta")
		require.NoError(t, p.beta.res.Close())
	})
}

// A bug in the state machine stops the resource, not the process.
func TestPanicInCore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pairOptions{})
		p.start(t)
		p.alpha.mayFail = true
		require.NoError(t, p.alpha.res.SuspendIO(t.Context()))
		result := make(chan error, 1)
		go func() {
			_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
			result <- err
		}()
		synctest.Wait()
		w := newWork()
		p.alpha.res.visit(w, func(*core.Core) { panic("a bug") })
		w.loop(p.alpha.res)
		require.ErrorIs(t, <-result, ErrInternal)
		require.ErrorContains(t, p.alpha.res.Status().Failed, "a bug")
		require.ErrorIs(t, p.alpha.res.Demote(t.Context()), ErrInternal)
		require.ErrorIs(t, p.alpha.res.Close(), ErrInternal)
		require.NoError(t, p.beta.res.Close())
	})
}

// brokenTransport fails at once, again and again.
type brokenTransport struct {
	mu    sync.Mutex
	tries []time.Time
}

func (b *brokenTransport) Connect(context.Context) (*transport.Pair, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries = append(b.tries, time.Now())
	return nil, errors.New("out of order")
}
func (b *brokenTransport) Close() error   { return nil }
func (b *brokenTransport) String() string { return "broken" }

// A transport that fails at once is tried again with growing pauses.
func TestBrokenTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &brokenTransport{}
		p := newPair(t, pairOptions{config: func(name string, cfg *Config) {
			if name == "alpha" {
				cfg.Peers[0].Transport = broken
			}
		}})
		require.NoError(t, p.alpha.res.Connect(t.Context()))
		time.Sleep(time.Minute) // of the bubble's clock
		require.NoError(t, p.alpha.res.Close())
		broken.mu.Lock()
		defer broken.mu.Unlock()
		for i := 1; i < len(broken.tries); i++ {
			pause := broken.tries[i].Sub(broken.tries[i-1])
			require.Equal(t, min(connectPauseMin<<(i-1), connectPauseMax), pause, i)
		}
		require.Greater(t, len(broken.tries), 8)
	})
}
