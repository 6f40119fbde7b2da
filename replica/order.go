// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"slices"
	"sync"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// VolumeRef names a volume of this node.
type VolumeRef struct {
	Resource string // Config.Name
	Volume   uint16 // VolumeConfig.ID
}

// String returns "r0/1".
func (r VolumeRef) String() string { return fmt.Sprintf("%s/%d", r.Resource, r.Volume) }

// ResyncOrder lets resyncs of a node wait for each other, so that they do not
// compete for one disk ("resync-after", spec: behaviour 6.5). Resources that are to
// wait for each other are opened with the same ResyncOrder (Config.ResyncOrder), each
// under a name of its own; VolumeConfig.ResyncAfter says who comes after whom.
//
//	r0/0 ◄── r1/0 ◄── r2/0     r1/0 waits while r0/0 is in a resync or verify, or is
//	                           paused; r2/0 waits for r1/0, and through it for r0/0
//
// A volume that waits is PausedSyncS or PausedSyncT, with the flag AftrISP; so is its
// peer. A chain ends at a volume that has no disk or is not there: nobody waits for
// it. The decision is made again at every change of state, just after it: a resync
// that has to wait may ask for a few blocks before it does.
//
// The zero value is ready to use. It is safe for concurrent use.
type ResyncOrder struct {
	mu   sync.Mutex
	vols []*orderedVolume
}

// orderedVolume is a volume in a ResyncOrder.
type orderedVolume struct {
	ref   VolumeRef
	after *VolumeRef
	state protocol.State
	wait  bool
	kick  chan<- struct{}
}

// list is what the core's rules look at. It is called under the lock.
func (o *ResyncOrder) list() []core.OrderedVolume {
	list := make([]core.OrderedVolume, len(o.vols))
	for i, v := range o.vols {
		list[i] = core.OrderedVolume{After: -1, State: v.state}
		if v.after != nil {
			list[i].After = slices.IndexFunc(o.vols, func(w *orderedVolume) bool { return w.ref == *v.after })
		}
	}
	return list
}

// decide finds out who has to wait, and wakes the resources for which that has
// changed. It is called under the lock.
func (o *ResyncOrder) decide() {
	list := o.list()
	for i, v := range o.vols {
		if wait := core.MustWait(list, i); wait != v.wait {
			v.wait = wait
			select {
			case v.kick <- struct{}{}:
			default: // it is awake already
			}
		}
	}
}

// join adds the volumes of a resource. A loop, or a name that is there already, is refused.
func (o *ResyncOrder) join(r *Resource) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.vols)
	for _, v := range r.volumes {
		ref := VolumeRef{r.name, v.cfg.ID}
		if slices.ContainsFunc(o.vols, func(w *orderedVolume) bool { return w.ref == ref }) {
			o.vols = o.vols[:before]
			return fmt.Errorf("%w: %s is in the ResyncOrder already: resources that share one need different names", ErrConfig, ref)
		}
		v.order = &orderedVolume{ref: ref, after: v.cfg.ResyncAfter, kick: r.alarm.kick}
		o.vols = append(o.vols, v.order)
	}
	list := o.list()
	for i := before; i < len(list); i++ {
		if core.InLoop(list, i) {
			ref := o.vols[i].ref
			o.vols = o.vols[:before]
			return fmt.Errorf("%w: ResyncAfter of volume %s leads back to it: two resyncs would wait for each other", ErrConfig, ref)
		}
	}
	return nil
}

// leave takes the volumes of a resource out: nobody waits for them any more.
func (o *ResyncOrder) leave(r *Resource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.vols = slices.DeleteFunc(o.vols, func(w *orderedVolume) bool {
		return slices.ContainsFunc(r.volumes, func(v *Volume) bool { return v.order == w })
	})
	o.decide()
}

// update takes note of the states of a resource's volumes.
func (o *ResyncOrder) update(r *Resource, snap *core.Snapshot) {
	o.mu.Lock()
	defer o.mu.Unlock()
	changed := false
	for i, v := range r.volumes {
		if s := snap.Volumes[i].State; s != v.order.state {
			v.order.state, changed = s, true
		}
	}
	if changed {
		o.decide()
	}
}

// setAfter changes what a volume comes after.
func (o *ResyncOrder) setAfter(v *Volume, after *VolumeRef) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.vols, v.order)
	if i < 0 {
		return ErrClosed
	}
	before := v.order.after
	v.order.after = after
	if core.InLoop(o.list(), i) {
		v.order.after = before
		return fmt.Errorf("%w: ResyncAfter %s leads back to this volume", ErrConfig, after)
	}
	o.decide()
	return nil
}

// waits reports whether a volume's resync has to wait.
func (o *ResyncOrder) waits(v *Volume) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return v.order.wait
}

// obeyOrder tells the core which of its volumes have to wait.
func (r *Resource) obeyOrder(c *core.Core) {
	for i, v := range r.volumes {
		c.SetAfter(i, r.order.waits(v))
	}
}
