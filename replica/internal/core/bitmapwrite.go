// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// bitmapWriter writes changed bitmap pages: one job at a time, one write at a
// time, so that an older copy of a page never lands after a newer one. The pages
// become durable with the flush in front of the next superblock or
// activity-log write (spec: on-disk 10.3).
type bitmapWriter struct {
	jobs    []bitmapJob
	running bool
	page    int // next page to look at
	buf     []byte
	// flushFirst: a bit was cleared because of data that the own disk may still
	// have in its cache. That data must be durable before the page says "in sync".
	flushFirst bool
	// young are the blocks that were cleared since the present job has begun, its
	// flush above all: on disk they stay marked until the next one.
	young    []blockRange
	tooYoung bool // there are more of them: another flush has to come first

	replacing int  // changes of the whole bitmap that are not on disk yet
	unsaid    int  // those of them that the superblock on disk does not know of
	parked    bool // the present job waits for that
}

// blockRange is the blocks [from, to).
type blockRange struct{ from, to uint64 }

const maxYoung = 512

// noteCleared remembers blocks that a page under way may not call in sync yet.
func (w *bitmapWriter) noteCleared(from, to uint64) {
	if !w.running {
		return
	}
	if n := len(w.young); n > 0 && w.young[n-1].to == from {
		w.young[n-1].to = to
	} else if n < maxYoung {
		w.young = append(w.young, blockRange{from, to})
	} else {
		w.tooYoung = true
	}
}

// keepYoung marks them in buf, which holds n pages from page first on, and sees to it
// that those pages are written again.
func (w *bitmapWriter) keepYoung(bm *bitmap.Bitmap, buf []byte, first, n int) {
	lo, hi := uint64(first)*pageBlocks, uint64(first+n)*pageBlocks
	for _, r := range w.young {
		for b := max(r.from, lo); b < min(r.to, hi); b++ {
			buf[(b-lo)/8] |= 1 << (b % 8)
			bm.MarkDirty(int(b / pageBlocks))
		}
	}
}

const pageBlocks = bitmap.PageBytes * 8

// bitmapJob is the dirty ones among some pages, or all that are dirty.
type bitmapJob struct {
	pages []int // nil: all dirty pages
	next  int
	first bool // no superblock is written before it has ended
	fn    func(error)
}

const bitmapRun = 64 // pages written at once: 256 KiB

// writeBitmap writes the dirty ones among pages (nil: all) and then calls fn.
func (v *volume) writeBitmap(pages []int, fn func(error)) {
	v.addBitmapJob(bitmapJob{pages: pages, fn: fn})
}

func (v *volume) addBitmapJob(j bitmapJob) {
	if !v.metaUsable() {
		j.fn(ErrDiskless)
		return
	}
	v.bmw.jobs = append(v.bmw.jobs, j)
	if !v.bmw.running {
		v.bmw.running = true
		v.startBitmapJob()
	}
}

// bitmapFirst is writeBitmap for a superblock that counts on the marks, and is held back
// until fn is called. The flag FullSync in it stands in for a bitmap that is being replaced.
func (v *volume) bitmapFirst(fn func(error)) {
	if v.bmw.unsaid > 0 {
		fn(nil)
		return
	}
	v.addBitmapJob(bitmapJob{first: true, fn: fn})
}

// replaceBitmap writes a bitmap that has changed as a whole, perhaps its size, and then
// calls fn. The flag FullSync covers the time until it is on disk: a crash in between
// means a full sync, which is right. Before the flag is durable no page goes out. One
// that has lost the marks behind a new end would be taken for the truth with the old end.
func (v *volume) replaceBitmap(fn func(error)) {
	v.bmw.replacing++
	v.bmw.unsaid++
	for _, pd := range v.pds {
		pd.resync.unheard = true
	}
	v.sb.Flags |= metadata.FullSync
	done := func(err error) {
		v.bmw.replacing--
		if err == nil && v.bmw.replacing == 0 {
			v.sb.Flags &^= metadata.FullSync
			v.md.dirty = true
		}
		fn(err)
	}
	v.syncSuper(func(err error) {
		v.bmw.unsaid--
		v.unparkBitmap()
		if err != nil {
			done(err)
			return
		}
		v.writeBitmap(nil, done)
	})
}

// parkBitmap lets the present job wait for a superblock, and those that a superblock
// waits for end.
func (v *volume) parkBitmap() {
	v.bmw.parked = true
	var ended []bitmapJob
	v.bmw.jobs = slices.DeleteFunc(v.bmw.jobs, func(j bitmapJob) bool {
		if j.first {
			ended = append(ended, j)
		}
		return j.first
	})
	for _, j := range ended {
		j.fn(nil)
	}
}

// unparkBitmap goes on with the jobs when the last of those superblocks is durable, or
// the disk is lost.
func (v *volume) unparkBitmap() {
	if !v.bmw.parked || v.bmw.unsaid > 0 {
		return
	}
	v.bmw.parked = false
	if len(v.bmw.jobs) == 0 {
		v.bmw.running = false
		return
	}
	v.bmw.page = 0 // it may be another job now; what was cleared since the flush stays young
	v.bitmapStep(nil)
}

// bitmapOf is the bitmap that the one slot of metadata v08 holds.
func (v *volume) bitmapOf() *bitmap.Bitmap { return v.pds[0].bm }

func (v *volume) startBitmapJob() {
	v.bmw.page = 0
	v.bmw.young, v.bmw.tooYoung = v.bmw.young[:0], false
	if !v.bmw.flushFirst || v.bitmapOf() == nil || v.bitmapOf().DirtyCount() == 0 {
		v.bitmapStep(nil)
		return
	}
	v.flushForBitmap()
}

// flushForBitmap makes durable what the bits were cleared for so far.
func (v *volume) flushForBitmap() {
	v.bmw.flushFirst, v.bmw.tooYoung, v.bmw.young = false, false, v.bmw.young[:0]
	v.flushData(func(err error) {
		if err != nil {
			v.bmw.flushFirst = true
		}
		v.bitmapStep(err)
	})
}

// flushData makes all data written so far durable.
func (v *volume) flushData(fn func(error)) {
	if !v.metaUsable() {
		fn(ErrDiskless)
		return
	}
	o := v.c.op()
	o.Kind, o.Volume, o.vol, o.fn = OpFlush, v.idx, v, func(err error) {
		if err != nil {
			// The disk may stay, by on-io-error pass-on: the next flush of the application fails.
			v.lostWrites = v.lostWrites || v.cfg.DetachOnIO == IOPassOn && v.role == protocol.Primary && v.pds[0].conn < protocol.Connected
			v.diskFailed(causeFlush, "flush", err)
		}
		fn(err)
	}
	v.c.issue(o)
}

// bitmapStep writes the next run of pages of the current job, or ends it.
func (v *volume) bitmapStep(err error) {
	bm := v.bitmapOf()
	if err != nil || bm == nil || !v.metaUsable() {
		if err == nil {
			err = ErrDiskless
		}
		v.endBitmapJob(err)
		return
	}
	if v.bmw.unsaid > 0 {
		v.parkBitmap()
		return
	}
	if v.bmw.tooYoung {
		v.flushForBitmap()
		return
	}
	from, n := v.nextRun(bm)
	if n == 0 {
		v.endBitmapJob(nil)
		return
	}
	if need := n * bitmap.PageBytes; cap(v.bmw.buf) < need {
		v.bmw.buf = make([]byte, need)
	}
	buf := v.bmw.buf[:n*bitmap.PageBytes]
	for i := range n {
		bm.Page(from+i, (*[bitmap.PageBytes]byte)(buf[i*bitmap.PageBytes:]))
		bm.MarkClean(from + i)
	}
	v.bmw.keepYoung(bm, buf, from, n)
	v.bmWrites += uint64(n)
	off := int64(from) * bitmap.PageBytes
	if rest := v.layout.BitmapSize - off; int64(len(buf)) > rest {
		buf = buf[:rest] // the last block of a flex-external device may be short
	}
	o := v.c.op()
	o.Kind, o.Volume, o.vol, o.Meta = OpWrite, v.idx, v, true
	o.Off, o.Buf, o.Len = v.layout.BitmapOffset+off, buf, int64(len(buf))
	o.fn = func(err error) {
		if err != nil {
			if cur := v.bitmapOf(); cur == bm {
				for p := from; p < min(from+n, bm.Pages()); p++ { // fewer, if it has shrunk
					bm.MarkDirty(p)
				}
			}
			v.diskFailed(causeMeta, "bitmap", err)
		}
		v.bitmapStep(err)
	}
	v.c.issue(o)
}

// nextRun finds the next dirty pages of the current job that lie side by side.
func (v *volume) nextRun(bm *bitmap.Bitmap) (from, n int) {
	j := &v.bmw.jobs[0]
	if j.pages != nil {
		for j.next < len(j.pages) {
			p := j.pages[j.next]
			j.next++
			if p < bm.Pages() && bm.PageDirty(p) {
				return p, 1
			}
		}
		return 0, 0
	}
	p, ok := bm.NextDirty(v.bmw.page)
	if !ok {
		return 0, 0
	}
	for n = 1; n < bitmapRun && p+n < bm.Pages() && bm.PageDirty(p+n); n++ {
	}
	v.bmw.page = p + n
	return p, n
}

func (v *volume) endBitmapJob(err error) {
	j := v.bmw.jobs[0]
	v.bmw.jobs = v.bmw.jobs[:copy(v.bmw.jobs, v.bmw.jobs[1:])]
	if len(v.bmw.jobs) > 0 {
		v.startBitmapJob()
	} else {
		v.bmw.running = false
	}
	j.fn(err)
}
