// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-blockmirror/blockmirror/protocol"
)

func twoPrimaries(_ string, cfg *Config) { cfg.Peers[0].AllowTwoPrimaries = true }

// both promotes both nodes at the same time.
func (p *pair) both(t testing.TB) {
	t.Helper()
	ctx := testContext(t)
	p.connect(t)
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, n := range []*node{p.alpha, p.beta} {
		wg.Go(func() { errs[i] = n.res.Promote(ctx) })
	}
	wg.Wait()
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
}

// dualOp is one access of one sector.
type dualOp struct {
	sector uint64
	write  bool
	value  uint64 // written or read
}

// dualUser writes and reads a few sectors through one node, and notes what it saw.
// Every sector written holds the number of its write, all over.
func dualUser(ctx context.Context, vol *Volume, client, steps int, sectors int64, began time.Time) ([]porcupine.Operation, error) {
	rng := rand.New(rand.NewPCG(uint64(client), 7))
	var ops []porcupine.Operation
	for i := range steps {
		n := 1 + rng.Int64N(12)
		from := rng.Int64N(sectors - n)
		buf := make([]byte, n*512)
		write := rng.IntN(2) == 0
		value := uint64(client)<<32 | uint64(i+1)
		if write {
			for at := 0; at < len(buf); at += 8 {
				binary.BigEndian.PutUint64(buf[at:], value)
			}
		}
		call := int64(time.Since(began))
		var err error
		if write {
			_, err = vol.WriteAtContext(ctx, buf, from*512)
		} else {
			_, err = vol.ReadAtContext(ctx, buf, from*512)
		}
		if err != nil {
			return nil, err
		}
		end := int64(time.Since(began))
		for s := range n {
			ops = append(ops, porcupine.Operation{ClientId: client, Call: call, Return: end,
				Input: dualOp{sector: uint64(from + s), write: write, value: binary.BigEndian.Uint64(buf[s*512:])}})
		}
	}
	return ops, nil
}

// TestTwoPrimaries lets both nodes write and read the same sectors with several
// goroutines each: one order of all accesses explains what everybody read, and in
// the end the disks are equal.
func TestTwoPrimaries(t *testing.T) {
	eachNetwork(t, func(t *testing.T, tcp bool) {
		defer goleak.VerifyNone(t)
		p := newPair(t, pairOptions{tcp: tcp, config: twoPrimaries})
		p.both(t)
		const sectors, users = 64, 3
		ctx, began := testContext(t), time.Now()
		var mu sync.Mutex
		var wg sync.WaitGroup
		bySector := map[uint64][]porcupine.Operation{}
		for i, n := range []*node{p.alpha, p.beta} {
			for u := range users {
				wg.Go(func() {
					ops, err := dualUser(ctx, n.vol, i*users+u, steps(300), sectors, began)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Errorf("%s: %v", n.name, err)
					}
					for _, o := range ops {
						s := o.Input.(dualOp).sector
						bySector[s] = append(bySector[s], o)
					}
				})
			}
		}
		wg.Wait()
		model := porcupine.Model{
			Init: func() any { return uint64(0) },
			Step: func(state, input, _ any) (bool, any) {
				o := input.(dualOp)
				return o.write || o.value == state.(uint64), o.value
			},
		}
		for s, ops := range bySector {
			require.True(t, porcupine.CheckOperations(model, ops), "sector %d: no order of its %d accesses explains what was read", s, len(ops))
		}
		require.NotZero(t, p.alpha.res.Status().Volumes[0].Conflicts+p.beta.res.Status().Volumes[0].Conflicts, "the writes must meet")
		p.stop(t)
		p.requireSame(t)
	})
}

// TestTwoPrimariesLoseEachOther: that is a split brain, found by both when they meet.
func TestTwoPrimariesLoseEachOther(t *testing.T) {
	p := newPair(t, pairOptions{config: twoPrimaries})
	p.both(t)
	ctx := testContext(t)
	p.net.Cut("alpha", "beta")
	for i, n := range []*node{p.alpha, p.beta} {
		waitFor(t, n.res, func(s protocol.State) bool { return s.Conn < protocol.Connected })
		_, err := n.vol.WriteAt(randomBytes(4096, uint64(i)), int64(i)*8192)
		require.NoError(t, err)
	}
	p.net.Heal("alpha", "beta")
	for _, n := range []*node{p.alpha, p.beta} {
		waitFor(t, n.res, func(s protocol.State) bool { return s.Conn == protocol.StandAlone })
		require.Error(t, n.res.Connect(ctx, DiscardMyData()), "not on a Primary")
	}
	require.NoError(t, p.beta.res.Demote(ctx))
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.beta.res.Connect(ctx, DiscardMyData()))
	waitFor(t, p.beta.res, func(s protocol.State) bool {
		return s.Conn == protocol.Connected && s.Disk == protocol.UpToDate && s.PeerDisk == protocol.UpToDate
	})
	require.NoError(t, p.beta.res.Promote(ctx))
	p.stop(t)
	p.requireSame(t)
	require.Equal(t, randomBytes(4096, 0), p.beta.content(4096), "the survivor's data")
}

// TestForbidTwoPrimaries: allow-two-primaries changes at run time, on both nodes, but
// not while both are Primary.
func TestForbidTwoPrimaries(t *testing.T) {
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	require.ErrorIs(t, p.beta.res.Promote(ctx), protocol.CodeTwoPrimaries)
	allow := func(on bool) func(*PeerConfig) { return func(c *PeerConfig) { c.AllowTwoPrimaries = on } }
	require.NoError(t, p.beta.res.ChangePeer(ctx, allow(true)))
	require.NoError(t, p.beta.res.Promote(ctx))
	require.ErrorIs(t, p.beta.res.ChangePeer(ctx, allow(false)), ErrRefused)
	require.NoError(t, p.alpha.res.Demote(ctx))
	waitFor(t, p.beta.res, func(s protocol.State) bool { return s.Peer == protocol.Secondary })
	require.NoError(t, p.beta.res.ChangePeer(ctx, allow(false)))
	require.ErrorIs(t, p.alpha.res.Promote(ctx), protocol.CodeTwoPrimaries)
	require.ErrorIs(t, p.beta.res.ChangePeer(ctx, func(c *PeerConfig) { c.AllowTwoPrimaries, c.Protocol = true, protocol.B }), ErrConfig)
	p.stop(t)
}
