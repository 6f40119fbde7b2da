// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import (
	"errors"
	"fmt"
	"iter"
)

// ErrBusy is returned by Resize while extents are referenced or changes pending.
// Stop the writes first.
var ErrBusy = errors.New("activitylog: extents are in use")

// Hold is the outcome of TryHold.
type Hold uint8

const (
	// HoldFull means that a slot is needed and none can be had: each is referenced
	// or changing. Nothing was referenced. Try again after a Release or a Commit.
	HoldFull Hold = iota

	// HoldStarving means that the extent is hot, but someone got HoldFull before and
	// nobody gets a hot extent until a transaction went through, or else those who
	// wait for a slot would wait as long as the others come back quickly enough
	// (spec: behaviour 5.5). Nothing was referenced. Try again after a Release or a
	// Commit.
	HoldStarving

	// HoldTooWide means that the range has more extents than the log has slots.
	// Nothing was referenced, and it never will be: split the request.
	HoldTooWide

	// HoldPending means that the extents are referenced, but the write must wait
	// until Granted, which a Commit brings about.
	HoldPending

	// HoldHot means that the extents are referenced and hot: write.
	HoldHot
)

// String returns the outcome's name.
func (h Hold) String() string {
	switch h {
	case HoldFull:
		return "full"
	case HoldStarving:
		return "starving"
	case HoldTooWide:
		return "too wide"
	case HoldPending:
		return "pending"
	case HoldHot:
		return "hot"
	}
	return fmt.Sprintf("Hold(%d)", uint8(h))
}

// Held reports whether the extents were referenced and have to be released.
func (h Hold) Held() bool { return h == HoldPending || h == HoldHot }

// slotState says how a slot's two extents relate to the disk.
type slotState uint8

const (
	stable   slotState = iota // the disk says committed; in the idle list if refs is 0
	queued                    // the disk says committed; pending will replace it
	retry                     // as queued, but a write failed: the disk may say either
	inFlight                  // pending is in the prepared transaction
)

// slot is one place of the log.
type slot struct {
	committed  Extent // as of the last committed transaction
	pending    Extent // what is to replace it, else Free
	refs       int32  // writes that need pending if there is one, else committed
	state      slotState
	prev, next int32 // in the one list the slot is in
}

// A Log is the set of hot extents in memory: an LRU of slots with reference counts,
// and the changes that wait for a transaction. It decides and encodes; the caller
// does the I/O.
//
// A write holds its extents from before it is submitted, or sent to the peer, until
// it is completely done, which for a mirrored write is not before the peer has
// acknowledged its epoch (spec: behaviour 5.5). The invariant: at any instant,
// whatever the disk holds of the transaction in flight, Replay finds every extent
// that is held and granted.
//
// A Log is not safe for concurrent use; the caller's lock guards it. No method but
// New and Resize allocates.
type Log struct {
	g     Geometry
	slots []slot
	index index

	idle   list // stable, no references; most recently used first, free ones last
	queue  list // queued and retry, oldest first
	flight list // inFlight

	hot        int // slots with committed != Free
	referenced int // slots with refs > 0
	starving   bool

	prepared bool
	current  Transaction // valid if prepared
	next     uint32      // number of the next transaction
	cycle    int         // first slot of the next context
}

// New returns an empty log with the given number of slots, clamped to what the
// geometry allows; 0 means DefaultExtents. The counter starts at 0, and so New
// expects that the ring on disk was initialised: a transaction left from before
// would count as newer. It panics if the geometry does not pass Check.
func New(extents int, g Geometry) *Log {
	if err := g.Check(); err != nil {
		panic(err)
	}
	if extents == 0 {
		extents = DefaultExtents
	}
	l := &Log{g: g.orDefault()}
	l.allocate(l.g.Clamp(extents))
	return l
}

func (l *Log) allocate(extents int) {
	l.slots = make([]slot, extents)
	l.index = newIndex(extents)
	l.reset()
}

// reset makes all slots free and drops every reference and change. The counter
// and its ring position stay.
func (l *Log) reset() {
	l.index.reset()
	l.idle, l.queue, l.flight = emptyList, emptyList, emptyList
	for i := range l.slots {
		l.slots[i] = slot{committed: Free, pending: Free}
		l.pushBack(&l.idle, int32(i))
	}
	l.hot, l.referenced, l.starving = 0, 0, false
	l.prepared, l.cycle = false, 0
}

// Extents returns the number of slots.
func (l *Log) Extents() int { return len(l.slots) }

// Geometry returns the shape of the ring.
func (l *Log) Geometry() Geometry { return l.g }

// Len returns the number of hot extents.
func (l *Log) Len() int { return l.hot }

// Referenced returns the number of slots that someone holds; DRBD compares it with
// congestion-extents (spec: behaviour 5.12).
func (l *Log) Referenced() int { return l.referenced }

// Pending returns the number of changes that wait for a transaction, those of a
// prepared one not included.
func (l *Log) Pending() int { return l.queue.n }

// Prepared reports whether a transaction is in flight.
func (l *Log) Prepared() bool { return l.prepared }

// Starving reports whether hot extents are being refused for the sake of those who
// wait for a slot. A caller that keeps its waiters in order tries them first.
func (l *Log) Starving() bool { return l.starving }

// Refs returns the number of references to an extent.
func (l *Log) Refs(e Extent) int {
	if i := l.holder(e); i >= 0 {
		return int(l.slots[i].refs)
	}
	return 0
}

// IsHot reports whether the last committed transaction has the extent as hot. An
// extent that is being evicted is hot until the Commit. This is no permission to
// write: only TryHold gives one.
func (l *Log) IsHot(e Extent) bool {
	committed, _ := l.find(e)
	return committed >= 0
}

// Granted reports whether all extents from first to last are hot, stay hot, and are
// referenced, so that a write that got HoldPending may now go on.
func (l *Log) Granted(first, last Extent) bool {
	for n, e := width(first, last), first; n > 0; n, e = n-1, e+1 {
		committed, pending := l.find(e)
		if pending >= 0 || committed < 0 {
			return false
		}
		if s := &l.slots[committed]; s.state != stable || s.refs == 0 {
			return false
		}
	}
	return true
}

// Hot iterates over the hot extents in the order of their slots. The log must not
// change meanwhile.
func (l *Log) Hot() iter.Seq[Extent] {
	return func(yield func(Extent) bool) { l.eachHot(yield) }
}

func (l *Log) eachHot(yield func(Extent) bool) {
	for i := range l.slots {
		if e := l.slots[i].committed; e != Free && !yield(e) {
			return
		}
	}
}

// DropAll forgets all hot extents, references and changes, also a prepared
// transaction, as after a detach. On disk the extents stay hot until transactions
// to come have gone round the ring.
func (l *Log) DropAll() { l.reset() }

// Restart is DropAll for a ring that was initialised anew on disk (InitBlock): the
// counter, too, begins again at 0.
func (l *Log) Restart() {
	l.reset()
	l.next = 0
}

// Continue sets the number of the next transaction of a log that holds nothing,
// where the ring was not initialised: Geometry.Next of the newest number that
// Replay found. It panics if the log is in use.
func (l *Log) Continue(next uint32) {
	if l.hot > 0 || l.busy() {
		panic("activitylog: Continue on a log in use")
	}
	l.next, l.cycle = next, 0
}

// Resize changes the number of slots, clamped to what the geometry allows. The log
// is empty afterwards, and the counter goes on: extents that were hot stay so on
// disk until transactions to come have gone round the ring, and cost nothing but
// some blocks to compare after a crash. It returns ErrBusy, and changes nothing,
// while extents are referenced or changes pending (spec: behaviour 5.5).
func (l *Log) Resize(extents int) error {
	if l.busy() {
		return fmt.Errorf("%w: %d referenced, %d pending", ErrBusy, l.referenced, l.queue.n+l.flight.n)
	}
	l.allocate(l.g.Clamp(extents))
	return nil
}

func (l *Log) busy() bool {
	return l.prepared || l.referenced > 0 || l.queue.n > 0
}
