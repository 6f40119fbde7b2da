// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// testFencer answers with a result, when it is told to.
type testFencer struct {
	mu       sync.Mutex
	result   FenceResult
	err      error
	takes    time.Duration
	hangs    bool // and does not care about its context
	fenced   []HandlerCall
	unfenced []HandlerCall
}

func (f *testFencer) FencePeer(_ context.Context, call HandlerCall) (FenceResult, error) {
	f.mu.Lock()
	f.fenced = append(f.fenced, call)
	takes, hangs, res, err := f.takes, f.hangs, f.result, f.err
	f.mu.Unlock()
	time.Sleep(takes) // of the bubble's clock
	if hangs {
		time.Sleep(time.Hour)
	}
	return res, err
}

func (f *testFencer) UnfencePeer(_ context.Context, call HandlerCall) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unfenced = append(f.unfenced, call)
	return nil
}

// A command whose caller does not wait any longer begins nothing more: a node that was not
// promoted in time is not promoted later, behind its cluster manager's back.
func TestPromoteGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFencer{result: PeerOutdated, takes: 5 * time.Second}
		p := newPair(t, pairOptions{config: func(_ string, cfg *Config) {
			cfg.Volumes[0].Fencing = ResourceOnly
			cfg.Fencer = f
		}})
		p.connect(t)
		p.net.Cut("alpha", "beta")
		waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.beta.res.Promote(ctx), context.DeadlineExceeded)
		time.Sleep(time.Minute)
		require.Equal(t, protocol.Secondary, p.beta.res.Status().Volumes[0].State.Role)
		require.Len(t, f.fenced, 1)
		require.NoError(t, p.beta.res.Promote(testContext(t)))
		require.Equal(t, protocol.Primary, p.beta.res.Status().Volumes[0].State.Role)
	})
}

// A Primary under resource-and-stonith freezes until its peer is fenced.
func TestStonithFreezes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFencer{result: PeerOutdated, takes: 5 * time.Second}
		p := newPair(t, pairOptions{config: func(_ string, cfg *Config) {
			cfg.Volumes[0].Fencing = ResourceAndStonith
			cfg.Fencer = f
		}})
		p.start(t)
		p.net.Cut("alpha", "beta")
		waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.SuspFencing })
		require.Equal(t, SuspendedFencing, p.alpha.res.Status().SuspendedBy)
		require.Equal(t, "fencing", p.alpha.res.Status().SuspendedBy.String())
		require.Contains(t, p.alpha.res.Status().String(), " s-----")
		began := time.Now()
		_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(began), 4*time.Second)
		require.Equal(t, protocol.Outdated, p.alpha.res.Status().Volumes[0].State.PeerDisk)
		p.net.Heal("alpha", "beta")
		require.NoError(t, p.alpha.res.WaitSync(testContext(t)))
		require.NoError(t, p.beta.res.WaitSync(testContext(t)))
		synctest.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		require.Len(t, f.fenced, 1)
		require.Equal(t, HandlerCall{Name: "fence-peer", Resource: "r0", Peer: "beta", WholeResource: true,
			Volumes: []HandlerVolume{{ID: 0}}, Remote: f.fenced[0].Remote}, f.fenced[0])
		require.NotEmpty(t, f.fenced[0].Remote)
		require.Len(t, f.unfenced, 1)
		p.stop(t)
		p.requireSame(t)
	})
}

// A fencer that hangs, or fails, leaves I/O frozen; the administrator goes on.
func TestFencerBroken(t *testing.T) {
	for name, f := range map[string]*testFencer{"hangs": {hangs: true}, "fails": {err: errors.New("no power switch")}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pairOptions{config: func(_ string, cfg *Config) {
					cfg.Volumes[0].Fencing = ResourceAndStonith
					cfg.Fencer, cfg.HandlerTimeout = f, 10*time.Second
				}})
				p.start(t)
				p.net.Cut("alpha", "beta")
				waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.SuspFencing })
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := p.alpha.vol.WriteAtContext(ctx, make([]byte, 4096), 0)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				err = p.beta.res.Promote(t.Context())
				require.ErrorIs(t, err, protocol.CodePeerNotOutdated)
				require.Equal(t, 11, ExitCode(err))
				require.NoError(t, p.alpha.res.ResumeIO(t.Context()))
				_, err = p.alpha.vol.WriteAt(make([]byte, 4096), 0)
				require.NoError(t, err)
				p.stop(t)
				time.Sleep(2 * time.Hour) // of the bubble's clock: what hung ends
			})
		})
	}
}

// Leaving gracefully outdates the Secondary, whoever leaves, and it stays so.
func TestGracefulOutdates(t *testing.T) {
	for _, who := range []string{"alpha", "beta"} {
		t.Run(who, func(t *testing.T) {
			f := &testFencer{}
			p := newPair(t, pairOptions{config: func(_ string, cfg *Config) {
				cfg.Volumes[0].Fencing = ResourceOnly
				cfg.Fencer = f
			}})
			p.start(t)
			ctx := testContext(t)
			n := p.alpha
			if who == "beta" {
				n = p.beta
			}
			require.NoError(t, n.res.Disconnect(ctx))
			waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Disk == protocol.Outdated })
			waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.PeerDisk == protocol.Outdated })
			_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
			require.NoError(t, err)
			require.NoError(t, p.beta.res.Close())
			p.beta.open()
			require.Equal(t, protocol.Outdated, p.beta.res.Status().Volumes[0].State.Disk)
			err = p.beta.res.Promote(ctx)
			require.ErrorIs(t, err, ErrNoUpToDateData)
			require.ErrorContains(t, err, "Need access to UpToDate data")
			require.Equal(t, 17, ExitCode(err))
			require.Empty(t, f.fenced)
			require.NoError(t, p.beta.res.Connect(ctx))
			if who == "alpha" {
				require.NoError(t, p.alpha.res.Connect(ctx))
			}
			require.NoError(t, p.beta.res.WaitSync(ctx))
			require.NoError(t, p.alpha.res.WaitSync(ctx))
			p.stop(t)
			p.requireSame(t)
		})
	}
}

// register is an arbiter: a register that can be set once for each key.
type register struct {
	mu    sync.Mutex
	owner map[string]string
	down  bool
	asked []string
}

type registerUser struct {
	*register
	node string
}

func (u registerUser) Decide(ctx context.Context, q Question) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, fmt.Sprintf("%s %v %s", u.node, q.Promote, q.Key()))
	if u.down {
		return false, errors.New("connection refused")
	}
	if u.owner[q.Key()] == "" {
		u.owner[q.Key()] = u.node
	}
	return u.owner[q.Key()] == u.node, nil
}

func arbitratedPair(t *testing.T, reg *register) *pair {
	reg.owner = map[string]string{}
	p := newPair(t, pairOptions{config: func(name string, cfg *Config) {
		cfg.Arbiter = registerUser{reg, name}
	}})
	p.start(t)
	return p
}

// Both nodes lose each other, and ask: one goes on, the other does not.
func TestArbiter(t *testing.T) {
	for _, first := range []string{"alpha", "beta"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := &register{}
				p := arbitratedPair(t, reg)
				reg.mu.Lock()
				reg.down = first == "beta"
				reg.mu.Unlock()
				p.net.Cut("alpha", "beta")
				waitFor(t, p.alpha.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
				waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Conn == protocol.WFConnection })
				synctest.Wait()
				if first == "alpha" {
					_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0)
					require.NoError(t, err)
					err = p.beta.res.Promote(t.Context())
					require.ErrorIs(t, err, ErrNoQuorum)
					require.NotErrorIs(t, err, ErrArbiterUnreachable)
				} else {
					require.Equal(t, SuspendedQuorum, p.alpha.res.Status().SuspendedBy)
					require.ErrorIs(t, p.beta.res.Promote(t.Context()), ErrArbiterUnreachable)
					reg.mu.Lock()
					reg.down = false
					reg.mu.Unlock()
					require.NoError(t, p.beta.res.Promote(t.Context()))
					time.Sleep(10 * time.Second) // alpha asks again, and is told no
					require.Equal(t, SuspendedQuorum, p.alpha.res.Status().SuspendedBy)
				}
				reg.mu.Lock()
				require.True(t, strings.HasPrefix(reg.asked[0], "alpha false r0/0-"), reg.asked)
				require.True(t, slices.ContainsFunc(reg.asked, func(s string) bool { return strings.HasPrefix(s, "beta true r0/0-") }), reg.asked)
				require.Len(t, reg.owner, 1)
				reg.mu.Unlock()
				require.NoError(t, p.alpha.res.Close())
				require.NoError(t, p.beta.res.Close())
			})
		})
	}
}

// An arbiter needs a peer, and its option fields are checked.
func TestFencingConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"arbiter without a peer": func(cfg *Config) { cfg.Arbiter, cfg.Peers = registerUser{}, nil },
		"stonith with A": func(cfg *Config) {
			cfg.Volumes[0].Fencing, cfg.Peers[0].Protocol = ResourceAndStonith, protocol.A
		},
		"fencing":         func(cfg *Config) { cfg.Volumes[0].Fencing = 3 },
		"no data":         func(cfg *Config) { cfg.OnNoData = 2 },
		"quorum":          func(cfg *Config) { cfg.OnQuorumLost = 2 },
		"suspend limit":   func(cfg *Config) { cfg.SuspendLimit = -1 },
		"handler timeout": func(cfg *Config) { cfg.HandlerTimeout = -1 },
		"arbiter timeout": func(cfg *Config) { cfg.ArbiterTimeout = -1 },
	} {
		cfg := Config{Name: "r0", Volumes: []VolumeConfig{{}}, Peers: []PeerConfig{{}}}
		change(&cfg)
		_, err := Open(t.Context(), cfg)
		require.ErrorIs(t, err, ErrConfig, name)
	}
	for _, s := range []fmt.Stringer{DontCare, ResourceOnly, ResourceAndStonith, NoDataError, NoDataSuspend, QuorumSuspend, QuorumError} {
		require.NotContains(t, s.String(), "(")
	}
}

// TestExitCode: the codes of drbdsetup (spec: behaviour 2.1).
func TestExitCode(t *testing.T) {
	refused := func(code protocol.Code) error {
		return fmt.Errorf("replica: r0: %w", &RefusedError{Doing: "outdate", Code: code})
	}
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{refused(-2), 17}, {refused(-16), 5}, {refused(-4), 16}, {refused(-7), 11}, {refused(-1), 11},
		{ErrNoQuorum, 11}, {ErrWaitTimeout, 5}, {ErrConfig, 10}, {ErrConnected, 10}, {ErrDiskless, 10},
		{context.Canceled, 20}, {ErrClosed, 20},
	} {
		require.Equal(t, tc.want, ExitCode(tc.err), "%v", tc.err)
	}
}
