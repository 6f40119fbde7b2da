// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"flag"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// apiCall is one use of a method of Resource or Volume, with what chance decides. It may
// fail as it likes; it must come back when its context ends or the resource is closed.
type apiCall func(ctx context.Context, n *node, rng *rand.Rand)

// apiCalls has a call for every exported method.
var apiCalls = map[string]apiCall{
	"Resource.Connect": func(ctx context.Context, n *node, rng *rand.Rand) {
		opts := []ConnectOption{nil, DiscardMyData(), Tentative()}
		if k := rng.IntN(12); k == 1 || k == 2 {
			_ = n.res.Connect(ctx, opts[k])
			return
		}
		_ = n.res.Connect(ctx)
	},
	"Resource.Disconnect": func(ctx context.Context, n *node, rng *rand.Rand) {
		if rng.IntN(3) == 0 {
			_ = n.res.Disconnect(ctx, Force())
			return
		}
		_ = n.res.Disconnect(ctx)
	},
	"Resource.Promote": func(ctx context.Context, n *node, rng *rand.Rand) {
		if rng.IntN(4) == 0 {
			_ = n.res.Promote(ctx, Force())
			return
		}
		_ = n.res.Promote(ctx)
	},
	"Resource.Demote":    func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.Demote(ctx) },
	"Resource.SuspendIO": func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.SuspendIO(ctx) },
	"Resource.ResumeIO":  func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.ResumeIO(ctx) },
	"Resource.FailIO":    func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.FailIO(ctx) },
	"Resource.Events": func(ctx context.Context, n *node, rng *rand.Rand) {
		left := rng.IntN(20)
		for range n.res.Events(ctx) {
			if left--; left < 0 {
				return
			}
		}
	},
	"Resource.ChangePeer": func(ctx context.Context, n *node, rng *rand.Rand) {
		_ = n.res.ChangePeer(ctx, func(o *PeerConfig) {
			o.Protocol = []protocol.ReplicationProtocol{protocol.ProtocolA, protocol.ProtocolB, protocol.ProtocolC}[rng.IntN(3)]
			o.MaxEpochSize = 1 + rng.IntN(100)
		})
	},
	"Resource.Name":          func(_ context.Context, n *node, _ *rand.Rand) { _ = n.res.Name() },
	"Resource.Volume":        func(_ context.Context, n *node, _ *rand.Rand) { _ = n.res.Volume(0) },
	"Resource.Volumes":       func(_ context.Context, n *node, _ *rand.Rand) { _ = n.res.Volumes() },
	"Resource.Status":        func(_ context.Context, n *node, _ *rand.Rand) { _ = n.res.Status() },
	"Resource.Close":         func(_ context.Context, n *node, _ *rand.Rand) { _ = n.res.Close() },
	"Resource.Shutdown":      func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.Shutdown(ctx) },
	"Resource.WaitConnected": func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.WaitConnected(ctx) },
	"Resource.WaitSync":      func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.res.WaitSync(ctx) },
	"Resource.StartupContext": func(ctx context.Context, n *node, _ *rand.Rand) {
		ctx, cancel := n.res.StartupContext(ctx, WaitTimeouts{WFC: time.Second, Degraded: time.Second, Outdated: time.Second})
		defer cancel()
		_ = n.res.WaitConnected(ctx)
	},
	"Volume.Invalidate":       func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.Invalidate(ctx) },
	"Volume.InvalidateRemote": func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.InvalidateRemote(ctx) },
	"Volume.NewCurrentUUID": func(ctx context.Context, n *node, rng *rand.Rand) {
		if rng.IntN(2) == 0 {
			_ = n.vol.NewCurrentUUID(ctx, ClearBitmap())
			return
		}
		_ = n.vol.NewCurrentUUID(ctx)
	},
	"Volume.Outdate":    func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.Outdate(ctx) },
	"Volume.PauseSync":  func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.PauseSync(ctx) },
	"Volume.ResumeSync": func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.ResumeSync(ctx) },
	"Volume.Attach":     func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.Attach(ctx, Disk{}) },
	"Volume.Detach": func(ctx context.Context, n *node, rng *rand.Rand) {
		if rng.IntN(3) == 0 {
			_ = n.vol.Detach(ctx, Force())
			return
		}
		_ = n.vol.Detach(ctx)
	},
	"Volume.Change": func(ctx context.Context, n *node, rng *rand.Rand) {
		_ = n.vol.Change(ctx, func(o *VolumeConfig) { o.ALExtents, o.NoDiskFlushes = 67+rng.IntN(100), rng.IntN(2) == 0 })
	},
	"Volume.Resize": func(ctx context.Context, n *node, rng *rand.Rand) {
		opts := []ResizeOption{AssumeClean(), AssumePeerHasSpace()}
		_ = n.vol.Resize(ctx, int64(rng.IntN(2))*(apiDiskBytes/2), opts[rng.IntN(2)])
	},
	"Volume.Verify": func(ctx context.Context, n *node, rng *rand.Rand) {
		opts := []VerifyOption{VerifyFrom(65536), VerifyTo(65536), VerifyAndRepair()}
		_, _ = n.vol.Verify(ctx, opts[rng.IntN(3)])
	},
	"Volume.Repair":   func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.Repair(ctx) },
	"Volume.ID":       func(_ context.Context, n *node, _ *rand.Rand) { _ = n.vol.ID() },
	"Volume.Resource": func(_ context.Context, n *node, _ *rand.Rand) { _ = n.vol.Resource() },
	"Volume.Size":     func(_ context.Context, n *node, _ *rand.Rand) { _ = n.vol.Size() },
	"Volume.ReadAt": func(_ context.Context, n *node, rng *rand.Rand) {
		_, _ = n.vol.ReadAt(make([]byte, 512<<rng.IntN(8)), rng.Int64N(64)*4096)
	},
	"Volume.WriteAt": func(_ context.Context, n *node, rng *rand.Rand) {
		_, _ = n.vol.WriteAt(make([]byte, 512<<rng.IntN(8)), rng.Int64N(64)*4096)
	},
	"Volume.ReadAtContext": func(ctx context.Context, n *node, rng *rand.Rand) {
		_, _ = n.vol.ReadAtContext(ctx, make([]byte, 512<<rng.IntN(8)), rng.Int64N(64)*4096)
	},
	"Volume.WriteAtContext": func(ctx context.Context, n *node, rng *rand.Rand) {
		_, _ = n.vol.WriteAtContext(ctx, make([]byte, 512<<rng.IntN(8)), rng.Int64N(64)*4096)
	},
	"Volume.WriteFUA": func(ctx context.Context, n *node, rng *rand.Rand) {
		_, _ = n.vol.WriteFUA(ctx, make([]byte, 4096), rng.Int64N(64)*4096)
	},
	"Volume.Flush":   func(ctx context.Context, n *node, _ *rand.Rand) { _ = n.vol.Flush(ctx) },
	"Volume.Discard": func(ctx context.Context, n *node, rng *rand.Rand) { _ = n.vol.Discard(ctx, rng.Int64N(64)*4096, 65536) },
	"Volume.WriteZeroes": func(ctx context.Context, n *node, rng *rand.Rand) {
		_ = n.vol.WriteZeroes(ctx, rng.Int64N(64)*4096, 65536, MayUnmap())
	},
}

const apiDiskBytes = 2 << 20

// apiMethods are the exported methods as they are.
func apiMethods() (names []string) {
	for _, t := range []reflect.Type{reflect.TypeFor[*Resource](), reflect.TypeFor[*Volume]()} {
		for i := range t.NumMethod() {
			names = append(names, t.Elem().Name()+"."+t.Method(i).Name)
		}
	}
	return names
}

var apiRuns = flag.Uint64("api.runs", 0, "number of runs of TestAPIConcurrently for each method")

// TestAPICovered: a new method needs a call in apiCalls.
func TestAPICovered(t *testing.T) {
	var have []string
	for name := range apiCalls {
		have = append(have, name)
	}
	require.ElementsMatch(t, apiMethods(), have)
}

// TestAPIConcurrently runs every method on both nodes, three at a time, beside writers,
// any other method, a network that breaks and heals, and contexts that end at any
// moment; then both nodes are closed at some moment. All of it is in virtual time: a
// call that never comes back, or a goroutine that stays, is a deadlock of the bubble.
func TestAPIConcurrently(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() || raceEnabled {
		seeds = 1
	}
	if *apiRuns > 0 {
		seeds = *apiRuns
	}
	methods := apiMethods()
	for i, name := range methods {
		for seed := range seeds {
			seed = seed*uint64(len(methods)) + uint64(i)
			synctest.Test(t, func(t *testing.T) { callConcurrently(t, name, methods, seed) })
			if t.Failed() {
				t.Fatalf("%s, seed %d", name, seed)
			}
		}
	}
}

func callConcurrently(t *testing.T, name string, methods []string, seed uint64) {
	p := newPair(t, pairOptions{size: apiDiskBytes, config: func(_ string, cfg *Config) {
		cfg.Volumes[0].Resync = ResyncConfig{PlanAhead: -1, Rate: 1 << 20}
		cfg.Peers[0].VerifyAlg = "crc32c"
	}})
	p.alpha.mayFail, p.beta.mayFail = true, true
	p.start(t)
	over, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(k uint64, step func(rng *rand.Rand)) {
		rng := rand.New(rand.NewPCG(seed, k))
		wg.Go(func() {
			for over.Err() == nil {
				step(rng)
				pause(over, time.Duration(1+rng.Int64N(int64(50*time.Millisecond))))
			}
		})
	}
	use := func(method string, n *node, rng *rand.Rand) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.Int64N(int64(time.Second)>>rng.IntN(12))))
		defer cancel()
		apiCalls[method](ctx, n, rng)
	}
	for i, n := range []*node{p.alpha, p.beta} {
		for k := range uint64(3) {
			run(uint64(i)*8+k, func(rng *rand.Rand) { use(name, n, rng) })
		}
		run(uint64(i)*8+3, func(rng *rand.Rand) { // whatever else there is, but the end
			if m := methods[rng.IntN(len(methods))]; m != "Resource.Close" && m != "Resource.Shutdown" {
				use(m, n, rng)
			}
		})
		run(uint64(i)*8+4, func(rng *rand.Rand) { use("Volume.WriteAt", n, rng) })
		run(uint64(i)*8+5, func(rng *rand.Rand) { use("Resource.Connect", n, rng) })
	}
	run(16, func(rng *rand.Rand) {
		if rng.IntN(8) == 0 {
			p.net.Cut("alpha", "beta")
			return
		}
		p.net.Heal("alpha", "beta")
	})
	rng := rand.New(rand.NewPCG(seed, 17))
	pause(context.Background(), time.Duration(rng.Int64N(int64(3*time.Second))))
	for _, n := range []*node{p.alpha, p.beta} {
		require.NotErrorIs(t, n.res.Status().Failed, ErrInternal, name)
	}
	for _, n := range []*node{p.alpha, p.beta} {
		wg.Go(func() {
			began := time.Now()
			err := n.res.Close()
			if took := time.Since(began); took > DefaultShutdownTimeout+2*forcedTimeout {
				t.Errorf("%s: Close took %v: %v", name, took, err)
			}
		})
		pause(context.Background(), time.Duration(rng.Int64N(int64(time.Second))))
	}
	end()
	wg.Wait()
	for _, n := range []*node{p.alpha, p.beta} {
		require.NotErrorIs(t, n.res.Status().Failed, ErrInternal, name)
	}
}

// pause lets virtual time pass.
func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}
