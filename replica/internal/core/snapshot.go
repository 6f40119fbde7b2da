// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Snapshot is the state of the resource at one instant.
type Snapshot struct {
	Name    string
	Volumes []VolumeSnapshot
	Peers   []PeerSnapshot
	Susp    bool // I/O is suspended: for one or more of these reasons
	// By the administrator; no data; the peer has to be fenced; the arbiter has to agree.
	SuspUser, SuspNoData, SuspFencing, SuspQuorum bool
}

// PeerSnapshot is the connection's part.
type PeerSnapshot struct {
	Name       string
	Conn       protocol.ConnState // of the connection: the lowest of its volumes
	Version    protocol.Version
	Features   protocol.Features
	Resolver   bool
	APInFlight uint64 // bytes of application writes sent and not yet acknowledged
	RSInFlight uint64 // bytes that a resync asked for and that have not come
	Congested  bool   // more waits for the data stream than the line takes
	Epochs     int
}

// VolumeSnapshot is one volume with its (first) peer.
type VolumeSnapshot struct {
	Number    uint16
	Minor     int
	State     protocol.State
	Size      uint64 // sectors, 0 while unknown
	IDs       metadata.GenerationIDs
	Flags     metadata.Flags
	Protocol  protocol.ReplicationProtocol
	OutOfSync uint64 // blocks of 4 KiB
	Conflicts uint64 // concurrent writes of two Primaries that met, on this connection
	ALSusp    bool
	// Blocked: new writes wait for admission. DiskCongested, NetCongested: the disk, or the
	// line, is slower than what is asked of it.
	Blocked, DiskCongested, NetCongested bool
	WO                                   byte // write ordering: 'f', 'd'
	// Counters as /proc/drbd names them: ns, nr, dw, dr in KiB.
	Sent, Received, Written, Read              uint64
	ALWrites, BMWrites                         uint64
	LocalPending, Pending, Unacked, AppPending int
	Resync                                     *ResyncSnapshot // while a resync runs
	Last                                       *metadata.Decision
	Hung                                       int  // operations that were abandoned, and that the disk still has
	Degraded                                   bool // the disk was attached after the crash of a Primary that was alone
}

// ResyncSnapshot is the progress of a resync.
type ResyncSnapshot struct {
	Total, Left, Failed uint64 // blocks of 4 KiB
	SameCsum            uint64
	Elapsed, Paused     time.Duration
	Rate                uint64 // KiB/s over the last marks
	Average             uint64 // KiB/s since the start without pauses
	Want                uint64 // KiB/s that the configuration allows, 0 for no limit
	Finish              time.Duration
	Stalled             bool
	Recent              [2]Progress  // since the newest mark, and since the one that Rate is over
	Verify              *VerifyRange // of an online verify
}

// Progress is how many blocks were done in some time.
type Progress struct {
	Blocks uint64
	Time   time.Duration
}

// VerifyRange is what an online verify compares, and how far it is, in bytes.
type VerifyRange struct{ From, To, At int64 }

// lineBacklog is how much waits, behind what is being sent, on a line that is congested.
const lineBacklog = 128 << 10

// congested reports whether the line does not take what there is to send.
func (p *peer) congested() bool { return p.out[protocol.DataStream].bytes >= lineBacklog }

// Snapshot returns the present state.
func (c *Core) Snapshot() Snapshot {
	s := Snapshot{Name: c.cfg.Name, Susp: c.suspended(), SuspUser: c.susp, SuspNoData: c.suspNoData,
		SuspFencing: c.suspFencing && !c.needsArbiter(), SuspQuorum: c.suspFencing && c.needsArbiter()}
	for i, p := range c.peers {
		ps := PeerSnapshot{Name: c.cfg.Peers[i].Name, Conn: p.conn(), Version: p.session.Version,
			Features: p.session.Features, Resolver: p.resolver, Epochs: p.tx.n + 1}
		ps.Congested = p.congested()
		for _, pd := range p.pds {
			ps.APInFlight += pd.flight * 512
			ps.RSInFlight += pd.resync.inFlight * 512
		}
		s.Peers = append(s.Peers, ps)
	}
	for _, v := range c.vols {
		s.Volumes = append(s.Volumes, v.snapshot())
	}
	return s
}

func (v *volume) snapshot() VolumeSnapshot {
	pd := v.pds[0]
	s := VolumeSnapshot{
		Number: v.cfg.Number, Minor: v.cfg.Minor, State: pd.state(), Size: v.size, IDs: v.ids, Flags: v.sb.Flags,
		Blocked: v.role == protocol.Primary && v.blocks(IOWrite), DiskCongested: v.diskCongested(), NetCongested: pd.p.congested(),
		OutOfSync: pd.oosBlocks(), Conflicts: pd.conflicts, ALSusp: v.al.susp && v.allMarked(), WO: 'd',
		Sent: pd.sent / 2, Received: pd.received / 2, Written: v.written / 2, Read: v.read / 2,
		ALWrites: v.alWrites, BMWrites: v.bmWrites,
		LocalPending: v.localPending, Pending: pd.inFlight + pd.pending + pd.rsPending, Unacked: pd.unacked, AppPending: v.appPending,
		Resync: pd.resync.snapshot(), Last: pd.lastDecision, Degraded: v.degraded,
		Hung: v.hung,
	}
	if pd.conn != protocol.StandAlone {
		s.Protocol = pd.p.protocol
	}
	if pd.verify.running {
		s.Resync = pd.verify.meter.snapshot()
		if s.Resync != nil {
			s.Resync.Verify = pd.verify.reach()
		}
	}
	if v.cfg.DiskFlushes {
		s.WO = 'f'
	}
	return s
}
