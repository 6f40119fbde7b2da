// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Defaults of Config.HandlerTimeout and Config.ArbiterTimeout.
const (
	DefaultHandlerTimeout = time.Minute
	DefaultArbiterTimeout = 10 * time.Second
)

// Handlers are what DRBD calls the handlers: callbacks at the turning points in
// the life of a resource (spec: behaviour 8.3). All fields may be nil. See
// [ExecHandlers] for programs in their place.
//
// Handlers run one after the other, in the order of the events that they belong
// to, on goroutines of their own: they never hold up I/O, and may call methods
// of the resource. ctx ends after Config.HandlerTimeout, and when the resource is
// closed; a handler that does not return then is left behind.
//
// The three that are waited for are called when everything that led to them is
// durable on the own disks, so that they may stop the node.
type Handlers struct {
	// BeforeResyncTarget runs before this node's data is overwritten by a resync,
	// to take a snapshot of it, say. Until it returns the node writes nothing that the
	// peer sends. An error refuses the resync: the node goes StandAlone.
	BeforeResyncTarget func(ctx context.Context, call HandlerCall) error
	// BeforeResyncSource runs on the other node. An error refuses the resync, except
	// an [ExitError] with code 3.
	BeforeResyncSource func(ctx context.Context, call HandlerCall) error
	// LocalIOError runs when a disk failed and OnIOError is CallLocalIOError, before the
	// peer is told. The volume waits for it.
	LocalIOError func(ctx context.Context, call HandlerCall)

	// AfterResyncTarget: a resync with this node as the target is done.
	AfterResyncTarget func(ctx context.Context, call HandlerCall)
	// InitialSplitBrain: the data of the nodes diverged; no policy was asked yet.
	InitialSplitBrain func(ctx context.Context, call HandlerCall)
	// SplitBrain: no policy solved it.
	SplitBrain func(ctx context.Context, call HandlerCall)
	// PriLost: this Primary would be the target of a resync (rr-conflict call-pri-lost).
	PriLost func(ctx context.Context, call HandlerCall)
	// PriLostAfterSB: this Primary lost in a split brain (call-pri-lost-after-sb).
	PriLostAfterSB func(ctx context.Context, call HandlerCall)
	// PriOnInconDegr: this Primary has lost the last good copy of its data.
	PriOnInconDegr func(ctx context.Context, call HandlerCall)
	// OutOfSync: a verify found differences.
	OutOfSync func(ctx context.Context, call HandlerCall)
	// QuorumLost: the arbiter did not allow this Primary to go on alone, or gave no answer.
	QuorumLost func(ctx context.Context, call HandlerCall)
}

// HandlerCall tells a handler what it is about.
type HandlerCall struct {
	// Name is DRBD's name of the handler, as "before-resync-target".
	Name string
	// Resource and Peer are Config.Name and PeerConfig.Name.
	Resource, Peer string
	// Volumes is the volume, or all volumes where the handler concerns the resource.
	Volumes []HandlerVolume
	// WholeResource says so.
	WholeResource bool
	// Remote is the peer's address in the last connection, as its transport names it;
	// empty if there was none.
	Remote string
}

// HandlerVolume is a volume that a handler is about.
type HandlerVolume struct {
	ID    uint16
	Minor int
}

// ExitError is the exit code of a handler, for those that have one. Code is not 0.
type ExitError struct {
	Name string // of the handler
	Code int    // 1 if it has none of its own
	Err  error  // why it has none: it could not be started, or was killed; or nil
}

// Error says which handler ended how.
func (e *ExitError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("handler %s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("handler %s: exit code %d", e.Name, e.Code)
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// exitCode is an error as an exit code: 0 for nil, 1 where it has none.
func exitCode(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Code != 0:
		return exit.Code
	}
	return 1
}

// waits reports whether the core has to wait for some handler's result.
func (h *Handlers) waits() bool {
	return h.BeforeResyncTarget != nil || h.BeforeResyncSource != nil || h.LocalIOError != nil
}

// find returns the handler of a name, or nil.
func (h *Handlers) find(name string) func(context.Context, HandlerCall) error {
	plain := func(fn func(context.Context, HandlerCall)) func(context.Context, HandlerCall) error {
		if fn == nil {
			return nil
		}
		return func(ctx context.Context, call HandlerCall) error { fn(ctx, call); return nil }
	}
	switch name {
	case core.HandlerBeforeResyncTarget:
		return h.BeforeResyncTarget
	case core.HandlerBeforeResyncSource:
		return h.BeforeResyncSource
	case core.HandlerLocalIOError:
		return plain(h.LocalIOError)
	case core.HandlerAfterResyncTarget:
		return plain(h.AfterResyncTarget)
	case "initial-split-brain":
		return plain(h.InitialSplitBrain)
	case "split-brain":
		return plain(h.SplitBrain)
	case "pri-lost":
		return plain(h.PriLost)
	case "pri-lost-after-sb":
		return plain(h.PriLostAfterSB)
	case core.HandlerPriOnInconDegr:
		return plain(h.PriOnInconDegr)
	case core.HandlerOutOfSync:
		return plain(h.OutOfSync)
	case core.HandlerQuorumLost:
		return plain(h.QuorumLost)
	}
	return nil
}

// handlerQueueLen is how many handlers wait for those before them; one whose result
// nobody waits for is dropped, with a line in the log, if there are more.
const handlerQueueLen = 64

// lane runs jobs one after the other, on a goroutine that lives while there are some.
type lane struct {
	mu      sync.Mutex
	queue   []func(context.Context)
	running bool
}

// dispatch is what runs handlers, fencing and the arbiter: each in a lane of its own, as
// a slow handler must not delay the other two.
type dispatch struct {
	ctx                    context.Context // ends when the resource stops
	stop                   context.CancelFunc
	general, fence, arbite lane
}

func newDispatch() *dispatch {
	d := &dispatch{}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d
}

// enter queues a job; it reports false if it is one too many.
func (r *Resource) enter(l *lane, needed bool, job func(context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !needed && len(l.queue) >= handlerQueueLen {
		return false
	}
	l.queue = append(l.queue, job)
	if !l.running {
		l.running = true
		r.wg.Go(func() { r.runLane(l) })
	}
	return true
}

func (r *Resource) runLane(l *lane) {
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		job := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		l.mu.Unlock()
		job(r.dispatch.ctx)
	}
}

// bounded runs fn for at most a time. One that does not return when its context has
// ended is left behind: nothing waits for it.
func bounded[T any](parent context.Context, limit time.Duration, fn func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer cancel()
		v, err := fn(ctx)
		done <- result{v, err}
	}()
	var got result
	select {
	case got = <-done:
		return got.v, got.err
	case <-ctx.Done():
	}
	select {
	case got = <-done: // it ended in time, or because of its context
		return got.v, got.err
	default:
		return got.v, fmt.Errorf("it has not ended in time: %w", context.Cause(ctx))
	}
}

// handlerEvent runs what belongs to an event of the core. It is called under the lock.
func (r *Resource) handlerEvent(e *core.Event) {
	if e.Kind == core.EventQuorum {
		if e.Call != nil {
			call := e.Call
			r.enter(&r.dispatch.arbite, true, func(ctx context.Context) { r.runArbiter(ctx, call) })
		}
		return
	}
	info := r.handlerCall(e)
	switch e.Text {
	case core.HandlerFencePeer:
		if call := e.Call; call != nil {
			r.enter(&r.dispatch.fence, true, func(ctx context.Context) { r.runFencer(ctx, info, call) })
		}
		return
	case core.HandlerUnfencePeer:
		if r.cfg.Fencer != nil {
			r.enter(&r.dispatch.fence, true, func(ctx context.Context) { r.runUnfence(ctx, info) })
		}
		return
	}
	fn := r.cfg.Handlers.find(e.Text)
	if fn == nil && e.Call == nil {
		return
	}
	call := e.Call
	if !r.enter(&r.dispatch.general, call != nil, func(ctx context.Context) { r.runHandler(ctx, fn, info, call) }) {
		r.log.warn(fmt.Sprintf("handler %s is not run: %d wait for an earlier one", e.Text, handlerQueueLen), info.first())
	}
}

// handlerCall describes an event to a handler. It is called under the lock.
func (r *Resource) handlerCall(e *core.Event) HandlerCall {
	info := HandlerCall{Name: e.Text, Resource: r.name, WholeResource: e.Volume < 0}
	for i, v := range r.volumes {
		if e.Volume < 0 || e.Volume == i {
			info.Volumes = append(info.Volumes, HandlerVolume{ID: v.cfg.ID, Minor: or(v.cfg.Minor, int(v.cfg.ID))})
		}
	}
	if e.Peer >= 0 && e.Peer < len(r.cfg.Peers) {
		info.Peer, info.Remote = r.cfg.Peers[e.Peer].Name, r.remotes[e.Peer]
	}
	return info
}

// first is the volume that a line in the log is about, -1 for the resource.
func (h *HandlerCall) first() int {
	if h.WholeResource || len(h.Volumes) == 0 {
		return -1
	}
	return int(h.Volumes[0].ID)
}

func (r *Resource) handlerTimeout() time.Duration {
	return or(r.cfg.HandlerTimeout, DefaultHandlerTimeout)
}

// runHandler runs one and tells the core how it ended, if that waits.
func (r *Resource) runHandler(ctx context.Context, fn func(context.Context, HandlerCall) error, info HandlerCall, call *core.Call) {
	var err error
	if fn != nil {
		_, err = bounded(ctx, r.handlerTimeout(), func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx, info) })
	}
	if err != nil {
		r.log.warn(fmt.Sprintf("handler %s: %v", info.Name, err), info.first())
	}
	if call != nil {
		r.callDone(call, exitCode(err))
	}
}

// callDone hands a result to the core.
func (r *Resource) callDone(call *core.Call, code int) {
	w := newWork()
	r.visit(w, func(c *core.Core) { c.HandlerDone(call, code) })
	w.loop(r)
}
