// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
)

// alState is the activity log at work: before data is written, every 4 MiB extent
// it touches is hot on disk (spec: behaviour 5.5). Writes that need a
// transaction wait; one transaction serves up to 64 changes.
type alState struct {
	log     *activitylog.Log
	writing bool
	waiting []*alHold
	retry   []*alHold // scratch
	evicted []activitylog.Extent
	pages   []int
	block   *[metadata.BlockSize]byte // under way; a disk that does not answer keeps it
	offset  int64                     // where the block under way goes
	susp    bool                      // everything is marked on disk, and nobody clears marks: no log is needed
}

// alHold is a write's hold on its extents.
type alHold struct {
	log         *activitylog.Log // that gave the references; nil if none are held
	first, last activitylog.Extent
	ready       func(*Core, *alHold) // continuation; a package function
	req         *request
	peer        *peerReq
}

// alBegin takes references on the extents of a range and reports whether all are
// hot. If not, h.ready is called when they are, or when the disk is gone.
func (v *volume) alBegin(h *alHold, sector uint64, size uint32) bool {
	h.first, h.last = activitylog.ExtentRange(sector, uint64(size)/512)
	if v.alTry(h) {
		return true
	}
	v.al.waiting = append(v.al.waiting, h)
	v.alCommit()
	return false
}

// alTry takes what references it can get, all or none, and reports whether the
// write may go on.
func (v *volume) alTry(h *alHold) bool {
	if h.log != nil {
		return h.log.Granted(h.first, h.last)
	}
	got := v.al.log.TryHoldRange(h.first, h.last)
	if got.Held() {
		h.log = v.al.log
	}
	return got == activitylog.HoldHot
}

// alEnd gives the references back.
func (v *volume) alEnd(h *alHold) {
	log := h.log
	h.log = nil
	if log == nil || log != v.al.log {
		return // the disk, and the log with it, has gone in the meantime
	}
	log.ReleaseRange(h.first, h.last)
	if len(v.al.waiting) > 0 {
		v.alRetry()
	}
}

// alRetry lets those go on whose extents are hot by now.
func (v *volume) alRetry() {
	if len(v.al.waiting) == 0 || v.al.log == nil {
		return
	}
	batch := v.al.waiting
	v.al.waiting, v.al.retry = v.al.retry[:0], nil
	for _, h := range batch {
		if v.al.log != nil && !v.alTry(h) {
			v.al.waiting = append(v.al.waiting, h)
			continue
		}
		h.ready(v.c, h)
	}
	clear(batch)
	v.al.retry = batch[:0]
	v.alCommit()
}

// alCommit begins a transaction if changes are pending and none is under way:
// first the bitmap pages of evicted extents, then the block.
func (v *volume) alCommit() {
	if v.al.writing || v.al.log == nil || v.al.log.Pending() == 0 || !v.metaUsable() {
		return
	}
	t, evicted, ok := v.al.log.Prepare(v.al.block, v.al.evicted[:0])
	v.al.evicted = evicted
	if !ok {
		return
	}
	v.al.writing = true
	v.al.offset = v.layout.ActivityLogOffset + t.Offset()
	v.al.pages = v.al.pages[:0]
	for _, e := range evicted {
		bit := uint64(e) * activitylog.ExtentSectors / 8
		// A page that is clean may be on its way to the disk: the job waits for that.
		if p := int(bit / bitmap.PageBits); p < v.bitmapOf().Pages() && (v.bitmapOf().PageDirty(p) || v.bmw.running) {
			v.al.pages = append(v.al.pages, p)
		}
	}
	switch {
	case len(v.al.pages) > 0:
		v.writeBitmap(v.al.pages, v.alFlushData)
	case len(evicted) > 0:
		v.alFlushData(nil)
	default:
		v.alWrite(nil)
	}
}

// alFlushData: an extent may only leave the log when its data is durable here
// too. On the same device the flush in front of the block does that.
func (v *volume) alFlushData(err error) {
	if err != nil || v.sameDevice {
		v.alWrite(err)
		return
	}
	v.flushData(v.alWrite)
}

func (v *volume) alWrite(err error) {
	if !v.al.writing {
		return
	}
	if err != nil || !v.metaUsable() {
		v.alFailed()
		return
	}
	o := v.c.op()
	o.Kind, o.Volume, o.vol, o.Meta = OpWrite, v.idx, v, true
	o.Off, o.Buf, o.Len = v.al.offset, v.al.block[:], metadata.BlockSize
	o.PreFlush, o.FUA = true, true
	o.done = alDone
	v.c.issue(o)
}

func alDone(c *Core, o *Op) {
	v := o.vol
	if !v.al.writing {
		return // the disk failed in the meantime, and the transaction was given up
	}
	if o.Err != nil {
		v.diskFailed(causeMeta, "activity log", o.Err)
		v.alFailed()
		return
	}
	v.alWrites++
	v.al.writing = false
	if v.al.log == nil {
		return
	}
	v.al.log.Commit()
	v.alRetry()
}

// alFailed: the disk is on its way out, and with it the need for a log. Who
// waited goes on, to be served by the peer.
func (v *volume) alFailed() {
	if v.al.log != nil && v.al.writing {
		v.al.log.Abort()
	}
	v.al.writing = false
	users := v.al.waiting
	v.al.waiting = nil
	for _, h := range users {
		h.ready(v.c, h)
	}
}
