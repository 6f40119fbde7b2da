// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// How the shell runs the core. Whoever has an event - an application's request, a
// packet, the end of a disk operation, a timer, a command - visits the core: under
// the resource's lock it hands over what it has and takes what follows from it.
// The lock is never held across anything that blocks.
//
// What a visit yields is of two sorts. What must happen in the order of the
// visits and cannot block is done under the lock (route): events are published,
// connections opened and closed, commands finished, packets given to their
// stream. The rest is independent, and the visiting goroutine performs it after it
// has let go of the lock: disk operations, sends, the wake-up of applications.

// streamSet is a set of a connection's streams.
type streamSet uint8

const (
	mayData streamSet = 1 << protocol.DataStream
	mayMeta streamSet = 1 << protocol.MetaStream
)

func (s streamSet) has(st protocol.Stream) bool { return s&(1<<st) != 0 }

// work is what one goroutine has taken from the core, and what it has to hand
// back. It belongs to that goroutine and is reused for all its visits.
type work struct {
	eff core.Effects

	may    streamSet // streams this goroutine may write on
	sender bool      // it is a stream's own, and sends what is left at the end too
	call   *call     // the request it serves, or nil
	inline bool      // disk operations of call are its own
	solo   bool      // a single disk operation, with nothing else going on, is its own
	spoke  bool      // it has sent something in the course of its request

	own   []*core.Op // operations to perform on this goroutine
	jobs  []*diskOp  // operations for the queues
	sends []sending  // packets to send

	done []*core.Op // performed, to be handed back
	sent []sending  // sent, to be handed back

	op    blockdev.Op    // scratch of performOwn
	turn  uint8          // counts own operations
	batch []*blockdev.Op // scratch of submit
}

// soloBytes is the largest operation that a reader performs itself: more than that
// is worth a change of goroutine, so that the stream is read meanwhile.
const soloBytes = 64 << 10

func newWork() *work { return &work{} }

// sending is a run of packets on its way to a stream.
type sending struct {
	st  *stream
	out *core.Out // nil: the stream is reserved, the packets are taken as late as possible
	err error
}

// visit hands w's results to the core, lets event tell it what happened (nil for
// nothing else), and takes what follows.
func (r *Resource) visit(w *work, event func(*core.Core)) {
	r.mu.Lock()
	r.step(w, event)
	r.mu.Unlock()
}

// step is visit under the lock.
func (r *Resource) step(w *work, event func(*core.Core)) {
	w.eff.Reset()
	r.count(w)
	r.guarded(w, event)
	w.done, w.sent = clearOps(w.done), clearSends(w.sent)
	if r.failed != nil {
		r.drain(w)
	}
}

// guarded calls the core. A panic in it is a programmer's error: it stops the
// resource, not the process.
func (r *Resource) guarded(w *work, event func(*core.Core)) {
	defer func() {
		if p := recover(); p != nil {
			r.log.error(fmt.Sprintf("panic in the state machine: %v\n%s", p, debug.Stack()), -1)
			r.failLocked(fmt.Errorf("%w: %v", ErrInternal, p))
			// What is still on the list of requests is ended with all others.
			w.eff.Done = slices.DeleteFunc(w.eff.Done, func(io *core.IO) bool { return io.User.(*call).pending })
		}
	}()
	if r.failed != nil {
		return
	}
	c := r.core
	c.Advance(r.now())
	for _, s := range w.sent {
		if s.err != nil && !s.st.link.closing {
			s.st.broken = true
			c.Lost(s.st.link.peer, s.st.link.gen, s.st.id, s.err, isTimeout(s.err))
		}
		c.OutDone(s.st.link.peer, s.out)
	}
	for _, op := range w.done {
		c.OpDone(op)
	}
	if event != nil {
		event(c)
	}
	r.route(c, w)
}

// count keeps the books on what is out, which must be right even after a failure.
func (r *Resource) count(w *work) {
	for _, op := range w.done {
		if !op.Abandoned() {
			r.opsOut--
		}
	}
	for _, s := range w.sent {
		r.outsOut--
		s.st.sending = false
		s.st.spare = s.out
		if s.st.link.closing {
			s.st.signal() // its own sender may wait for this
		}
		s.st.link.released()
	}
}

// route takes the effects and does what belongs under the lock.
func (r *Resource) route(c *core.Core, w *work) {
	c.Take(&w.eff)
	r.opsOut += len(w.eff.Ops)
	solo := w.solo && r.opsOut == 1 && len(w.eff.Ops) == 1 && w.eff.Ops[0].Len <= soloBytes
	for _, op := range w.eff.Ops {
		d := r.volumes[op.Volume].disk.Load()
		op.User = d
		if !op.Limited && (solo || w.inline && op.IO == &w.call.io && (!r.crowded() || d.fast())) {
			w.own = append(w.own, op)
		} else {
			w.jobs = append(w.jobs, r.newDiskOp(op))
		}
	}
	for _, io := range w.eff.Done {
		r.inFlight.remove(io.User.(*call))
	}
	if len(w.eff.Net)+len(w.eff.Commands)+len(w.eff.Events)+len(w.eff.Logs)+len(w.eff.Abandoned) > 0 {
		r.routeRare(c, w)
	}
	for _, l := range r.links {
		if l != nil && l.pair != nil {
			r.routePackets(c, w, l)
			if l.full && !c.Flooded(l.peer) {
				l.full = false
				l.drained <- struct{}{}
			}
		}
	}
	r.alarm.set(c, r)
}

// routeRare is the part of route that a plain read or write has no use for.
func (r *Resource) routeRare(c *core.Core, w *work) {
	for _, op := range w.eff.Abandoned {
		r.opsOut--
		op.User.(*disk).abandon()
	}
	for _, l := range w.eff.Logs {
		r.log.add(l.Level, r.volumeID(l.Volume), l.Text)
	}
	for i := range w.eff.Events {
		r.publish(&w.eff.Events[i])
	}
	for _, a := range w.eff.Net {
		r.netAction(a)
	}
	for _, cmd := range w.eff.Commands {
		r.finishCommand(cmd.User.(*command), cmd.Err)
	}
	if len(w.eff.Events) > 0 {
		snap := c.Snapshot()
		for i, v := range r.volumes {
			v.size.Store(int64(snap.Volumes[i].Size) * blockSector)
		}
		r.order.update(r, &snap)
		r.checkWatches(&snap)
	}
}

// routePackets gives packets that wait to whoever may send them: one goroutine at a
// time for each stream, this one if it may, else the stream's own.
func (r *Resource) routePackets(c *core.Core, w *work, l *link) {
	for id := range protocol.Stream(2) {
		st := l.streams[id]
		if st.sending || st.broken || c.OutPending(l.peer, id) == 0 {
			continue
		}
		if w.solo && l.holdAcks && len(w.own) > 0 && w.own[0].Kind == core.OpWrite {
			// The barrier's ack can leave together with that of the write behind
			// it, which this goroutine does next.
			continue
		}
		if !w.maySend(id) || l.closing && !w.sender {
			st.signal()
			continue
		}
		st.sending = true
		r.outsOut++
		l.users++
		s := sending{st: st}
		if !r.crowded() {
			s.out = c.TakeOut(l.peer, id, st.spare)
		}
		w.sends = append(w.sends, s)
	}
}

// maySend says whether this goroutine sends on a stream itself. An application's
// goroutine does so before its own disk operation and after it, but does not
// keep that waiting for the packets of others; and it stops when its request has
// completed.
func (w *work) maySend(id protocol.Stream) bool {
	if !w.may.has(id) {
		return false
	}
	return w.call == nil || w.call.pending && !(w.spoke && len(w.own) > 0)
}

// crowded says that more is going on than one or two requests, so that waiting a
// little before a batch of packets is taken makes it larger.
func (r *Resource) crowded() bool { return r.inFlight.n > 2 || r.opsOut > 2 }

// failLocked drops the core: nothing is decided any more. It is called under the lock.
func (r *Resource) failLocked(reason error) {
	if r.failed != nil {
		return
	}
	r.failed = reason
	r.dispatch.stop()
	for _, l := range r.links {
		if l != nil {
			l.shut(false)
		}
	}
	for len(r.commands) > 0 {
		r.finishCommand(r.commands[0], reason)
	}
	for _, wa := range r.watches {
		wa.done <- reason
	}
	r.watches = nil
	r.alarm.off()
	if r.order != nil {
		r.order.leave(r) // nobody waits for it
	}
}

// drain ends the requests of a resource that has failed, once no disk and no
// stream uses their buffers any more.
func (r *Resource) drain(w *work) {
	if r.opsOut > 0 || r.outsOut > 0 {
		return
	}
	for c := r.inFlight.first; c != nil; c = r.inFlight.first {
		r.inFlight.remove(c)
		c.io.Err = r.failed
		w.eff.Done = append(w.eff.Done, &c.io)
	}
}

func clearOps(ops []*core.Op) []*core.Op {
	clear(ops)
	return ops[:0]
}

func clearSends(s []sending) []sending {
	clear(s)
	return s[:0]
}
