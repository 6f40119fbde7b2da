// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// Two simulated nodes live through random events and keep their identifiers by this
// package's operations only. Beside them the model keeps the truth: the data of every
// block, and of each disk the set of all that ever happened to it, so that it knows
// whether one is an ancestor of the other. Each handshake's verdict is held against
// the truth.
//
// What counts as happening to a disk: a completed write, and the birth of a
// generation; two Primaries that were cut apart have diverged even if neither wrote.
// Not modelled: fencing, suspended I/O, size changes, failing disks.

const simBlocks = 4

// lineage is a set of tokens, each for something that happened.
type lineage [16]uint64

func (l *lineage) add(token int) { l[token/64] |= 1 << (token % 64) }

func (l *lineage) has(o *lineage) bool {
	for i := range l {
		if o[i]&^l[i] != 0 {
			return false
		}
	}
	return true
}

type simNode struct {
	up, primary bool
	ids         GenerationIDs
	disk        DiskState
	crashed     bool          // crashed as Primary, not both UpToDate since
	discard     bool          // discard-my-data at the next connect
	told        GenerationIDs // the peer's tuple as this node knows it
	feed        Feed
	commanded   bool // new-current-uuid since the nodes were in sync
	data        [simBlocks]int
	bits, hot   [simBlocks]bool
	past        lineage
}

func (n *simNode) count() (c uint64) {
	for _, b := range n.bits {
		if b {
			c++
		}
	}
	return c
}

// phases of a resync
const (
	noSync   = iota
	agreed   // bitmaps exchanged
	named    // the source has made the sync UUID, the target does not know it
	running  // the target has adopted it
	pinged   // the target has all blocks and its ping was answered
	finished // the target has finished, the source does not know
)

type simPair struct {
	node      [2]simNode
	connected bool
	phase     int
	source    int
	full      bool // every block
	// Some pairs allow two Primaries.
	twoPrimaries bool
	tokens       int
	rnd          *rand.Rand // identifiers
	trace        bool
	log          []string
	seen         map[string]int // what came up, over all runs
}

func newSimPair(seed uint64, seen map[string]int) *simPair {
	p := &simPair{rnd: rand.New(rand.NewPCG(seed, 7)), seen: seen, twoPrimaries: seed%3 == 0}
	for i := range p.node {
		n := &p.node[i]
		n.up, n.ids, n.disk = true, JustCreated(), DiskInconsistent
		for b := range n.bits {
			n.bits[b], n.data[b] = true, -1-i // different garbage
		}
	}
	if seed%4 != 0 { // most begin in sync
		p.connected = true
		_ = p.skipInitialSync(0, 0)
	}
	return p
}

func (p *simPair) logf(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

func (p *simPair) token() int { p.tokens++; return p.tokens }

func (p *simPair) random() UUID { return UUID(p.rnd.Uint64()) }

// step is one event: which one, at which node, with which block or variant.
type step struct{ kind, node, arg int }

var simEvents = []struct {
	name   string
	weight int
	do     func(p *simPair, i, arg int) error
}{
	{"connect", 6, (*simPair).connect},
	{"cut", 3, (*simPair).cut},
	{"promote", 4, (*simPair).promote},
	{"force", 1, (*simPair).force},
	{"demote", 3, (*simPair).demote},
	{"write", 6, (*simPair).write},
	{"sync", 40, (*simPair).syncStep},
	{"crash", 2, (*simPair).crash},
	{"start", 4, (*simPair).start},
	{"down", 1, (*simPair).down},
	{"skip-initial-sync", 1, (*simPair).skipInitialSync},
	{"new-current-uuid", 1, (*simPair).newCurrentUUID},
}

func (p *simPair) run(s step) error {
	e := simEvents[s.kind]
	if err := e.do(p, s.node, s.arg); err != nil {
		return fmt.Errorf("%s n%d: %w", e.name, s.node, err)
	}
	if p.trace {
		p.logf("%-17s n%d %d | %s | %s | phase %d", e.name, s.node, s.arg, p.node[0].String(), p.node[1].String(), p.phase)
	}
	return p.check()
}

func (n *simNode) String() string {
	role := map[bool]string{false: "Sec", true: "Pri"}[n.primary]
	if !n.up {
		role = "off"
	}
	return fmt.Sprintf("%s %s %-12v bits %d", n.ids, role, n.disk, n.count())
}

// check holds between events: equal identity and no bits mean equal data.
func (p *simPair) check() error {
	a, b := &p.node[0], &p.node[1]
	if p.connected && p.phase == noSync && a.disk == DiskUpToDate && b.disk == DiskUpToDate {
		if a.data != b.data && a.count() == 0 && b.count() == 0 {
			return fmt.Errorf("connected, UpToDate, no bits, and different data: %v, %v", a.data, b.data)
		}
		if !a.ids.Current.Equal(b.ids.Current) {
			return fmt.Errorf("connected, UpToDate, and different generations")
		}
	}
	return nil
}

func (p *simPair) begin(i int, b Birth) {
	if b == NoBirth {
		return
	}
	n := &p.node[i]
	n.ids, n.feed = n.ids.Begin(b, p.random(), n.primary), Feed{}
	n.past.add(p.token())
	p.seen[[...]string{"", "birth new", "birth beside"}[b]]++
}

// lose is what a node does when the connection goes.
func (p *simPair) lose(i int) {
	n, pdsk := &p.node[i], p.node[1-i].disk
	if p.phase == finished && i == p.source {
		pdsk = DiskInconsistent // as far as the source knows
	}
	after := DiskUnknown
	if pdsk == DiskInconsistent {
		after = DiskInconsistent // remembered (spec: behaviour 2.4, S1)
	}
	if n.up {
		p.begin(i, n.ids.BirthOnLoss(pdsk, after, false, n.primary, n.disk, n.feed.PeerMayShare()))
	}
}

// cut breaks the link. A Primary may have had a write under way, which reached any
// of the two disks and was not completed.
func (p *simPair) cut(_, arg int) error {
	if !p.connected {
		return nil
	}
	p.connected = false
	p.inFlight(arg)
	p.lose(0)
	p.lose(1)
	p.phase = noSync
	return nil
}

func (p *simPair) inFlight(arg int) {
	for i := range p.node {
		n, peer := &p.node[i], &p.node[1-i]
		if !n.primary || arg&(1<<i) == 0 {
			continue
		}
		b, w := arg>>2%simBlocks, p.token() // never completes, so it is no part of the past
		if arg&16 != 0 {
			n.data[b] = w
		}
		if arg&32 != 0 && p.phase != agreed && p.phase != named {
			peer.data[b] = w
		}
		n.bits[b], n.hot[b] = true, true
	}
}

func (p *simPair) promote(i, _ int) error { return p.promoteBy(i, false) }
func (p *simPair) force(i, _ int) error   { return p.promoteBy(i, true) }

func (p *simPair) promoteBy(i int, force bool) error {
	n, peer := &p.node[i], &p.node[1-i]
	switch {
	case !n.up || n.primary, p.connected && peer.primary && !p.twoPrimaries:
		return nil
	case p.connected && p.phase != noSync && p.phase != running && p.phase != pinged:
		return nil // transient: the administrator would wait
	}
	reach := n.disk == DiskUpToDate || p.connected && peer.disk == DiskUpToDate
	if !reach && !force {
		return nil
	}
	forced := !reach
	if forced {
		n.disk = DiskUpToDate
	}
	n.primary, n.discard = true, false
	p.begin(i, n.ids.BirthOnPromotion(forced, p.connected, peer.disk, n.feed.PeerMayShare()))
	n.ids = n.ids.SetPrimary(true)
	if forced && p.connected {
		return p.handshake() // both were Inconsistent
	}
	return nil
}

func (p *simPair) demote(i, _ int) error {
	n := &p.node[i]
	if n.up {
		n.primary, n.ids = false, n.ids.SetPrimary(false)
	}
	return nil
}

func (p *simPair) write(i, arg int) error {
	n, peer, b := &p.node[i], &p.node[1-i], arg%simBlocks
	switch {
	case !n.primary || !n.up:
		return nil
	case n.disk != DiskUpToDate && !p.connected:
		return nil // no good data: fails
	case p.connected && i != p.source && (p.phase == agreed || p.phase == named):
		return nil // blocked
	}
	w := p.token()
	n.data[b], n.hot[b] = w, true
	n.past.add(w)
	switch {
	case !p.connected:
		n.bits[b] = true
	case p.phase == agreed || p.phase == named:
		n.bits[b], peer.bits[b] = true, true // told as out of sync
	default:
		peer.data[b] = w
		peer.past.add(w)
		n.bits[b], peer.bits[b] = false, false // a whole block
	}
	return nil
}

func (p *simPair) crash(i, arg int) error {
	n := &p.node[i]
	if !n.up {
		return nil
	}
	if p.connected {
		p.connected = false
		p.inFlight(arg)
		p.lose(1 - i)
		p.phase = noSync
	}
	n.up, n.discard = false, false
	n.crashed = n.crashed || n.primary
	if n.primary { // activity log
		for b := range n.bits {
			n.bits[b] = n.bits[b] || n.hot[b]
		}
	}
	n.primary = false
	return nil
}

func (p *simPair) start(i, _ int) error {
	n := &p.node[i]
	if !n.up {
		n.up, n.ids, n.feed = true, n.ids.SetPrimary(false), FeedAfterAttach(n.ids)
	}
	return nil
}

func (p *simPair) down(i, arg int) error {
	p.demote(i, 0)
	p.cut(i, arg&^(1<<i))
	p.node[i].up, p.node[i].discard = false, false
	return nil
}

func (p *simPair) skipInitialSync(i, _ int) error {
	n, peer := &p.node[i], &p.node[1-i]
	if !p.connected || p.phase != noSync || !n.ids.IsJustCreated() || !peer.ids.IsJustCreated() {
		return nil
	}
	peer.data = n.data // the administrator vouches for it
	sent := n.ids.SkipInitialSync(p.random(), n.primary)
	n.ids, peer.ids = sent.DropBitmap(), peer.ids.AdoptSkipped(sent, peer.primary)
	n.disk, peer.disk = DiskUpToDate, DiskUpToDate
	n.bits, peer.bits = [simBlocks]bool{}, [simBlocks]bool{}
	w := p.token()
	n.past, peer.past = lineage{}, lineage{}
	n.past.add(w)
	peer.past.add(w)
	n.told, peer.told = peer.ids, n.ids
	return nil
}

// newCurrentUUID is the administrator's, StandAlone, once between two times in sync: each
// time moves an ancestor towards the end of the history, and it has but two entries.
// What --clear-bitmap says of the data is the administrator's word, and not modelled.
func (p *simPair) newCurrentUUID(i, _ int) error {
	n := &p.node[i]
	if p.connected || !n.up || n.disk != DiskUpToDate || n.commanded {
		return nil
	}
	n.commanded = true
	n.feed = Feed{}
	n.ids = n.ids.NewCurrentCommand(p.random(), n.primary)
	n.past.add(p.token())
	return nil
}

func (p *simPair) connect(i, arg int) error {
	if p.connected || !p.node[0].up || !p.node[1].up {
		return nil
	}
	if n := &p.node[i]; arg%4 == 0 && !n.primary {
		n.discard = true
	}
	p.connected, p.phase = true, noSync
	for i := range p.node {
		p.node[i].told = p.node[1-i].ids
	}
	return p.handshake()
}

func (p *simPair) side(i int) Side {
	n := &p.node[i]
	s := Side{IDs: n.ids, BitmapBits: n.count(), Primary: n.primary, CrashedPrimary: n.crashed}
	if n.discard {
		s.Flags |= FlagDiscardMyData
	}
	return s
}

func (p *simPair) handshake() error {
	var d [2]Decision
	resolver := int(p.rnd.Uint32() & 1)
	for i := range d {
		d[i] = Decide(DecideInput{
			CompareInput: CompareInput{
				Own: p.side(i), Peer: p.side(1 - i), Resolver: i == resolver, Version: 101, Features: 0xf,
			},
			OwnDisk: p.node[i].disk, PeerDisk: p.node[1-i].disk,
		})
	}
	p.seen["rule "+strconv.Itoa(d[0].Verdict.Rule)]++
	p.seen["action "+d[0].Action.String()]++
	if err := p.judge(d); err != nil {
		return err
	}
	for i := range d {
		n := &p.node[i]
		n.ids, n.told, n.discard = d[i].Verdict.CorrectedOwn, d[i].Verdict.CorrectedPeer, false
	}
	if d[0].Refusal != NotRefused || d[1].Refusal != NotRefused {
		// Nothing was written, so nothing was under way; a handshake on a live
		// connection that fails is a lost one.
		p.connected = false
		p.lose(0)
		p.lose(1)
		return nil
	}
	if d[0].Action == ActConnected {
		p.inSync()
		return nil
	}
	p.phase, p.source, p.full = agreed, 0, d[0].FullSync
	if d[1].Action == ActBecomeSource {
		p.source = 1
	}
	for b := range simBlocks {
		both := p.node[0].bits[b] || p.node[1].bits[b] || d[0].FullSync
		p.node[0].bits[b], p.node[1].bits[b] = both, both
	}
	return nil
}

func (p *simPair) inSync() {
	a, b := &p.node[0], &p.node[1]
	if a.disk == DiskUpToDate && b.disk == DiskUpToDate {
		a.crashed, b.crashed = false, false
		a.commanded, b.commanded = false, false
	}
}

// syncStep brings a resync one step further.
func (p *simPair) syncStep(_, _ int) error {
	if !p.connected {
		return nil
	}
	s, t := &p.node[p.source], &p.node[1-p.source]
	switch p.phase {
	case agreed:
		// Written now, sent next: a cut may come between.
		if p.full {
			s.ids = s.ids.RebaseFor(s.told.Current)
		}
		s.ids, _ = s.ids.BecomeSource(p.random())
		s.feed = FeedStarted(s.ids, s.told)
		p.phase = named
	case named:
		t.ids, t.disk = t.ids.AdoptSyncUUID(s.ids.Bitmap, t.primary), DiskInconsistent
		s.past.add(p.token()) // a target that is declared good before the end lacks this
		p.phase = running
	case running:
		for b := range simBlocks {
			if t.bits[b] {
				t.data[b] = s.data[b]
				s.bits[b], t.bits[b] = false, false
				return nil
			}
		}
		s.feed = s.feed.PingReceived(s.count())
		p.phase = pinged
	case pinged:
		t.ids, t.disk = t.ids.FinishAsTarget(t.told, t.primary), DiskUpToDate
		t.past = s.past
		p.phase = finished
	case finished:
		s.ids, s.feed = s.ids.FinishAsSource(), Feed{}
		if !s.ids.Current.Equal(t.ids.Current) || s.ids.Bitmap != t.ids.Bitmap || !s.ids.History[0].Equal(t.ids.History[0]) ||
			!p.full && !s.ids.SameIdentity(t.ids) {
			return fmt.Errorf("a resync ended with different identifiers: %v, %v", s.ids, t.ids)
		}
		if s.data != t.data {
			return fmt.Errorf("a resync ended with different data: %v, %v", s.data, t.data)
		}
		s.told, t.told = t.ids, s.ids
		p.phase = noSync
		p.inSync()
		p.seen["resyncs"]++
	}
	return nil
}
