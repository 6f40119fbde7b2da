// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// EventKind says what an Event reports.
type EventKind uint8

// The kinds of events.
const (
	// EventState: the state of a volume changed from Old to New.
	EventState EventKind = iota + 1
	// EventResyncStart: a resync of Blocks began.
	EventResyncStart
	// EventResyncDone: a resync ended; of Blocks at its start Failed failed.
	EventResyncDone
	// EventVerdict: a sync handshake was decided: Decision, and Text in words.
	EventVerdict
	// EventSplitBrain: a split brain that no policy solved; both nodes go
	// StandAlone.
	EventSplitBrain
	// EventIOError: a disk failed: Text.
	EventIOError
	// EventSize: the size of a volume changed to Size.
	EventSize
	// EventHandler: DRBD would run the handler named Text now (spec: behaviour 8.3).
	EventHandler
	// EventRefused: this node refused the connection and goes StandAlone: Err, in
	// words Text.
	EventRefused
	// EventLagged: this reader was too slow and missed Missed events. What they
	// led to is in Status.
	EventLagged
	// EventQuorum: the arbiter is asked, or has answered: Text. Err matches ErrNoQuorum if
	// it did not say yes.
	EventQuorum
	// EventVerifyStart: an online verify of Blocks began, on this node or the peer.
	EventVerifyStart
	// EventOutOfSync: it found that Size bytes at Off differ. They are marked.
	EventOutOfSync
	// EventVerifyDone: it ended: of Blocks Failed differ. Err says what interrupted it,
	// and is nil if nothing did.
	EventVerifyDone
)

// String returns the kind in words, as "state".
func (k EventKind) String() string {
	names := [...]string{"", "state", "resync-start", "resync-done", "verdict", "split-brain", "io-error", "size", "handler", "refused", "lagged", "quorum",
		"verify-start", "out-of-sync", "verify-done"}
	if int(k) < len(names) && k > 0 {
		return names[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Event is one entry of a resource's event stream. Which fields mean something
// depends on Kind.
type Event struct {
	// Seq numbers the events of a resource from 1, without gaps. EventLagged
	// carries the number of the last event that was missed.
	Seq  uint64
	Time time.Time
	Kind EventKind

	Volume int    // volume ID, -1 if the event concerns the whole connection
	Peer   string // PeerConfig.Name

	Old, New protocol.State
	Decision *metadata.Decision
	Blocks   uint64 // of 4 KiB
	Failed   uint64 // of 4 KiB
	Size     int64  // bytes
	Off      int64  // bytes
	Missed   uint64
	Text     string
	Err      error // as errors.Is finds it: ErrSplitBrain, ErrIncompatible, ErrAuthentication, ...
}

// String returns one line for people, as
// "volume 0: conn( WFConnection -> WFReportParams )".
func (e Event) String() string {
	var b strings.Builder
	if e.Volume >= 0 && e.Kind != EventLagged {
		fmt.Fprintf(&b, "volume %d: ", e.Volume)
	}
	switch e.Kind {
	case EventState:
		b.WriteString(stateDiff(e.Old, e.New))
	case EventResyncStart:
		fmt.Fprintf(&b, "resync of %d KiB began", e.Blocks*4)
	case EventResyncDone:
		fmt.Fprintf(&b, "resync of %d KiB done, %d KiB failed", e.Blocks*4, e.Failed*4)
	case EventVerifyStart:
		fmt.Fprintf(&b, "verify of %d KiB began", e.Blocks*4)
	case EventOutOfSync:
		fmt.Fprintf(&b, "%d bytes at %d are out of sync", e.Size, e.Off)
	case EventVerifyDone:
		fmt.Fprintf(&b, "verify of %d KiB done, %d KiB differ", e.Blocks*4, e.Failed*4)
		if e.Err != nil {
			fmt.Fprintf(&b, ", interrupted: %v", e.Err)
		}
	case EventSize:
		fmt.Fprintf(&b, "size is now %d bytes", e.Size)
	case EventLagged:
		fmt.Fprintf(&b, "missed %d events", e.Missed)
	default:
		b.WriteString(e.Kind.String())
		if e.Text != "" {
			b.WriteString(": ")
			b.WriteString(e.Text)
		}
	}
	return b.String()
}

// stateDiff writes what changed as DRBD logs it (spec: behaviour 9.7).
func stateDiff(o, n protocol.State) string {
	var b strings.Builder
	add := func(name string, from, to any) {
		if from == to {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s( %v -> %v )", name, from, to)
	}
	add("peer", o.Peer, n.Peer)
	add("role", o.Role, n.Role)
	add("conn", o.Conn, n.Conn)
	add("disk", o.Disk, n.Disk)
	add("pdsk", o.PeerDisk, n.PeerDisk)
	add("susp", bit(o.Susp), bit(n.Susp))
	add("susp_nod", bit(o.SuspNoData), bit(n.SuspNoData))
	add("susp_fen", bit(o.SuspFencing), bit(n.SuspFencing))
	add("aftr_isp", bit(o.AftrISP), bit(n.AftrISP))
	add("peer_isp", bit(o.PeerISP), bit(n.PeerISP))
	add("user_isp", bit(o.UserISP), bit(n.UserISP))
	return b.String()
}

func bit(on bool) int {
	if on {
		return 1
	}
	return 0
}

// eventQueueLen is how many events wait for one reader.
const eventQueueLen = 256

// Events returns the events from now on, in the order in which they happened:
// the subscription begins with this call, not with the first iteration. The
// sequence ends when ctx ends, when the loop is left, or after the last event of
// a resource that was closed. It can be iterated once.
//
// Each reader has a queue of 256 events. A reader that is slower loses the
// oldest of them, and finds an EventLagged in their place; it never holds up
// the resource or other readers.
func (r *Resource) Events(ctx context.Context) iter.Seq[Event] {
	s := r.hub.subscribe()
	stop := context.AfterFunc(ctx, func() { r.hub.remove(s) })
	return func(yield func(Event) bool) {
		defer stop()
		defer r.hub.remove(s)
		for {
			ev, ok := s.next(ctx)
			if !ok || !yield(ev) {
				return
			}
		}
	}
}

// hub hands events to subscribers.
type hub struct {
	mu     sync.Mutex
	seq    uint64
	subs   []*subscription
	closed bool
}

// subscription is one reader's queue.
type subscription struct {
	mu     sync.Mutex
	queue  []Event // ring
	head   int     // of the oldest
	n      int
	missed uint64 // dropped in front of the oldest
	lastID uint64 // Seq of the last one dropped
	ended  bool
	wake   chan struct{}
}

func (h *hub) subscribe() *subscription {
	s := &subscription{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.ended = true
		return s
	}
	h.subs = append(h.subs, s)
	return s
}

// remove ends a subscription. What is queued can still be read.
func (h *hub) remove(s *subscription) {
	h.mu.Lock()
	for i := range h.subs {
		if h.subs[i] == s {
			h.subs = append(h.subs[:i], h.subs[i+1:]...)
			break
		}
	}
	h.mu.Unlock()
	s.end()
}

// close ends all subscriptions.
func (h *hub) close() {
	h.mu.Lock()
	subs := h.subs
	h.subs, h.closed = nil, true
	h.mu.Unlock()
	for _, s := range subs {
		s.end()
	}
}

// publish numbers an event and queues it for everybody. It never blocks. The
// caller's lock gives the order.
func (h *hub) publish(ev Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	ev.Seq = h.seq
	for _, s := range h.subs {
		s.push(ev)
	}
}

func (s *subscription) push(ev Event) {
	s.mu.Lock()
	if s.n == len(s.queue) && s.n < eventQueueLen {
		// It grows with its reader's delay: most are empty most of the time.
		grown := make([]Event, min(max(2*s.n, 8), eventQueueLen))
		n := copy(grown, s.queue[s.head:])
		copy(grown[n:], s.queue[:s.head])
		s.queue, s.head = grown, 0
	}
	if s.n == len(s.queue) {
		s.missed++
		s.lastID = s.queue[s.head].Seq
		s.head = (s.head + 1) % len(s.queue)
		s.n--
	}
	s.queue[(s.head+s.n)%len(s.queue)] = ev
	s.n++
	s.mu.Unlock()
	s.signal()
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscription) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.signal()
}

// next waits for an event; false means that there will be none.
func (s *subscription) next(ctx context.Context) (Event, bool) {
	for ctx.Err() == nil {
		ev, ok, ended := s.pop()
		if ok || ended {
			return ev, ok
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	return Event{}, false
}

// pop takes the oldest event, or the marker for those that were dropped before it.
func (s *subscription) pop() (ev Event, ok, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.missed > 0:
		ev = Event{Kind: EventLagged, Seq: s.lastID, Missed: s.missed, Volume: -1, Time: s.queue[s.head].Time}
		s.missed = 0
		return ev, true, false
	case s.n > 0:
		ev = s.queue[s.head]
		s.queue[s.head] = Event{}
		s.head = (s.head + 1) % len(s.queue)
		s.n--
		return ev, true, false
	}
	return Event{}, false, s.ended
}
