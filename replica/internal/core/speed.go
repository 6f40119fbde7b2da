// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"math"
	"time"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// The speed of a resync (spec: behaviour 6.4). Ten times a second the controller
// says how many sectors the target may ask for in the step that begins:
//
//	arrived in the last step ──┐
//	correction planned for now ┴─► clamp to c-max-rate ─► sectors of this step
//	        ▲
//	        └── (c-fill-target, or arrived × c-delay-target, minus what is on its way
//	             and what is planned already), spread over c-plan-ahead
//
// With c-plan-ahead 0 it is resync-rate, always. While the disk is busy with other
// I/O and the resync faster than c-min-rate, the step gets nothing.

// resyncStep is the length of a step.
const resyncStep = 100 * time.Millisecond

// unlimited is the budget of a step without any limit.
const unlimited = math.MaxInt64

// Bounds of what a peer may ask us to adopt (spec: behaviour 10.2).
const (
	maxResyncRate = 8388608 // KiB/s
	maxPlanAhead  = 300     // steps
	maxDelay      = 100     // steps
	maxFill       = 1048576 // sectors
	maxMaxRate    = 4194304 // KiB/s
)

// busySectors of other I/O within a step make a disk busy.
const busySectors = 64

// controller is the memory of the calculation. Amounts are sectors.
type controller struct {
	in       int64   // arrived since the last step
	inFlight int64   // asked for and not arrived
	plan     []int64 // corrections of the steps to come, a ring
	head     int
	total    int64 // sum of plan
	owed     int64 // fixed rate: tenths of a sector below one block
	want     uint64
}

// asked and arrived keep the books on what is on its way.
func (k *controller) asked(sectors uint64)   { k.inFlight += int64(sectors) }
func (k *controller) arrived(sectors uint64) { k.in += int64(sectors) }

// step returns how much the step that begins may ask for: a multiple of 8, or unlimited.
func (k *controller) step(cfg *VolumeConfig) int64 {
	in := k.in
	k.in = 0
	k.inFlight = max(k.inFlight-in, 0)
	if cfg.CPlanAhead == 0 {
		k.want = uint64(cfg.ResyncRate)
		if cfg.ResyncRate == 0 {
			return unlimited
		}
		// Exact, where DRBD truncates: below 40 KiB/s it would never ask for a block.
		k.owed += int64(cfg.ResyncRate) * 2
		n := k.owed / 80 * 8
		k.owed -= n * 10
		return n
	}
	steps := int64(cfg.CPlanAhead)
	if int64(len(k.plan)) != steps {
		k.plan, k.head, k.total = make([]int64, steps), 0, 0
	}
	want := in * int64(cfg.CDelay)
	switch {
	case k.inFlight+in == 0:
		want = int64(cfg.ResyncRate) * 2 / 10 * steps
	case cfg.CFill > 0:
		want = int64(cfg.CFill)
	}
	each := (want - k.inFlight - k.total) / steps
	for i := range k.plan {
		k.plan[i] += each
	}
	k.total += each * steps
	now := k.plan[k.head]
	k.plan[k.head], k.head = 0, (k.head+1)%len(k.plan)
	k.total -= now
	n := max(in+now, 0)
	if cfg.CMaxRate > 0 {
		n = min(n, int64(cfg.CMaxRate)*2/10)
	}
	k.want = uint64(n / 8 * 40)
	return n / 8 * 8
}

// ration begins a new step if it is time.
func (r *resync) ration() {
	pd, now := r.pd, r.pd.v.c.now
	if now < r.nextStep {
		return
	}
	r.nextStep = max(r.nextStep+resyncStep, now)
	r.budget = r.speed.step(&pd.v.cfg)
	r.limited = r.budget != unlimited
	if r.throttled() {
		r.budget, r.limited = 0, true
	}
}

// throttled reports whether the resync has to make way: the disk is busy with other
// I/O, and the resync has more than c-min-rate. It is looked at once in a step.
func (r *resync) throttled() bool {
	v := r.pd.v
	if v.cfg.CMinRate == 0 || !r.running {
		return false
	}
	if v.c.now >= r.checkAt {
		other := v.otherIO()
		busy := len(v.al.waiting) > 0 || other-r.otherIO > busySectors
		r.otherIO, r.checkAt = other, v.c.now+resyncStep
		r.slow = busy && r.recent() > uint64(v.cfg.CMinRate)
	}
	return r.slow
}

// otherIO counts the sectors that the disk was asked for, but not by a resync.
func (v *volume) otherIO() uint64 { return v.written + v.read - v.resyncIO }

// recent is the speed in KiB/s since the mark before the last one: of three to six
// seconds, or since the start.
func (r *resync) recent() uint64 {
	m, left := &r.marks[(r.mark+len(r.marks)-1)%len(r.marks)], r.left()
	return perSecond(m.left-min(left, m.left), r.pd.v.c.now-m.at)
}

// perSecond is blocks in a time as KiB/s.
func perSecond(blocks uint64, d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64(float64(blocks*bitmap.BlockSize/1024) / d.Seconds())
}

// adoptSpeed takes over the peer's rate and controller settings: the last change
// counts on both nodes (spec: behaviour 6.4). c-min-rate is each node's own.
func (pd *peerDevice) adoptSpeed(q protocol.SyncParam) {
	cfg := &pd.v.cfg
	cfg.ResyncRate = min(q.Rate, maxResyncRate)
	if pd.p.session.Version < 95 {
		return // the packet does not have the rest
	}
	cfg.CPlanAhead, cfg.CDelay = min(q.PlanAhead, maxPlanAhead), min(q.DelayTarget, maxDelay)
	cfg.CFill, cfg.CMaxRate = min(q.FillTarget, maxFill), min(q.MaxRate, maxMaxRate)
}

// delayed is the source's part of c-min-rate: while its disk is busy, one request of
// the resync is served in a step, not all at once. A Primary as the target is not
// kept waiting.
func (pd *peerDevice) delayed(q *peerReq) bool {
	r := &pd.resync
	if q.cmd == protocol.CmdDataRequest || pd.role == protocol.Primary || len(r.waiting) == 0 && !r.throttled() {
		return false
	}
	r.waiting = append(r.waiting, q)
	if !r.delay.set {
		r.delay.arm(pd.v.c.now + resyncStep)
	}
	return true
}

// serveDelayed goes on with requests that were held back: with one, or with all if
// there is no reason any more.
func (pd *peerDevice) serveDelayed() {
	r := &pd.resync
	for n := 0; len(r.waiting) > 0 && (n == 0 || !r.throttled()); n++ {
		q := r.waiting[0]
		r.waiting = r.waiting[:copy(r.waiting, r.waiting[1:])]
		q.pd.p.rx.startRead(q)
	}
	if len(r.waiting) > 0 {
		r.delay.arm(pd.v.c.now + resyncStep)
	}
}

// dropDelayed refuses what was held back.
func (pd *peerDevice) dropDelayed() {
	r := &pd.resync
	r.delay.stop()
	waiting := r.waiting
	r.waiting = nil
	for _, q := range waiting {
		q.readDone(true)
	}
}
