// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// drbdSpeed is what DRBD has configured if nobody configures anything.
var drbdSpeed = VolumeConfig{ResyncRate: 250, CPlanAhead: 20, CDelay: 10, CFill: 100, CMaxRate: 102400, CMinRate: 250}

// TestControllerSteps follows the calculation of spec: behaviour 6.4 by hand.
func TestControllerSteps(t *testing.T) {
	type step struct{ arrived, asked, want int64 }
	cfg := func(set func(*VolumeConfig)) VolumeConfig {
		c := drbdSpeed
		set(&c)
		return c
	}
	cases := []struct {
		name  string
		cfg   VolumeConfig
		steps []step // what came in, what the step allows, and then what is asked for
	}{
		// 1000 sectors are spread over 20 steps: 50, whole blocks 48. Then 100 are
		// wanted, 48 are under way and 950 planned: each slot loses 44.
		{"start", drbdSpeed, []step{{0, 48, 48}, {0, 0, 0}}},
		// All of it has arrived: 100 - 0 - 950 over 20 is -42, 48 + 8.
		{"arrived", drbdSpeed, []step{{0, 48, 48}, {48, 56, 56}}},
		// 0.2 s worth of data instead of a number of bytes: 48*2 - 0 - 950, -42.
		{"delay target", cfg(func(c *VolumeConfig) { c.CFill, c.CDelay = 0, 2 }), []step{{0, 48, 48}, {48, 56, 56}}},
		{"delay target of 1 s", cfg(func(c *VolumeConfig) { c.CFill = 0 }), []step{{0, 48, 48}, {48, 72, 72}}},
		{"max rate", cfg(func(c *VolumeConfig) { c.ResyncRate, c.CMaxRate = 10000, 1000 }), []step{{0, 200, 200}, {200, 200, 200}}},
		{"fixed", cfg(func(c *VolumeConfig) { c.CPlanAhead = 0 }), []step{{0, 48, 48}, {48, 48, 48}, {48, 48, 48}, {0, 56, 56}, {0, 48, 0}}},
		{"fixed and slow", cfg(func(c *VolumeConfig) { c.CPlanAhead, c.ResyncRate = 0, 20 }), []step{{0, 0, 0}, {0, 8, 8}, {8, 0, 0}, {0, 8, 8}}},
		{"no limit", VolumeConfig{}, []step{{0, unlimited, 1 << 20}, {0, unlimited, 1 << 20}}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var k controller
			for i, s := range tc.steps {
				k.arrived(uint64(s.arrived))
				require.Equal(t, s.asked, k.step(&tc.cfg), "step %d: %+v", i, k)
				k.asked(uint64(s.want))
			}
		})
	}
}

// TestControllerFillsThePipe: with a link of a given speed and delay the amount under
// way comes to c-fill-target, whatever the speed was at the start.
func TestControllerFillsThePipe(t *testing.T) {
	for _, rate := range []uint32{250, 10240, 102400} {
		cfg := VolumeConfig{ResyncRate: rate, CPlanAhead: 20, CFill: 4096, CMaxRate: 409600}
		const perStep = 2000 // sectors that the link carries
		var k controller
		var queue int64
		for range 600 {
			moved := min(queue, perStep)
			queue -= moved
			k.arrived(uint64(moved))
			n := k.step(&cfg)
			k.asked(uint64(n))
			queue += n
		}
		require.InDelta(t, 4096+perStep, queue, 600, "start at %d KiB/s", rate)
	}
}

// TestControllerBounds: whatever comes in, the result is a number of whole blocks
// between nothing and c-max-rate.
func TestControllerBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := VolumeConfig{
			ResyncRate: rapid.Uint32Range(1, maxResyncRate).Draw(t, "rate"),
			CPlanAhead: rapid.Uint32Range(1, maxPlanAhead).Draw(t, "plan"),
			CDelay:     rapid.Uint32Range(1, maxDelay).Draw(t, "delay"),
			CFill:      rapid.Uint32Range(0, maxFill).Draw(t, "fill"),
			CMaxRate:   rapid.Uint32Range(250, maxMaxRate).Draw(t, "max"),
		}
		var k controller
		for range 100 {
			k.arrived(rapid.Uint64Range(0, 1<<24).Draw(t, "in"))
			n := k.step(&cfg)
			if n < 0 || n%8 != 0 || n > int64(cfg.CMaxRate)/5 {
				t.Fatalf("%d sectors with %+v", n, cfg)
			}
			sum := int64(0)
			for _, p := range k.plan {
				sum += p
			}
			if sum != k.total {
				t.Fatalf("the plan sums up to %d, not to %d", sum, k.total)
			}
			k.asked(uint64(n))
		}
	})
}

func TestPerSecond(t *testing.T) {
	for _, tc := range []struct {
		blocks uint64
		d      time.Duration
		want   uint64
	}{
		{256, time.Second, 1024},
		{256, 100 * time.Millisecond, 10240},
		{256, 4 * time.Second, 256},
		{256, 0, 0},
		{0, time.Second, 0},
	} {
		require.Equal(t, tc.want, perSecond(tc.blocks, tc.d), "%+v", tc)
	}
}

// TestAdoptSpeed: a zero that the peer means arrives, what an old version does not
// carry stays, and nothing is taken beyond its range.
func TestAdoptSpeed(t *testing.T) {
	c, err := New(Config{Rand: func() uint64 { return 4 }, Volumes: []VolumeConfig{drbdSpeed}, Peers: []PeerConfig{{}}})
	require.NoError(t, err)
	pd := c.vols[0].pds[0]
	pd.p.session.Version = 94
	pd.receiveSyncParam(protocol.SyncParam{Rate: 500})
	want := drbdSpeed
	want.ResyncRate = 500
	want.ALExtents = pd.v.cfg.ALExtents
	require.Equal(t, want, pd.v.cfg)

	pd.p.session.Version = 101
	pd.receiveSyncParam(protocol.SyncParam{Rate: 600, PlanAhead: 0, DelayTarget: 1, FillTarget: 0, MaxRate: 1000})
	want.ResyncRate, want.CPlanAhead, want.CDelay, want.CFill, want.CMaxRate = 600, 0, 1, 0, 1000
	require.Equal(t, want, pd.v.cfg)

	const all = ^uint32(0)
	pd.receiveSyncParam(protocol.SyncParam{Rate: all, PlanAhead: all, DelayTarget: all, FillTarget: all, MaxRate: all})
	want.ResyncRate, want.CPlanAhead, want.CDelay, want.CFill, want.CMaxRate = maxResyncRate, maxPlanAhead, maxDelay, maxFill, maxMaxRate
	require.Equal(t, want, pd.v.cfg)
}
