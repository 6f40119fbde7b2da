// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// volume is one replicated device on this node. What concerns one peer lies in
// its peerDevices.
type volume struct {
	c   *Core
	idx int
	cfg VolumeConfig
	pds []*peerDevice

	role protocol.Role
	disk protocol.DiskState
	size uint64 // sectors of the replicated device; 0 while unknown
	user uint64 // "size" option in force, own or adopted; 0 none

	space  uint64           // sectors that the disk could offer by now, if its metadata moved
	next   *metadata.Layout // where it would lie then; nil if it need not move
	coming uint64           // the size that is being taken: the peer may write up to there already

	// The disk, nil or zero while Diskless.
	capacity       uint64 // sectors the backing device can offer
	limits         DiskLimits
	sb             metadata.Superblock
	layout         metadata.Layout
	sameDevice     bool
	ids            metadata.GenerationIDs
	negotiated     protocol.DiskState // what attach found, while Negotiating
	crashedPrimary bool               // spec: behaviour 3.6
	md             superWriter
	bmw            bitmapWriter
	al             alState

	exposed    metadata.UUID // the generation that users last saw (spec: behaviour 3.2)
	exposedWas metadata.UUID // before the peer told that of a disk that it is attaching

	// gates counts durable writes that must finish before data is written:
	// a new generation, a new layout, a set PrimaryInd.
	gates int
	held  ioQueue // application requests that wait for admission

	active   intervals // data writes and peer reads in order of arrival
	freezing int       // > 0: no admission, a change is being made that I/O must not race with

	onlyCopies   int // writes of the peer under way that it had no disk for
	opsPending   int // disk operations in the hands of the shell that count
	ops          opList
	hung         int // those that do not: they were abandoned
	appPending   int // application requests begun and not yet completed
	localPending int // data operations on the local disk

	written, read      uint64 // sectors; dw, dr of /proc/drbd
	resyncIO           uint64 // sectors of written and read that belong to a resync
	alWrites, bmWrites uint64
	attachErr          error
	leaving            bool          // the peer has agreed that this disk goes
	lostCache          bool          // the disk went with data that was not flushed
	unborn             metadata.UUID // a generation that began here, and that no write has completed in yet
	missed             metadata.UUID // the generation in which only the peer has a write that was acknowledged
	untold             bool          // the disk failed, and the peer, whose copy is the good one now, has not said that it knows
	denials            uint64        // the times that it did not say so
	ioErrorHook        bool          // the handler local-io-error has to end first
	turn               bool          // of read-balancing round-robin
	closing            bool          // the activity log is being emptied for a detach
	sealed             bool          // the data is being flushed for a detach: no write of the peer comes after that
	postponed          bool          // a new generation is due when I/O resumes
	asked              bool          // the arbiter was asked about the present generation
	lostWrites         bool          // what was written, and not flushed, may be gone with the disk
	peerBears          bool          // the peer begins a generation for this Primary, whose disk went, and has not told it yet
	older              bool          // than the peer's, although it shows as UpToDate: see raised
	degraded           bool          // at attach: a lone Primary crashed (spec: behaviour 6.11)
}

// peerDevice is one volume towards one peer.
type peerDevice struct {
	v *volume
	p *peer

	conn                       protocol.ConnState
	role                       protocol.Role // the peer's
	disk                       protocol.DiskState
	aftrISP, peerISP, userISP  bool
	bm                         *bitmap.Bitmap // nil while this node is Diskless
	ids                        metadata.GenerationIDs
	idsValid                   bool
	idsDue                     bool // those that the peer answers an attach with
	uuidFlags                  metadata.UUIDFlags
	uuidBits                   uint64
	sentBits                   uint64 // own count as sent with the last P_UUIDS
	sizes                      protocol.Sizes
	sizesValid                 bool
	stateSent                  bool // the first P_STATE of this connection has been sent
	departing                  bool // the peer, Primary, was allowed to detach, and has not said that its disk is gone
	consenting                 bool // the consequences of a change that the peer asked for are drawn
	skipped                    bool // the initial sync, here; the peer has yet to confirm it
	letGo                      bool // the other Primary was allowed to detach; own writes wait until it says that it has
	birthDue                   bool // of a generation, when the diskless Primary has accepted us
	considerResync             bool // spec: behaviour 2.9 rule 6
	beforeHook                 bool // a before-resync handler is running
	discardMyData              bool
	seq                        uint32 // spec: wire 3.2
	writesSeen, acksSeen       uint32 // of this connection, with such a number of the peer's
	ackSeq                     uint32 // the number of the last ack
	conflicts                  uint64 // concurrent writes of both nodes that met
	unacked, pending, inFlight int
	flight                     uint64 // sectors of inFlight
	aheadTimer                 timer
	resizing                   bool   // the peer's answer to a changed size is due
	resizedFrom                uint64 // the size before
	asked                      bool   // the peer has been told of it
	outdone                    bool   // the peer resized at the same time, and goes first
	adopting                   int    // sizes of the peer that are not in force yet
	pulled                     bool   // this connection has seen Ahead or Behind
	rsPending                  int    // resync requests or replies without an answer
	lateAcks                   int    // of a resync that was cut off
	lastDecision               *metadata.Decision
	named                      uint64        // counts the names that this node gave to resyncs
	sent, received             uint64        // sectors; ns, nr of /proc/drbd
	feed                       metadata.Feed // of the resync that this node is the source of

	rx          *bitmap.Decoder // the bitmap that is being received
	syncUUID    metadata.UUID   // P_SYNC_UUID that came before it was expected
	syncUUIDSet bool
	resync      resync
	verify      verifier
}

func newVolume(c *Core, idx int) *volume {
	v := &volume{c: c, idx: idx, cfg: c.cfg.Volumes[idx], role: protocol.Secondary, disk: protocol.Diskless}
	v.user = v.cfg.UserSize
	v.active.v = v
	for _, p := range c.peers {
		pd := &peerDevice{v: v, p: p, role: protocol.RoleUnknown, disk: protocol.DUnknown}
		pd.resync.pd, pd.verify.pd = pd, pd
		v.pds = append(v.pds, pd)
		p.pds = append(p.pds, pd)
	}
	return v
}

// state is the compound state word of the volume towards this peer.
func (pd *peerDevice) state() protocol.State {
	c := pd.v.c
	return protocol.State{
		Role: pd.v.role, Peer: pd.role, Conn: pd.conn, Disk: pd.v.disk, PeerDisk: pd.disk,
		Susp: c.susp, SuspNoData: c.suspNoData, SuspFencing: c.suspFencing,
		AftrISP: pd.aftrISP, PeerISP: pd.peerISP, UserISP: pd.userISP,
	}
}

// store takes a compound state apart again.
func (pd *peerDevice) store(s protocol.State) {
	v, c := pd.v, pd.v.c
	v.role, v.disk = s.Role, s.Disk
	pd.role, pd.conn, pd.disk = s.Peer, s.Conn, s.PeerDisk
	pd.aftrISP, pd.peerISP, pd.userISP = s.AftrISP, s.PeerISP, s.UserISP
	c.susp, c.suspNoData, c.suspFencing = s.Susp, s.SuspNoData, s.SuspFencing
}

// hasDisk reports whether the local disk takes application data.
func (v *volume) hasDisk() bool {
	return v.disk >= protocol.Inconsistent && v.disk != protocol.DUnknown
}

// mirrors reports whether application writes are sent to the peer in full
// (spec: behaviour 5.3).
func mirrors(s protocol.State) bool {
	return s.PeerDisk == protocol.UpToDate && s.Conn >= protocol.Connected && s.Conn != protocol.Ahead &&
		s.Conn != protocol.WFBitMapS ||
		s.PeerDisk >= protocol.Inconsistent && s.Conn >= protocol.WFBitMapT && s.Conn < protocol.Ahead
}

// noticesOnly reports whether writes are announced as out of sync instead.
func noticesOnly(s protocol.State) bool {
	return s.Conn == protocol.Ahead || s.Conn == protocol.WFBitMapS
}

// isResync reports whether conn is one of the states in which blocks travel.
func isResync(conn protocol.ConnState) bool {
	return conn == protocol.SyncSource || conn == protocol.SyncTarget ||
		conn == protocol.PausedSyncS || conn == protocol.PausedSyncT
}

// inSyncRange is conn 16..21: the range in which writes carry MAY_SET_IN_SYNC
// (spec: wire 4.8).
func inSyncRange(conn protocol.ConnState) bool {
	return conn >= protocol.SyncSource && conn <= protocol.PausedSyncT
}

// bits returns the blocks that a byte range touches.
func touched(sector uint64, size uint32) (from, to uint64) {
	return sector / 8, (sector + uint64(size)/512 + 7) / 8
}

// covered returns the blocks that lie entirely inside a range; the device's last,
// partial block counts when the range reaches the end (spec: behaviour 5.4).
func (v *volume) covered(sector uint64, size uint32) (from, to uint64) {
	end := sector + uint64(size)/512
	from, to = (sector+7)/8, end/8
	if end == v.size {
		to = bitmap.BitsFor(v.size)
	}
	if to < from {
		to = from
	}
	return from, to
}

// setOutOfSync marks a range, rounding outwards.
func (pd *peerDevice) setOutOfSync(sector uint64, size uint32) uint64 {
	if pd.bm == nil {
		return 0
	}
	changed := pd.bm.SetRange(touched(sector, size))
	pd.resync.unheard = pd.resync.unheard || changed > 0
	return changed
}

// setInSync clears the blocks that a range covers.
func (pd *peerDevice) setInSync(sector uint64, size uint32) {
	if pd.bm == nil {
		return
	}
	from, to := pd.v.covered(sector, size)
	if pd.bm.ClearRange(from, to) > 0 {
		pd.v.bmw.noteCleared(from, to)
		pd.armLazy()
	}
}

// outOfSync reports whether any block that the range touches is marked.
func (pd *peerDevice) outOfSync(sector uint64, size uint32) bool {
	if pd.bm == nil {
		return false
	}
	from, to := touched(sector, size)
	b, ok := pd.bm.NextSet(from)
	return ok && b < to
}

func (pd *peerDevice) oosBlocks() uint64 {
	if pd.bm == nil {
		return 0
	}
	return pd.bm.Count()
}

// mostExtents is what a ring of the usual size, 32 KiB, has room for: 25 GiB, which are
// copied after a crash in about four minutes at the default c-max-rate.
const mostExtents = 6433

// alExtents is the number of slots that the activity log should have: by default as many
// as the volume has extents, so that scattered writes never wait for a change of the log,
// but no fewer than DRBD's and no more than mostExtents. The log itself keeps that within
// what its ring has room for.
func (v *volume) alExtents() int {
	if v.cfg.ALExtents != 0 {
		return v.cfg.ALExtents
	}
	extents := (v.size + activitylog.ExtentSectors - 1) / activitylog.ExtentSectors
	return int(min(max(extents, activitylog.DefaultExtents), mostExtents))
}

// newAL makes the activity log of an attached disk, whose ring was initialised.
func (v *volume) newAL() {
	g := activitylog.Geometry{Stripes: v.sb.ALStripes, StripeSize4k: v.sb.ALStripeSize4k}
	v.al = alState{log: activitylog.New(v.alExtents(), g), block: new([metadata.BlockSize]byte)}
	v.sb.ALExtents = uint32(v.al.log.Extents())
}
