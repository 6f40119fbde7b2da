// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// blockBytes is what one bit of the bitmap stands for.
const blockBytes = 4096

// Status is the state of a resource at one instant. It is a copy: nothing in it
// changes later.
type Status struct {
	Name      string
	Suspended bool // I/O is suspended, for whatever reason
	// SuspendedBy says for which reasons.
	SuspendedBy Suspension
	// Failed says why the resource stopped itself, nil while it runs. After
	// Close it is ErrClosed.
	Failed  error
	Volumes []VolumeStatus // in ascending order of ID
	Peers   []PeerStatus   // as in Config
}

// PeerStatus is the state of the connection to a peer.
type PeerStatus struct {
	Name     string
	Conn     protocol.ConnState // the lowest of the volumes'
	Version  protocol.Version   // agreed protocol version, 0 while not connected
	Features protocol.Features  // agreed
	Resolver bool               // this node breaks ties, and loses them (spec: behaviour 1.1)
	InFlight int64              // bytes of application writes sent and not yet acknowledged
	// ResyncInFlight is how many bytes this node, as the target of resyncs, has asked for
	// and not yet received: rs-in-flight of DRBD 9.
	ResyncInFlight int64
	// Congested: 128 KiB or more wait behind what is being sent, because the line, or the
	// peer, does not take it.
	Congested bool
	// Local and Remote name the two ends while there is a connection.
	Local, Remote string
	// StandAloneReason says why the last connection ended in StandAlone, if
	// it was not by Disconnect: it may match ErrSplitBrain, for example.
	StandAloneReason error
}

// VolumeStatus is the state of a volume, seen from this node.
type VolumeStatus struct {
	ID    uint16
	Minor int
	// State has role, connection and disk states of both nodes.
	State    protocol.State
	Size     int64 // bytes, 0 while unknown
	IDs      metadata.GenerationIDs
	Flags    metadata.Flags
	Protocol protocol.ReplicationProtocol
	// OutOfSync is how much differs, or may differ, from the peer's copy, in bytes.
	OutOfSync int64
	// Conflicts counts concurrent writes of two Primaries to the same blocks that
	// were put in order, on this connection.
	Conflicts uint64
	// ActivityLogSuspended: everything is out of sync, so the log is not needed.
	ActivityLogSuspended bool
	WriteOrdering        byte // 'f' flush, 'd' drain (spec: behaviour 5.6)
	// Blocked: new writes wait, since I/O is suspended, or for a moment while a disk is
	// attached or the nodes compare their bitmaps.
	Blocked bool
	// DiskCongested: the disk has QueueDepth requests or more. NetCongested: see
	// PeerStatus.Congested.
	DiskCongested, NetCongested bool

	// Sent and Received over the network, Written and Read on the local disk, in
	// bytes of data: ns, nr, dw and dr of /proc/drbd.
	Sent, Received, Written, Read int64
	// ALWrites and BitmapWrites count metadata writes: al and bm.
	ALWrites, BitmapWrites uint64
	// LocalPending, Pending, Unacked and AppPending count requests that wait for
	// the local disk, for the peer's answer, for our answer to the peer, and of
	// the application: lo, pe, ua and ap.
	LocalPending, Pending, Unacked, AppPending int
	// Hung is how many requests a disk has not answered that was given up for that
	// (VolumeConfig.DiskTimeout, Detach with Force): it cannot be attached before.
	Hung int
	// Epochs is ep of /proc/drbd.
	Epochs int

	Resync      *ResyncStatus      // while a resync runs, else nil
	LastVerdict *metadata.Decision // of the last sync handshake, or nil
}

// ResyncStatus is the progress of a resync. Amounts are bytes, rates bytes per second.
type ResyncStatus struct {
	Total, Left, Failed int64
	SameChecksum        int64         // found equal by checksum, not copied
	Elapsed             time.Duration // since the start
	Paused              time.Duration // of it
	Rate                int64         // over about the last 18 s
	Average             int64         // since the start, without pauses
	Wanted              int64         // what the controller asks for
	Finish              time.Duration // estimated time to the end
	Stalled             bool          // no progress for three minutes

	// Recent is what was done since the newest mark, about 3 s ago, and since the mark
	// that Rate is over: dt0 and dt1 of DRBD 9 (spec: behaviour 9.4).
	Recent [2]Progress
	// Verify tells what an online verify compares; nil in a resync.
	Verify *VerifyRange
}

// Progress is how many bytes were done in some time.
type Progress struct {
	Bytes int64
	Time  time.Duration
}

// VerifyRange is the part of the volume from From up to To, of which all before At has
// been compared, in bytes.
type VerifyRange struct{ From, To, At int64 }

// Percent returns how much is done, 0 to 100.
func (s *ResyncStatus) Percent() float64 {
	if s.Total <= 0 {
		return 100
	}
	return 100 * float64(s.Total-min(s.Left, s.Total)) / float64(s.Total)
}

// Role returns the resource's role: that of its first volume.
func (s Status) Role() protocol.Role {
	if len(s.Volumes) == 0 {
		return protocol.Secondary
	}
	return s.Volumes[0].State.Role
}

// Volume returns the status of the volume with this ID.
func (s Status) Volume(id uint16) (VolumeStatus, bool) {
	for i := range s.Volumes {
		if s.Volumes[i].ID == id {
			return s.Volumes[i], true
		}
	}
	return VolumeStatus{}, false
}

// statusOf turns a core's snapshot into a Status.
func statusOf(snap *core.Snapshot) Status {
	st := Status{Name: snap.Name, Suspended: snap.Susp, SuspendedBy: suspensionOf(snap)}
	epochs := 1
	for i := range snap.Peers {
		p := &snap.Peers[i]
		epochs = max(epochs, p.Epochs)
		st.Peers = append(st.Peers, PeerStatus{
			Name: p.Name, Conn: p.Conn, Version: p.Version, Features: p.Features,
			Resolver: p.Resolver, InFlight: int64(p.APInFlight), ResyncInFlight: int64(p.RSInFlight), Congested: p.Congested,
		})
	}
	for i := range snap.Volumes {
		st.Volumes = append(st.Volumes, volumeStatusOf(&snap.Volumes[i], epochs))
	}
	return st
}

func volumeStatusOf(v *core.VolumeSnapshot, epochs int) VolumeStatus {
	const kib = 1024
	out := VolumeStatus{
		ID: v.Number, Minor: v.Minor, State: v.State, Size: int64(v.Size) * metadata.SectorSize,
		IDs: v.IDs, Flags: v.Flags, Protocol: v.Protocol,
		OutOfSync: int64(v.OutOfSync) * blockBytes, Conflicts: v.Conflicts, ActivityLogSuspended: v.ALSusp, WriteOrdering: v.WO,
		Blocked: v.Blocked, DiskCongested: v.DiskCongested, NetCongested: v.NetCongested,
		Sent: int64(v.Sent) * kib, Received: int64(v.Received) * kib,
		Written: int64(v.Written) * kib, Read: int64(v.Read) * kib,
		ALWrites: v.ALWrites, BitmapWrites: v.BMWrites,
		LocalPending: v.LocalPending, Pending: v.Pending, Unacked: v.Unacked, AppPending: v.AppPending,
		Hung: v.Hung, Epochs: epochs, LastVerdict: v.Last,
	}
	if rs := v.Resync; rs != nil {
		out.Resync = &ResyncStatus{
			Total: int64(rs.Total) * blockBytes, Left: int64(rs.Left) * blockBytes,
			Failed: int64(rs.Failed) * blockBytes, SameChecksum: int64(rs.SameCsum) * blockBytes,
			Elapsed: rs.Elapsed, Paused: rs.Paused,
			Rate: int64(rs.Rate) * kib, Average: int64(rs.Average) * kib, Wanted: int64(rs.Want) * kib,
			Finish: rs.Finish, Stalled: rs.Stalled,
		}
		for i, p := range rs.Recent {
			out.Resync.Recent[i] = Progress{Bytes: int64(p.Blocks) * blockBytes, Time: p.Time}
		}
		if o := rs.Verify; o != nil {
			out.Resync.Verify = &VerifyRange{From: o.From, To: o.To, At: o.At}
		}
	}
	return out
}
