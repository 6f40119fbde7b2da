// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Suspended I/O (spec: behaviour 5.10). Requests that come while it is suspended
// wait for admission; requests that had begun are frozen: they are not completed,
// whatever has become of their parts, and those that have not been sent yet wait.
//
//	susp      the administrator                  until he resumes
//	susp_nod  no UpToDate data is reachable      until there is; then what failed is done again
//	susp_fen  the peer has to be fenced, or the  until it is, or the peer is back, or the
//	          arbiter asked, before going on     arbiter says yes

// NoData says what happens to requests that no disk can serve: the resource option
// on-no-data-accessible.
type NoData uint8

// The values of on-no-data-accessible.
const (
	NoDataIOError   NoData = iota // they fail
	NoDataSuspendIO               // they wait
)

// suspended reports whether application I/O is, for whatever reason.
func (c *Core) suspended() bool { return c.susp || c.suspNoData || c.suspFencing }

// stopped reports whether writes that have been admitted may not be issued now. While
// the disk is Negotiating they would reach the peer alone, who believes that this node
// has a disk and marks nothing; while bitmaps are exchanged nobody would mark them; and
// a disk that leaves, with its log empty, takes none.
func (v *volume) stopped() bool {
	return v.gates > 0 || v.sealed || v.disk == protocol.Negotiating || v.exchanging() || v.c.suspended() && v.c.suspErr == nil
}

// suspendRule is S8 or S9: it sets a flag when its condition begins to hold.
type suspendRule struct {
	name string
	bad  func(s protocol.State, e *suspendEnv) bool
	set  func(*protocol.State)
}

// suspendEnv is what these rules look at besides the states.
type suspendEnv struct {
	stonith  bool // fencing is resource-and-stonith, and the volume has a disk
	arbiter  bool // an arbiter has to be asked, and has not said yes
	noDataIO bool // on-no-data-accessible is suspend-io
}

var suspendRules = []suspendRule{
	{"S8", func(s protocol.State, e *suspendEnv) bool {
		return e.stonith && s.Role == protocol.Primary && s.Conn < protocol.Connected && s.PeerDisk > protocol.Outdated
	}, func(s *protocol.State) { s.SuspFencing = true }},
	// Ours: like S8, for the arbiter. A disk that is not good has nothing to go on with.
	{"S8 arbiter", func(s protocol.State, e *suspendEnv) bool {
		return e.arbiter && s.Role == protocol.Primary && s.Conn < protocol.Connected && s.PeerDisk > protocol.Outdated &&
			s.Disk == protocol.UpToDate
	}, func(s *protocol.State) { s.SuspFencing = true }},
	{"S9", func(s protocol.State, e *suspendEnv) bool {
		return e.noDataIO && noUpToDate(s)
	}, func(s *protocol.State) { s.SuspNoData = true }},
}

// noUpToDate: a Primary whose users can be served by nobody.
func noUpToDate(s protocol.State) bool {
	return s.Role == protocol.Primary && s.Disk < protocol.UpToDate && s.PeerDisk < protocol.UpToDate
}

// suspendIfNew applies S8 and S9 to a change from old to s.
func suspendIfNew(old, s protocol.State, e *suspendEnv) protocol.State {
	for i := range suspendRules {
		if r := &suspendRules[i]; r.bad(s, e) && !r.bad(old, e) {
			r.set(&s)
		}
	}
	return s
}

func (pd *peerDevice) suspendEnv() *suspendEnv {
	c := pd.v.c
	return &suspendEnv{
		stonith:  pd.v.fencing() == FencingResourceAndStonith,
		arbiter:  c.cfg.Arbiter && !c.quorum.granted,
		noDataIO: c.cfg.NoData == NoDataSuspendIO,
	}
}

// suspensionAfter draws the consequences of a state change for suspended I/O (spec:
// behaviour 2.10).
func (c *Core) suspensionAfter(pd *peerDevice, o, n protocol.State) {
	if noUpToDate(n) && !noUpToDate(o) {
		c.notify(HandlerPriOnInconDegr, pd)
	}
	if n.SuspNoData && !o.SuspNoData {
		c.era++
	}
	if (n.SuspNoData || n.SuspFencing) && !c.suspTimer.set && c.cfg.SuspendLimit > 0 && c.suspErr == nil {
		c.suspTimer.arm(c.now + c.cfg.SuspendLimit)
	}
	if o.Conn < protocol.Connected && n.Conn >= protocol.Connected {
		// The peer is back: its disk has everything that was acknowledged, and what was
		// not is marked or will be sent again. Without a disk it has nothing.
		if n.PeerDisk >= protocol.Inconsistent {
			pd.v.postponed = false
		}
		pd.v.asked = false
		if pd.p.allConnected() {
			c.answerArbiter(ErrConnected)
			c.quorum = quorum{}
		}
	}
	if c.suspNoData && c.dataEverywhere() {
		if !c.susp && !c.suspFencing {
			c.bearAllPostponed()
		}
		c.unsuspend(func(s *protocol.State) { s.SuspNoData = false })
	}
	if c.suspFencing && (pd.p.allConnected() || pd.p.allFenced() && (!c.cfg.Arbiter || c.quorum.granted)) {
		c.releaseFenced()
	}
	switch {
	case !c.suspended():
		c.suspErr = nil
	case c.closing:
		c.failSuspended(ErrClosed) // nobody will resume it
	}
	if !c.suspNoData && !c.suspFencing {
		c.suspTimer.stop()
	}
}

// dataEverywhere reports whether every Primary volume has a good copy in reach.
func (c *Core) dataEverywhere() bool {
	for _, v := range c.vols {
		pd := v.pds[0]
		if v.role == protocol.Primary && v.disk != protocol.UpToDate &&
			(pd.disk != protocol.UpToDate || pd.conn < protocol.Connected) {
			return false
		}
	}
	return true
}

// allConnected reports whether every volume is.
func (p *peer) allConnected() bool { return p.conn() >= protocol.Connected }

// allFenced reports whether no volume of the peer can be taken for good there.
func (p *peer) allFenced() bool {
	for _, pd := range p.pds {
		if pd.disk > protocol.Outdated {
			return false
		}
	}
	return true
}

// releaseFenced ends susp_fen: the generations that are due begin before anything
// completes.
func (c *Core) releaseFenced() {
	c.bearAllPostponed()
	c.unsuspend(func(s *protocol.State) { s.SuspFencing = false })
}

// bearAllPostponed comes before I/O is resumed: what is written then has its name.
func (c *Core) bearAllPostponed() {
	for _, v := range c.vols {
		v.bearPostponed()
	}
}

func (c *Core) unsuspend(set func(*protocol.State)) {
	c.change(c.vols[0].pds[0], fact, set)
}

// bearPostponed begins the generation that was due when the peer was lost, if this
// node goes on without it.
func (v *volume) bearPostponed() {
	if !v.postponed {
		return
	}
	v.postponed = false
	pd := v.pds[0]
	up := pd.conn >= protocol.Connected
	if up && pd.disk >= protocol.Inconsistent || v.role != protocol.Primary || v.disk != protocol.UpToDate {
		return
	}
	if b := v.ids.BirthOnPromotion(false, false, metadata.DiskUnknown, pd.feed.PeerMayShare()); b != metadata.NoBirth {
		v.beginGeneration(b)
		if up { // the peer has detached its disk
			pd.sendUUIDs(0)
		}
	}
}

// meetsAgain is asked when the peer's identifiers and state are known. If a
// generation was postponed, and the peer is still in the old one, "no sync" would be
// the verdict. That is wrong if blocks were marked in the meantime: DRBD sends what
// is frozen again, here it may have completed long ago. And it is not wanted if the
// arbiter was asked about the present generation, which uses it up. So another one begins
// now, and the nodes connect anew (as in spec: behaviour 2.9 rule 9).
func (pd *peerDevice) meetsAgain(own, ps protocol.State) bool {
	v := pd.v
	due := v.postponed && pd.oosBlocks() > 0 || v.asked
	if !due || own.Conn != protocol.WFReportParams || own.Role != protocol.Primary || ps.Role == protocol.Primary ||
		own.Disk != protocol.UpToDate || !pd.idsValid {
		return false
	}
	birth := v.ids.BirthOnPromotion(false, false, metadata.DiskUnknown, pd.feed.PeerMayShare())
	switch {
	case pd.ids.Current.Equal(v.ids.Current) && birth != metadata.NoBirth:
	case v.ids.Bitmap != metadata.UUIDNone && pd.ids.Current.Equal(v.ids.Bitmap):
		birth = metadata.BirthBeside // the peer is where the bitmap began to record
	default:
		return false
	}
	v.postponed = false
	v.beginGeneration(birth)
	v.c.quorum.notBefore = v.c.now + 10*v.c.cfg.Net.PingTimeout
	pd.p.meetAgain("a new generation while I/O is suspended")
	return true
}

// failSuspended ends the wait of everything that is suspended, now and as long as the
// suspension lasts: requests fail with err. One whose buffer is in use by a
// disk is still waited for.
func (c *Core) failSuspended(err error) {
	if !c.suspended() || c.suspErr != nil {
		return
	}
	c.suspErr = err
	c.logf(LogWarn, -1, "suspended I/O fails from now on")
	for _, v := range c.vols {
		if v.gates == 0 {
			v.failHeld(err)
		}
		v.completeFrozen()
		v.active.wake()
	}
}

// FailSuspended lets all requests that are suspended, and those that come while
// I/O stays suspended, fail with ErrSuspended.
func (c *Core) FailSuspended(cmd *Command) {
	defer c.settle()
	c.failSuspended(ErrSuspended)
	c.finish(cmd, nil)
}

// SetSuspended suspends or resumes application I/O by the administrator. A
// suspension finishes when no write is in flight any more: unlike DRBD's, which
// returns at once, it leaves both disks still.
func (c *Core) SetSuspended(cmd *Command, on bool) {
	defer c.settle()
	if !on {
		c.resume()
		c.finish(cmd, nil)
		return
	}
	for _, p := range c.peers {
		p.closeEpoch()
	}
	for _, v := range c.vols {
		v.freezing++
	}
	c.when(func() bool { return c.still() || cmd.finished }, func() {
		for _, v := range c.vols {
			v.freezing--
		}
		if !cmd.finished {
			c.unsuspend(func(s *protocol.State) { s.Susp = true })
		}
		c.stateAdmits()
		c.finish(cmd, nil)
	})
}

// still reports that no write is on its way to a disk: there is none, or all are
// frozen.
func (c *Core) still() bool {
	if !c.suspended() || c.suspErr != nil {
		return c.drained()
	}
	for _, v := range c.vols {
		if v.localPending > 0 {
			return false
		}
	}
	for _, p := range c.peers {
		if p.tx.first != nil {
			return false
		}
	}
	return true
}

// resume ends every suspension. This node goes on with what it has: frozen requests
// end by their own results, and those that nobody could serve fail.
func (c *Core) resume() {
	if c.cfg.Arbiter && c.suspFencing {
		c.quorum.granted = true // by the administrator
	}
	c.bearAllPostponed()
	for _, r := range c.requests.live() {
		r.era = c.era // not to be done again
	}
	c.suspErr = nil
	c.unsuspend(func(s *protocol.State) { s.Susp, s.SuspNoData, s.SuspFencing = false, false, false })
	c.thaw()
}

// thaw completes, or does again, what was frozen and may go on.
func (c *Core) thaw() {
	for _, v := range c.vols {
		v.completeFrozen()
		v.active.wake()
	}
	c.stateAdmits()
}

// succeeded reports whether a request whose parts have ended has done what the
// application asked for. A write to a disk that is not UpToDate, here or at the peer,
// has not: a resync may overwrite it; nor has one to a disk that goes. A peer that was
// good when it took the write counts as long as nobody knows better.
func (r *request) succeeded() bool {
	if r.kind == IORead {
		return r.net == partOK || r.local == partOK
	}
	return r.net == partOK && (r.peerGood && r.pd.disk == protocol.DUnknown || r.pd.disk == protocol.UpToDate) ||
		r.local == partOK && r.v.disk == protocol.UpToDate && !r.v.leaving
}

// again reports whether a failed request is to be done again: it was begun
// before I/O was suspended for lack of data, and there is data now.
func (r *request) again() bool {
	return r.era != r.v.c.era && !r.succeeded() && r.v.c.cfg.NoData == NoDataSuspendIO
}

// restart does a request again from the beginning, but for its place in the order.
func (r *request) restart() {
	v := r.v
	v.alEnd(&r.al)
	r.local, r.net, r.err, r.remote = partNone, partNone, nil, false
	r.mayClear, r.cleared, r.frozen, r.era = false, false, false, v.c.era
	if r.kind == IORead {
		r.startRead()
		return
	}
	r.issued = false
	v.active.wait(&r.iv) // a block that was asked for may have to come first
	v.active.wake()
}
