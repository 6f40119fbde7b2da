// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"
	"time"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Plan spreads its chances over everything. A focus looks for one kind of trouble where
// it is: the options that make a fault possible, and the few actions that lead to it.
type focus struct {
	name    string
	options func(o *Options, rng *rand.Rand)
	weights map[string]int
}

// foci, by what a mirror must not get wrong there.
var foci = []focus{
	{"log", func(o *Options, rng *rand.Rand) { // more extents than the activity log has
		o.DiskBytes, o.External = 320<<20, rng.IntN(3) == 0
	}, map[string]int{"march": 120, "hop": 40, "cut": 30, "heal": 20, "crash-writer": 40, "crash": 10, "fuse": 20, "restart": 120,
		"take-over": 80, "slow": 10, "repair": 20, "connect": 20}},
	{"generations", func(o *Options, rng *rand.Rand) { // of two that lose and find each other
		o.External = rng.IntN(2) == 0
	}, map[string]int{"burst": 200, "scan": 60, "cut": 80, "heal": 80, "flap": 10, "slow": 40, "repair": 10, "crash-writer": 20, "fuse": 20,
		"restart": 80, "take-over": 80, "disconnect": 20, "connect": 40, "detach": 10, "attach": 20}},
	{"order", func(o *Options, rng *rand.Rand) { // of writes that depend on each other
		o.Net.MaxEpochSize = []int{0, 1, 4}[rng.IntN(3)]
		o.Net.Protocol = protocol.ReplicationProtocol(1 + rng.IntN(3))
	}, map[string]int{"scan": 200, "database": 100, "burst": 60, "slow-peer": 30, "repair": 10, "crash-peer": 20, "restart": 60, "flush": 20, "narrow": 8, "heal": 20}},
	{"disk errors", func(o *Options, rng *rand.Rand) {
		o.Volume.DetachOnIO = core.OnIOError(rng.IntN(2))
		o.Net.Protocol = protocol.ReplicationProtocol(1 + rng.IntN(3))
	}, map[string]int{"burst": 200, "scan": 60, "read": 60, "peer-errors": 60, "write-errors": 20, "bad-sectors": 20, "repair": 60, "attach": 60,
		"crash-peer": 10, "restart": 40, "connect": 30, "cut": 10, "heal": 40, "verify": 10}},
	{"early", func(o *Options, rng *rand.Rand) { // a sync target becomes Primary
		o.Volume.ResyncRate = 64 << rng.IntN(3)
		o.Volume.CPlanAhead = 0
	}, map[string]int{"burst": 120, "cut": 60, "heal": 80, "switch-early": 120, "reread": 120, "restart": 40, "take-over": 60, "connect": 30, "slow": 5, "repair": 10}},
	{"resync", func(o *Options, rng *rand.Rand) { // that ends badly
		o.Volume.ResyncRate = 256 << rng.IntN(5)
		o.External = rng.IntN(2) == 0
	}, map[string]int{"burst": 160, "cut": 60, "heal": 100, "crash-peer": 40, "crash-writer": 10, "peer-errors": 20, "slow-peer": 20, "slow-own": 40,
		"repair": 30, "restart": 100, "take-over": 60, "attach": 40, "invalidate": 20, "fuse": 20, "switch": 20, "connect": 30}},
}

func focusNamed(name string) *focus {
	for i := range foci {
		if foci[i].name == name {
			return &foci[i]
		}
	}
	return nil
}

// Foci returns the names that PlanFocus knows.
func Foci() (names []string) {
	for _, f := range foci {
		names = append(names, f.name)
	}
	return names
}

// PlanFocus makes the script of a seed with a focus.
func PlanFocus(name string, seed uint64) (Script, bool) {
	f := focusNamed(name)
	if f == nil {
		return Script{}, false
	}
	rng := rand.New(rand.NewPCG(seed, 0x666f637573))
	s := Script{Seed: seed, Focus: name, Options: Options{Volumes: 1, DiskBytes: 1 << 20, Delay: 2 * time.Millisecond, Skip: true,
		Net:    core.NetOptions{Protocol: protocol.ProtocolC, Timeout: 6 * time.Second, KoCount: 7, UseRLE: rng.IntN(2) == 0},
		Volume: core.VolumeConfig{DiskFlushes: true, ALExtents: activitylog.MinExtents}}}
	f.options(&s.Options, rng)
	s.Actions = drawActions(rng, func(a *action) int { return f.weights[a.name] })
	return s, true
}

// PlanDiskTimeout is Plan with disks that are given up when they stop, and more that do.
func PlanDiskTimeout(seed uint64) Script {
	s := Plan(seed)
	s.Focus = "disk-timeout"
	s.Options.Volume.DiskTimeout = time.Second + time.Duration(seed%3)*time.Second
	for i := range s.Actions {
		if s.Actions[i].Name == "bad-sectors" || s.Actions[i].Name == "slow" {
			s.Actions[i].Name = "freeze"
		}
	}
	return s
}

// Mixed is the plan of a long search: every other script has a focus, each in turn.
func Mixed(n uint64) Script {
	if n%2 == 1 {
		return Plan((n + 1) / 2)
	}
	s, _ := PlanFocus(foci[n/2%uint64(len(foci))].name, n)
	return s
}

// secondary returns the node that mirrors what the writer writes, or nil.
func (r *Run) secondary() *Node {
	if r.writer == nil || r.other(r.writer).core == nil {
		return nil
	}
	return r.other(r.writer)
}

// march writes a block in one extent of the activity log after the other.
func (r *Run) march(a *rand.Rand) {
	n := r.applicationOn(a)
	extents := n.room(0) / activitylog.ExtentSectors
	if extents < 2 {
		return
	}
	from, left := a.Uint64N(extents), 20+a.IntN(int(extents))
	var next func(error)
	next = func(err error) {
		if left--; left < 0 || err != nil || r.still {
			return
		}
		r.after(0, func() {
			if n.core != nil && (r.cfg.Reckless || r.writer == n) {
				from = (from + 1) % extents
				r.submit(n, 0, from*activitylog.ExtentSectors+a.Uint64N(16)*8, 8, core.IOWrite, false, next)
			}
		})
	}
	for range 4 {
		next(nil)
	}
}

// reread reads what was written, all over the volume.
func (r *Run) reread(a *rand.Rand) {
	n := r.applicationOn(a)
	size := n.room(0)
	if size == 0 {
		return
	}
	for from := a.Uint64N(64); from+8 < min(size, 2048); from += 64 {
		r.read(n, 0, from, 8)
	}
}

// crashPeer lets the Secondary crash.
func (r *Run) crashPeer(a *rand.Rand) {
	if n := r.secondary(); n != nil {
		r.down(n, a.IntN(4) > 0, false)
	}
}

// failPeer lets writes fail where nobody writes but the peer.
func (r *Run) failPeer(a *rand.Rand) {
	n := r.secondary()
	if n == nil || !r.complete(r.writer) || !r.writer.healthy() {
		return
	}
	r.fault("write errors")
	n.disks[0].FailWrites = true
	if a.IntN(2) == 0 { // for a moment
		r.after(time.Duration(a.Int64N(int64(20*time.Millisecond))), func() { n.disks[0].FailWrites = false })
	}
}

func (r *Run) slowPeer(a *rand.Rand) { r.slowDown(r.secondary(), a) }

func (r *Run) slowOwn(a *rand.Rand) { r.slowDown(r.writer, a) }

func (r *Run) slowDown(n *Node, a *rand.Rand) {
	if n != nil {
		r.fault("slow disk")
		n.disks[0].Slow = 2 << a.IntN(6)
	}
}
