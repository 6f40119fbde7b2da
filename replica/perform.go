// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"runtime"
	"time"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// What a goroutine does after a visit, without the lock.

// diskOp is an operation of the core on its way through a queue.
type diskOp struct {
	op   blockdev.Op
	core *core.Op
	disk *disk
	r    *Resource
	w    work
}

func newDiskOp(r *Resource) *diskOp {
	d := &diskOp{r: r}
	d.op.Done = d.finished
	return d
}

func (r *Resource) newDiskOp(op *core.Op) *diskOp {
	d := r.diskOps.Get().(*diskOp)
	d.core, d.disk = op, op.User.(*disk)
	translate(&d.op, op)
	return d
}

func (r *Resource) freeDiskOp(d *diskOp) {
	d.core, d.disk, d.op.Buf = nil, nil, nil
	r.diskOps.Put(d)
}

// translate fills in an operation of package blockdev. Done stays.
func translate(dst *blockdev.Op, op *core.Op) {
	dst.Kind = blockdev.OpRead + blockdev.OpKind(op.Kind) // the two lists have the same order
	dst.Off, dst.N, dst.Buf = op.Off, op.Len, op.Buf
	dst.PreFlush, dst.FUA, dst.MayUnmap, dst.ZeroEdges = op.PreFlush, op.FUA, op.MayUnmap, op.ZeroEdges
	dst.Err = nil
}

// finished is called by the queue. The visit happens on the queue's goroutine,
// which must not write on a stream: that might wait for the peer.
func (d *diskOp) finished(op *blockdev.Op) {
	d.core.Err = op.Err
	d.core.Sum()
	d.w.done = append(d.w.done, d.core)
	r := d.r
	r.visit(&d.w, nil)
	d.w.perform(r)
	r.freeDiskOp(d)
}

// perform wakes those whose requests have completed, and submits operations to
// the queues.
func (w *work) perform(r *Resource) {
	for i, io := range w.eff.Done {
		w.eff.Done[i] = nil
		io.User.(*call).wake()
	}
	if len(w.jobs) > 0 {
		w.submit(r)
	}
}

// submit gives w.jobs to the queues, each run for the same queue at once.
func (w *work) submit(r *Resource) {
	for i := 0; i < len(w.jobs); {
		q := w.jobs[i].queue()
		w.batch = w.batch[:0]
		for ; i < len(w.jobs) && w.jobs[i].queue() == q; i++ {
			w.batch = append(w.batch, &w.jobs[i].op)
		}
		// From here on the operations may end, and be reused, at any time.
		if len(w.batch) == 1 {
			q.Submit(w.batch[0])
		} else {
			q.SubmitBatch(w.batch)
		}
	}
	clear(w.jobs)
	clear(w.batch)
	w.jobs = w.jobs[:0]
}

// queue is where the operation goes.
func (d *diskOp) queue() blockdev.Queue { return d.disk.queue(d.core.Meta) }

// queue returns the disk's queue for data or for metadata.
func (d *disk) queue(meta bool) blockdev.Queue {
	switch {
	case d == nil:
		return gone{}
	case meta:
		return d.md
	}
	return d.data
}

// performOwn performs w's own operations on this goroutine.
func (w *work) performOwn(r *Resource) {
	for _, op := range w.own {
		d := op.User.(*disk)
		translate(&w.op, op)
		if w.turn++; w.turn%paceSample == 0 {
			began := time.Now()
			d.queue(op.Meta).Do(&w.op)
			d.took(op, time.Since(began))
		} else {
			d.queue(op.Meta).Do(&w.op)
		}
		op.Err = w.op.Err
		op.Sum()
		w.done = append(w.done, op)
	}
	w.op.Buf = nil
	w.own = clearOps(w.own)
}

// A disk on which a small request takes less than fastPace is as quick as memory:
// every goroutine performs its own requests, because handing them over costs more.
// On others only a lone request is worth that: many goroutines that wait in system
// calls starve each other, and a queue (an io_uring) does not.
const (
	fastPace   = 15 * time.Microsecond
	paceSample = 8        // one in so many own operations is timed
	paceBytes  = 16 << 10 // larger ones say nothing about the disk
)

func (d *disk) fast() bool { return d != nil && d.pace.Load() < int64(fastPace) }

// took adds a measurement to the average, of which it is an eighth.
func (d *disk) took(op *core.Op, t time.Duration) {
	if d == nil || op.Meta || op.Len > paceBytes || op.Kind != core.OpRead && op.Kind != core.OpWrite {
		return
	}
	old := d.pace.Load()
	d.pace.Store(old + (int64(t)-old)/8) // a lost update does not matter
}

// send sends what w has taken.
func (w *work) send(r *Resource) {
	for _, s := range w.sends {
		if s.out == nil {
			runtime.Gosched()
			s.out = r.takeLate(s.st)
		}
		s.err = s.st.write(s.out)
		w.sent = append(w.sent, s)
	}
	w.sends = clearSends(w.sends)
	w.spoke = true
}

// takeLate takes the packets of a stream that is reserved for the caller. By now
// there are at least as many as when it was reserved.
func (r *Resource) takeLate(st *stream) *core.Out {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out *core.Out
	if r.failed == nil {
		out = r.core.TakeOut(st.link.peer, st.id, st.spare)
	}
	if out == nil {
		out = &core.Out{} // the core was dropped: nothing to send
	}
	return out
}

// loop performs, sends and visits until nothing is left for this goroutine.
func (w *work) loop(r *Resource) {
	for {
		w.perform(r)
		switch {
		case len(w.sends) > 0:
			w.send(r)
		case len(w.own) > 0:
			w.performOwn(r)
		default:
			return
		}
		r.visit(w, nil)
	}
}
