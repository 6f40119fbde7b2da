// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// watch is somebody who waits for a state.
type watch struct {
	cond func(*core.Snapshot) (bool, error)
	done chan error // one result
}

// WaitConnected returns nil when all volumes are connected to the peer. It returns
// ErrStandAlone, with the reason if one is known (as ErrSplitBrain), when the
// resource is StandAlone; and the context's error. See [Resource.StartupContext] for
// DRBD's timeouts.
func (r *Resource) WaitConnected(ctx context.Context) error {
	return r.explain("wait for the connection", r.wait(ctx, func(s *core.Snapshot) (bool, error) {
		return r.each(s, func(st protocol.State) bool { return st.Conn >= protocol.Connected })
	}))
}

// WaitSync returns nil when all volumes are connected and every disk of the two
// nodes is UpToDate (volumes without a disk on one node do not count). It does not
// return for a pair of fresh disks before one node was promoted with Force, nor after
// a resync in which blocks failed: limit it with ctx. Errors are those of
// WaitConnected.
func (r *Resource) WaitSync(ctx context.Context) error {
	good := func(d protocol.DiskState) bool { return d == protocol.UpToDate || d == protocol.Diskless }
	return r.explain("wait for the resync", r.wait(ctx, func(s *core.Snapshot) (bool, error) {
		return r.each(s, func(st protocol.State) bool {
			calm := st.Conn == protocol.Connected || st.Conn == protocol.VerifyS || st.Conn == protocol.VerifyT
			return calm && good(st.Disk) && good(st.PeerDisk)
		})
	}))
}

// WaitTimeouts bounds a wait at the start of a node, as DRBD's startup section does
// (spec: behaviour 6.11). Which of the three counts depends on what the node knows when
// the wait begins; 0 stands for no limit, and none of them is longer than the one above it.
type WaitTimeouts struct {
	// WFC counts if neither of the others does ("wfc-timeout").
	WFC time.Duration
	// Degraded counts if this node crashed as a Primary that was alone: its peer
	// may be down for good ("degr-wfc-timeout").
	Degraded time.Duration
	// Outdated counts if the peer's disk is known to be Outdated: there is nothing
	// to learn from it ("outdated-wfc-timeout").
	Outdated time.Duration
}

// limit is the time that counts for a resource in this state, 0 for none.
func (w WaitTimeouts) limit(s *core.Snapshot) time.Duration {
	shorter := func(d, than time.Duration) time.Duration {
		if than > 0 && (d == 0 || d > than) {
			return than
		}
		return d
	}
	degraded := shorter(w.Degraded, w.WFC)
	outdated := shorter(w.Outdated, degraded)
	limit := w.WFC
	for i := range s.Volumes {
		v := &s.Volumes[i]
		switch {
		case v.State.PeerDisk == protocol.Outdated:
			limit = shorter(limit, outdated)
		case v.Degraded:
			limit = shorter(limit, degraded)
		}
	}
	return limit
}

// StartupContext returns a context for WaitConnected and WaitSync that ends when one of
// the timeouts has passed, counted from now; they return ErrWaitTimeout then. The state
// of the resource decides which one counts, so call it after Open and before Connect.
func (r *Resource) StartupContext(ctx context.Context, w WaitTimeouts) (context.Context, context.CancelFunc) {
	r.mu.Lock()
	var limit time.Duration
	if r.failed == nil {
		snap := r.snapshot()
		limit = w.limit(&snap)
	}
	r.mu.Unlock()
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, ErrWaitTimeout)
}

// each reports whether all volumes' states are fine.
func (r *Resource) each(s *core.Snapshot, fine func(protocol.State) bool) (bool, error) {
	all := true
	for i := range s.Volumes {
		st := s.Volumes[i].State
		if st.Conn == protocol.StandAlone {
			return false, r.standAlone()
		}
		all = all && fine(st)
	}
	return all, nil
}

// standAlone is the error for a resource that is not looking for its peer.
func (r *Resource) standAlone() error {
	if why := r.lastLoss[0]; why != nil {
		return fmt.Errorf("%w: %w", ErrStandAlone, why)
	}
	return ErrStandAlone
}

// wait waits until cond reports true or an error. cond is called under the lock.
func (r *Resource) wait(ctx context.Context, cond func(*core.Snapshot) (bool, error)) error {
	wa := &watch{cond: cond, done: make(chan error, 1)}
	r.mu.Lock()
	if r.failed != nil {
		r.mu.Unlock()
		return r.failed
	}
	snap := r.snapshot()
	r.watches = append(r.watches, wa)
	r.checkWatches(&snap)
	r.mu.Unlock()
	select {
	case err := <-wa.done:
		return err
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = slices.DeleteFunc(r.watches, func(o *watch) bool { return o == wa })
	return context.Cause(ctx)
}

// checkWatches wakes those whose state has come. It is called under the lock.
func (r *Resource) checkWatches(s *core.Snapshot) {
	r.watches = slices.DeleteFunc(r.watches, func(wa *watch) bool {
		ok, err := wa.cond(s)
		if ok || err != nil {
			wa.done <- err
		}
		return ok || err != nil
	})
}

// eventKinds names the core's events.
var eventKinds = [...]EventKind{
	core.EventState:       EventState,
	core.EventResyncDone:  EventResyncDone,
	core.EventVerdict:     EventVerdict,
	core.EventSplitBrain:  EventSplitBrain,
	core.EventIOError:     EventIOError,
	core.EventSize:        EventSize,
	core.EventResyncStart: EventResyncStart,
	core.EventHandler:     EventHandler,
	core.EventRefused:     EventRefused,
	core.EventQuorum:      EventQuorum,
	core.EventVerifyStart: EventVerifyStart,
	core.EventOutOfSync:   EventOutOfSync,
	core.EventVerifyDone:  EventVerifyDone,
}

// publish turns an event of the core into one of the stream. It is called under
// the lock, which gives the order.
func (r *Resource) publish(e *core.Event) {
	ev := Event{
		Time: time.Now(), Volume: r.volumeID(e.Volume),
		Old: e.Old, New: e.New, Decision: e.Decision, Blocks: e.Blocks, Failed: e.Failed, Size: e.Bytes, Off: e.Off, Text: e.Text, Err: e.Err,
	}
	if int(e.Kind) < len(eventKinds) {
		ev.Kind = eventKinds[e.Kind]
	}
	if e.Peer >= 0 && e.Peer < len(r.cfg.Peers) {
		ev.Peer = r.cfg.Peers[e.Peer].Name
	}
	if e.Kind == core.EventState && e.New.Conn >= protocol.Connected {
		r.lastLoss[e.Peer] = nil
	}
	if e.Kind == core.EventRefused {
		r.lastLoss[e.Peer] = e.Err
	}
	r.hub.publish(ev)
	if e.Kind == core.EventHandler || e.Kind == core.EventQuorum {
		r.handlerEvent(e)
	}
}

// volumeID turns the core's index into the volume's ID; -1 stays.
func (r *Resource) volumeID(index int) int {
	if index < 0 || index >= len(r.volumes) {
		return -1
	}
	return int(r.volumes[index].cfg.ID)
}
