// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// closing is a pair on its way into an awkward state.
type closing struct {
	t    *testing.T
	p    *pair
	disk *blockdev.Faulty // alpha's

	holder *transporttest.Holder // of what alpha receives
	heal   []func()
}

// short runs a step that may not succeed, for a second of the bubble's time.
func (c *closing) short(step func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	_ = step(ctx)
}

// background begins a step and does not wait.
func (c *closing) background(step func(ctx context.Context) error) {
	go func() { _ = step(context.Background()) }()
	synctest.Wait()
}

// apart lets the Secondary leave; the Primary goes on and writes.
func (c *closing) apart(primary, leaves *node) {
	c.short(func(ctx context.Context) error { return leaves.res.Disconnect(ctx) })
	c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	c.short(func(ctx context.Context) error { return primary.res.ResumeIO(ctx) })
	c.short(func(ctx context.Context) error {
		_, err := primary.vol.WriteAtContext(ctx, make([]byte, 4096), 0)
		return err
	})
}

func (c *closing) fault(f blockdev.Fault) { c.heal = append(c.heal, c.disk.Inject(f)) }

// fill writes more than a link that is congested at 64 KiB takes.
func (c *closing) fill(n *node) {
	c.short(func(ctx context.Context) error {
		for i := range int64(64) {
			if _, err := n.vol.WriteAtContext(ctx, make([]byte, 4096), i*4096); err != nil {
				return err
			}
		}
		return nil
	})
}

// The steps that need protocol A.
const (
	closingAhead  = "Ahead"
	closingBehind = "Behind"
)

type closingStep struct {
	name string
	do   func(c *closing)
}

var closingConns = []closingStep{
	{"StandAlone", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.res.Promote(ctx, Force()) })
	}},
	{"WFConnection", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.res.Promote(ctx, Force()) })
		c.short(func(ctx context.Context) error { return c.p.alpha.res.Connect(ctx) })
	}},
	{"WFReportParams", func(c *closing) {
		c.holder.Hold(protocol.CmdState)
		c.short(func(ctx context.Context) error { return c.p.alpha.res.Connect(ctx) })
		c.short(func(ctx context.Context) error { return c.p.beta.res.Connect(ctx) })
		synctest.Wait()
	}},
	{"WFBitMapS", func(c *closing) {
		c.p.start(c.t)
		c.apart(c.p.alpha, c.p.beta)
		c.holder.Hold(protocol.CmdBitmap, protocol.CmdCompressedBitmap)
		c.short(func(ctx context.Context) error { return c.p.beta.res.Connect(ctx) })
		c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	}},
	{"WFBitMapT", func(c *closing) {
		c.p.connect(c.t)
		c.short(func(ctx context.Context) error { return c.p.beta.res.Promote(ctx, Force()) })
		c.apart(c.p.beta, c.p.alpha)
		c.holder.Hold(protocol.CmdBitmap, protocol.CmdCompressedBitmap)
		c.short(func(ctx context.Context) error { return c.p.alpha.res.Connect(ctx) })
		c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	}},
	{"WFSyncUUID", func(c *closing) {
		c.p.start(c.t)
		c.holder.Hold(protocol.CmdSyncUUID)
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.Invalidate(ctx) })
	}},
	{"Connected", func(c *closing) { c.p.start(c.t) }},
	{"SyncSource", func(c *closing) {
		c.p.start(c.t)
		c.short(func(ctx context.Context) error { return c.p.beta.vol.Invalidate(ctx) })
	}},
	{"PausedSyncS", func(c *closing) {
		c.p.start(c.t)
		c.short(func(ctx context.Context) error { return c.p.beta.vol.Invalidate(ctx) })
		c.short(func(ctx context.Context) error { return c.p.beta.vol.PauseSync(ctx) })
	}},
	{"SyncTarget", func(c *closing) {
		c.p.start(c.t)
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.Invalidate(ctx) })
	}},
	{"PausedSyncT", func(c *closing) {
		c.p.start(c.t)
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.Invalidate(ctx) })
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.PauseSync(ctx) })
	}},
	{"VerifyS", func(c *closing) {
		c.p.start(c.t)
		c.background(func(ctx context.Context) error { _, err := c.p.alpha.vol.Verify(ctx); return err })
		c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	}},
	{"VerifyT", func(c *closing) {
		c.p.start(c.t)
		c.background(func(ctx context.Context) error { _, err := c.p.beta.vol.Verify(ctx); return err })
		c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	}},
	{closingAhead, func(c *closing) {
		c.p.start(c.t)
		c.p.net.Path("alpha", "beta").Stall()
		c.fill(c.p.alpha)
	}},
	{closingBehind, func(c *closing) {
		c.p.connect(c.t)
		c.short(func(ctx context.Context) error { return c.p.beta.res.Promote(ctx, Force()) })
		c.holder.Hold(protocol.CmdSyncUUID)
		c.p.net.Path("beta", "alpha").SetBandwidth(128 << 10)
		c.fill(c.p.beta)
		for range 5 { // what is sent has to arrive
			c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
		}
	}},
	{"stalled", func(c *closing) {
		c.p.start(c.t)
		c.p.net.Path("alpha", "beta").Stall()
		c.p.net.Path("beta", "alpha").Stall()
	}},
	{"leaving a stalled peer", func(c *closing) {
		c.p.start(c.t)
		c.p.net.Path("beta", "alpha").Stall()
		c.background(func(ctx context.Context) error { return c.p.alpha.res.Disconnect(ctx) })
	}},
	{"invalidating, stalled", func(c *closing) { // WFBitMap, WFSyncUUID or StartingSync
		c.p.start(c.t)
		c.p.net.Path("beta", "alpha").Stall()
		c.background(func(ctx context.Context) error { return c.p.alpha.vol.Invalidate(ctx) })
	}},
}

var closingDisks = []closingStep{
	{"as it is", func(*closing) {}},
	{"Diskless", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.Detach(ctx, Force()) })
	}},
	{"Failed", func(c *closing) {
		c.fault(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite, blockdev.OpRead}, Err: errors.New("broken")})
		c.background(func(context.Context) error { _, err := c.p.alpha.vol.WriteAt(make([]byte, 512), 0); return err })
	}},
	{"hung", func(c *closing) {
		c.fault(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite, blockdev.OpFlush}, Hang: true})
		c.background(func(context.Context) error { _, err := c.p.alpha.vol.WriteAt(make([]byte, 512), 0); return err })
	}},
	{"Failed and hung", func(c *closing) {
		c.fault(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite}, Hang: true})
		c.background(func(context.Context) error { _, err := c.p.alpha.vol.WriteAt(make([]byte, 512), 0); return err })
		c.background(func(ctx context.Context) error { return c.p.alpha.vol.Detach(ctx, Force()) })
	}},
	{"Negotiating", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.Detach(ctx) })
		c.holder.Hold(protocol.CmdUUIDs, protocol.CmdState)
		c.background(func(ctx context.Context) error { return c.p.alpha.vol.Attach(ctx, Disk{}) })
	}},
	{"Attaching, hung", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.vol.Detach(ctx) })
		c.fault(blockdev.Fault{Kinds: []blockdev.OpKind{blockdev.OpWrite, blockdev.OpFlush}, Hang: true})
		c.background(func(ctx context.Context) error { return c.p.alpha.vol.Attach(ctx, Disk{}) })
	}},
}

var closingSuspensions = []closingStep{
	{"not suspended", func(*closing) {}},
	{"by the user", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.res.SuspendIO(ctx) })
	}},
	{"alone", func(c *closing) { // no data, fencing or the arbiter, by configuration
		c.p.net.Cut("alpha", "beta")
		c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	}},
	{"by the user, alone", func(c *closing) {
		c.short(func(ctx context.Context) error { return c.p.alpha.res.SuspendIO(ctx) })
		c.p.net.Cut("alpha", "beta")
		c.short(func(ctx context.Context) error { <-ctx.Done(); return nil })
	}},
}

// hangingArbiter never answers, whatever its context says.
type hangingArbiter struct{ until chan struct{} }

func (a hangingArbiter) Decide(context.Context, Question) (bool, error) {
	<-a.until
	return false, errors.New("too late")
}

// hangingFencer never ends, whatever its context says.
type hangingFencer struct{ until chan struct{} }

func (f hangingFencer) FencePeer(context.Context, HandlerCall) (FenceResult, error) {
	<-f.until
	return 0, nil
}
func (f hangingFencer) UnfencePeer(context.Context, HandlerCall) error { return nil }

// TestCloseReturns: whatever a node is doing, Close ends it in time, and every request
// gets an answer as soon as its buffer is free.
func TestCloseReturns(t *testing.T) {
	seen := map[protocol.ConnState]bool{}
	disks := map[protocol.DiskState]bool{}
	reasons := map[Suspension]bool{}
	for _, mode := range []string{"fencing", "arbiter"} {
		for _, conn := range closingConns {
			for _, disk := range closingDisks {
				for _, susp := range closingSuspensions {
					name := mode + ", " + conn.name + ", " + disk.name + ", " + susp.name
					synctest.Test(t, func(t *testing.T) {
						s := closeOne(t, name, mode, conn, disk, susp)
						st := s.Volumes[0].State
						seen[st.Conn], disks[st.Disk], reasons[s.SuspendedBy] = true, true, true
					})
					if t.Failed() {
						t.Fatalf("in %s", name)
					}
				}
			}
		}
	}
	for _, want := range []protocol.ConnState{protocol.StandAlone, protocol.WFConnection, protocol.WFReportParams, protocol.Connected,
		protocol.WFBitMapS, protocol.WFBitMapT, protocol.WFSyncUUID,
		protocol.SyncSource, protocol.SyncTarget, protocol.PausedSyncS, protocol.PausedSyncT,
		protocol.VerifyS, protocol.VerifyT, protocol.Ahead, protocol.Behind} {
		require.True(t, seen[want], "no case reached %v", want)
	}
	for _, want := range []protocol.DiskState{protocol.Diskless, protocol.Attaching, protocol.Failed, protocol.Negotiating, protocol.Inconsistent, protocol.UpToDate} {
		require.True(t, disks[want], "no case reached %v", want)
	}
	for _, want := range []Suspension{0, SuspendedUser, SuspendedNoData, SuspendedFencing, SuspendedQuorum} {
		require.True(t, reasons[want], "no case was suspended by %v", want)
	}
	t.Log(slices.Sorted(maps.Keys(seen)), slices.Sorted(maps.Keys(disks)), slices.Sorted(maps.Keys(reasons)))
}

// closeOne reaches a state and closes the node in it.
func closeOne(t *testing.T, name, mode string, steps ...closingStep) Status {
	const size = 2 << 20
	until := make(chan struct{})
	policy := ResourceAndStonith
	c := &closing{t: t, disk: blockdev.NewFaulty(blockdev.NewMemory(size))}
	c.p = newPair(t, pairOptions{size: size,
		disks: func(name string) blockdev.Device {
			if name == "alpha" {
				return c.disk
			}
			return blockdev.NewMemory(size)
		},
		config: func(name string, cfg *Config) {
			if name == "alpha" {
				c.holder = transporttest.NewHolder(cfg.Peers[0].Transport)
				cfg.Peers[0].Transport = c.holder
			}
			cfg.Volumes[0].Resync = ResyncConfig{PlanAhead: -1, Rate: 4 << 10}
			cfg.Peers[0].VerifyAlg = "crc32c"
			cfg.OnNoData = NoDataSuspend
			if steps[0].name == closingAhead || steps[0].name == closingBehind {
				cfg.Peers[0].Protocol, cfg.Peers[0].OnCongestion, cfg.Peers[0].CongestionFill = protocol.A, PullAhead, 64<<10
				policy = ResourceOnly // stonith goes without protocol A
			}
			if mode == "arbiter" {
				cfg.Arbiter = hangingArbiter{until}
			} else {
				cfg.Volumes[0].Fencing, cfg.Fencer = policy, hangingFencer{until}
			}
		}})
	c.p.alpha.mayFail, c.p.beta.mayFail = true, true
	for _, s := range steps {
		s.do(c)
	}
	results := make(chan error, 3)
	for _, request := range []func() error{
		func() error { _, err := c.p.alpha.vol.WriteAt(make([]byte, 4096), 4096); return err },
		func() error { _, err := c.p.alpha.vol.ReadAt(make([]byte, 4096), 8192); return err },
		func() error { return c.p.alpha.vol.Flush(context.Background()) },
	} {
		go func() { results <- request() }()
	}
	synctest.Wait()
	status := c.p.alpha.res.Status()
	began := time.Now()
	err := c.p.alpha.res.Close()
	took := time.Since(began)
	require.LessOrEqual(t, took, DefaultShutdownTimeout+2*forcedTimeout, name)
	if err != nil && !errors.Is(err, ErrHung) {
		require.True(t, errors.Is(err, ErrRefused) || errors.Is(err, ErrIO) || errors.Is(err, ErrDiskless), "%s: %v", name, err)
	}
	for _, heal := range c.heal {
		heal()
	}
	for range 3 {
		<-results // a deadlock of the bubble, if one has no answer
	}
	c.holder.Release()
	c.p.net.Heal("alpha", "beta")
	require.NotErrorIs(t, c.p.beta.res.Close(), ErrHung, name)
	close(until)
	return status
}
