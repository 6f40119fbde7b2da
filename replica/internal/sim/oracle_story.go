// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// story is the history of generations as it really was, which no node knows: which
// generation was begun on the base of which. From that follows whether two nodes have
// diverged.
type story struct {
	r     *Run
	vols  []*lineage
	heard [2][]metadata.GenerationIDs // by node and volume, as last seen
	// consent: the administrator has given up this node's data, or has declared
	// data good that was not.
	consent [2]bool
	renamed bool       // the administrator has begun a generation, which pushes others out of the history
	rng     *rand.Rand // of what is looked at: not the cluster's, so that looking changes nothing
}

// lineage is one volume's generations.
type lineage struct {
	parents map[metadata.UUID][]metadata.UUID
	seen    map[metadata.UUID]uint64 // in which search: two ways often lead to one ancestor
	search  uint64
}

func newStory(r *Run) *story {
	s := &story{r: r, rng: rand.New(rand.NewPCG(r.Seed, 0x6f72646572))}
	for range r.cfg.Volumes {
		s.vols = append(s.vols, &lineage{parents: map[metadata.UUID][]metadata.UUID{metadata.UUIDJustCreated: nil}, seen: map[metadata.UUID]uint64{}})
	}
	for i := range s.heard {
		s.heard[i] = make([]metadata.GenerationIDs, r.cfg.Volumes)
		for v := range s.heard[i] {
			s.heard[i][v].Current = metadata.UUIDJustCreated
		}
	}
	return s
}

// begun notes that child was made of what parent names.
func (l *lineage) begun(child, parent metadata.UUID) {
	c, p := child.Identity(), parent.Identity()
	if c != p && !l.descends(p, c) {
		l.parents[c] = append(l.parents[c], p)
	}
}

// descends reports whether a is b, or was made of it.
func (l *lineage) descends(a, b metadata.UUID) bool {
	l.search++
	return l.find(a, b)
}

func (l *lineage) find(a, b metadata.UUID) bool {
	if a == b {
		return true
	}
	if l.seen[a] == l.search {
		return false
	}
	l.seen[a] = l.search
	for _, p := range l.parents[a] {
		if l.find(p, b) {
			return true
		}
	}
	return false
}

func (l *lineage) diverged(a, b metadata.UUID) bool {
	a, b = a.Identity(), b.Identity()
	return !l.descends(a, b) && !l.descends(b, a)
}

// events looks at the identifiers after each event of a node.
func (s *story) events(n *Node) {
	for vol, l := range s.vols {
		ids, old := n.core.IDs(vol), s.heard[n.idx][vol]
		if ids == old || ids.Current == 0 {
			continue
		}
		s.heard[n.idx][vol] = ids
		cur := ids.Current.Identity()
		_, known := l.parents[cur]
		if !known {
			l.parents[cur] = nil
			l.begun(cur, old.Current)
		}
		if b := ids.Bitmap.Identity(); b != 0 && b != old.Bitmap.Identity() {
			if _, known := l.parents[b]; !known {
				l.parents[b] = nil
			}
			// Perhaps the name of a resync: what the target has during it is
			// made of this node's data.
			l.begun(cur, b)
		}
		if known && cur != old.Current.Identity() && !l.diverged(old.Current, s.r.other(n).generations(vol).Current) {
			// It was given up for this one. Where an administrator has discarded it that
			// says nothing of the other node's: a crash may bring it back.
			l.begun(cur, old.Current)
		}
	}
}

// effect looks at what a node reports.
func (s *story) effect(n *Node, e *core.Event) {
	r := s.r
	switch e.Kind {
	case core.EventVerdict:
		s.verdict(n, e.Volume, e.Decision)
	case core.EventState:
		if (n == r.writer || e.Old.Role == protocol.Primary) && r.cfg.Net.Protocol != protocol.ProtocolC && e.Old.Conn >= protocol.Connected && e.New.Conn < protocol.Connected &&
			e.New.Disk < protocol.UpToDate {
			r.unproved = true // the own disk has failed, and what was only sent is lost with the link
		}
		if e.New.Conn == protocol.SyncTarget && e.Old.Conn == protocol.WFSyncUUID {
			s.noRollback(n, e.Volume)
		}
	case core.EventResyncDone:
		r.Figures.Faults["resync done"]++
	}
}

// verdict is the oracle for the handshake: diverged nodes never go on without an
// administrator or a policy, others never get a split brain.
func (s *story) verdict(n *Node, vol int, d *metadata.Decision) {
	own, peer := d.Verdict.Own.Current, d.Verdict.Peer.Current
	r := s.r
	diverged := s.vols[vol].diverged(own, peer)
	if d.DecidedBy == metadata.ByPolicy {
		s.consent = [2]bool{true, true}
	}
	bad := ""
	switch out := d.Verdict.Outcome; {
	case out == metadata.BothZero || out == metadata.Contradictory && d.DecidedBy != metadata.ByDiskStates:
		bad = "a history that cannot be"
	case out == metadata.SplitBrain || out == metadata.SplitBrainManual || out == metadata.Unrelated:
		r.Figures.Faults["split brain"]++
		// A forced promotion, or a generation by command, may drop an ancestor from the two
		// entries of history.
		if !diverged && !(d.Verdict.Rule == 100 && (s.consent[0] || s.renamed)) {
			bad = "the histories did not diverge"
		}
	case diverged && !s.consent[0] && !s.consent[1]:
		bad = "the histories diverged"
	}
	if bad != "" {
		r.failf("node %d, volume %d: %s, but %s: own %v, peer %v", n.idx, vol, d.Sentence(), bad, d.Verdict.Own, d.Verdict.Peer)
	}
	split := d.Verdict.Outcome == metadata.SplitBrain
	switch a, b := r.Nodes[0], r.Nodes[1]; {
	case !split || r.cfg.Reckless:
		a.orphan, b.orphan = a.orphan&^(1<<vol), b.orphan&^(1<<vol)
	case (a.orphan|b.orphan)>>vol&1 != 0:
		// A generation was on its way to a disk that was given up as it did not answer.
		// Nobody wrote in it, and its node, without the disk, went on with the peer's data.
		// But then it crashed, and the disk, which has got that generation after all, is all
		// that is left to say what it was. DRBD comes to the same.
		r.fault("split brain by a disk that was given up")
		s.consent = [2]bool{true, true}
	default:
		r.failf("node %d: a split brain although the administrators were careful", n.idx)
	}
}

// noRollback is the oracle for the direction of a resync: no write that was
// acknowledged is lost by it, unless somebody gave it up.
func (s *story) noRollback(n *Node, vol int) {
	r, d := s.r, n.disks[vol]
	if s.consent[0] || s.consent[1] || r.cfg.Net.Protocol != protocol.ProtocolC {
		return
	}
	if n.core == nil {
		return
	}
	if r.rescue == n {
		// The crashed Primary is back before this node has taken over: by the
		// rules it is the source, without what was in its cache.
		r.lose()
	}
	from := r.other(n).disks[vol]
	book := r.books[vol]
	for sector, list := range book.past {
		if sector >= book.end {
			continue
		}
		mine, err1 := idOf(d.current.at(int64(sector)*sectorBytes, sectorBytes), sector)
		theirs, err2 := idOf(from.current.at(int64(sector)*sectorBytes, sectorBytes), sector)
		if err1 != nil || err2 != nil || mine <= theirs {
			continue
		}
		for _, w := range list {
			if w.id == mine && w.ack != 0 && !w.zero && !overwritten(list, w, theirs) {
				r.failf("node %d becomes the target of a resync of volume %d, and loses write %d of sector %d for %d", n.idx, vol, mine, sector, theirs)
				return
			}
		}
	}
}

// overwritten reports whether what the other disk holds may be newer than w after all:
// zeroes have no name.
func overwritten(list []*write, w *write, theirs uint64) bool {
	for _, v := range list {
		if v.id > w.id && v.content() == theirs {
			return true
		}
	}
	for _, v := range w.rivals {
		if v.content() == theirs {
			return true
		}
	}
	return false
}

// superWritten reads what is on disk now.
func (s *story) superWritten(n *Node, vol int) {
	if _, err := readOnDisk(n.metas[vol], s.r.cfg.External); err != nil {
		s.r.failf("node %d, volume %d: %v", n.idx, vol, fmt.Errorf("after a metadata write: %w", err))
	}
}

// dataWritten looks, now and then, at what a power failure would leave of a Secondary
// in the middle of its writes.
func (s *story) dataWritten(n *Node) {
	if s.r.failure == nil && !s.r.cfg.Reckless && s.r.writer == s.r.other(n) && s.rng.IntN(16) == 0 {
		s.r.orderHolds(n, s.rng)
	}
}
