// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// The path of one application request. The caller's goroutine takes it as far as
// it goes: it submits the request, sends the packets to the peer, performs the
// disk operation, and waits for what others have to do.

// call is a request and its waiter. It is pooled.
type call struct {
	io      core.IO
	work    work
	done    chan struct{} // one token when io is back
	pending bool          // in the core's hands; guarded by Resource.mu
	prev    *call
	next    *call
}

func newCall() *call {
	c := &call{done: make(chan struct{}, 1)}
	c.io.User = c
	return c
}

// wake tells the waiter that the request has completed. The call may be reused at once.
func (c *call) wake() { c.done <- struct{}{} }

// callList is a list of requests.
type callList struct {
	first *call
	n     int
}

func (l *callList) add(c *call) {
	c.pending = true
	c.prev, c.next = nil, l.first
	if l.first != nil {
		l.first.prev = c
	}
	l.first = c
	l.n++
}

func (l *callList) remove(c *call) {
	if !c.pending {
		return
	}
	c.pending = false
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	l.n--
}

// newCall returns a request for a volume.
func (v *Volume) newCall(kind core.IOKind, buf []byte, off, n int64, flags ioFlags) *call {
	c := v.r.calls.Get().(*call)
	c.io.Kind, c.io.Volume, c.io.Off, c.io.Len, c.io.Buf = kind, v.index, off, n, buf
	c.io.FUA, c.io.MayUnmap, c.io.Err = flags.fua, flags.mayUnmap, nil
	return c
}

// ioFlags are the variants of a request.
type ioFlags struct{ fua, mayUnmap bool }

// free returns a request that has completed to the pool.
func (r *Resource) free(c *call) {
	c.io.Buf = nil
	c.work.call = nil
	r.calls.Put(c)
}

// begin submits a request and does all of it that this goroutine can do. With
// inline its disk operations are performed here, else by the volume's queue.
func (r *Resource) begin(c *call, inline bool) {
	w := &c.work
	w.may, w.call, w.inline, w.spoke = mayData, c, inline, false
	r.mu.Lock()
	if err := r.refusal(); err != nil {
		r.mu.Unlock()
		c.io.Err = err
		c.wake()
		return
	}
	r.inFlight.add(c)
	r.step(w, func(core *core.Core) { core.Submit(&c.io) })
	r.mu.Unlock()
	w.loop(r)
}

// refusal says why nothing new is begun, nil if it may be. It is called under the lock.
func (r *Resource) refusal() error {
	switch {
	case r.failed != nil:
		return r.failed
	case r.closing:
		return ErrClosed
	}
	return nil
}

// end waits for a request that was begun, and returns its error. A request that
// still waits for admission is withdrawn when ctx ends; one that has begun is
// waited for, because its buffer is in use.
func (r *Resource) end(ctx context.Context, c *call) error {
	if ctx.Done() != nil {
		select {
		case <-c.done:
			return c.io.Err
		case <-ctx.Done():
			r.withdraw(ctx, c)
		}
	}
	<-c.done
	return c.io.Err
}

// withdraw ends a request that has not begun.
func (r *Resource) withdraw(ctx context.Context, c *call) {
	w := newWork()
	r.visit(w, func(core *core.Core) {
		if c.pending {
			core.Cancel(&c.io, context.Cause(ctx))
		}
	})
	w.loop(r)
}

// do performs one request that fits into one IO.
func (v *Volume) do(ctx context.Context, kind core.IOKind, buf []byte, off, n int64, flags ioFlags) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := v.r
	c := v.newCall(kind, buf, off, n, flags)
	r.begin(c, true)
	err := r.end(ctx, c)
	r.free(c)
	return err
}
