// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"math"
	"net"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Status is the state of a resource with the names and the order of keys of "drbdsetup
// status --json" of DRBD 9 (spec: behaviour 9.4). Amounts are KiB unless their name says
// otherwise.
type Status struct {
	Name             string       `json:"name"`
	NodeID           int          `json:"node-id"`
	Role             string       `json:"role"`
	Suspended        bool         `json:"suspended"`
	SuspendedUser    bool         `json:"suspended-user"`
	SuspendedNoData  bool         `json:"suspended-no-data"`
	SuspendedFencing bool         `json:"suspended-fencing"`
	SuspendedQuorum  bool         `json:"suspended-quorum"`
	ForceIOFailures  bool         `json:"force-io-failures"`
	WriteOrdering    string       `json:"write-ordering"`
	Devices          []DeviceStat `json:"devices"`
	Connections      []ConnStat   `json:"connections"`
}

// DeviceStat is the state of a volume on this node.
type DeviceStat struct {
	Volume       int    `json:"volume"`
	Minor        int    `json:"minor"`
	DiskState    string `json:"disk-state"`
	Client       bool   `json:"client"`
	Open         bool   `json:"open"`
	Quorum       bool   `json:"quorum"`
	Size         int64  `json:"size"`
	Read         int64  `json:"read"`
	Written      int64  `json:"written"`
	ALWrites     uint64 `json:"al-writes"`
	BMWrites     uint64 `json:"bm-writes"`
	UpperPending int    `json:"upper-pending"`
	LowerPending int    `json:"lower-pending"`
	ALSuspended  bool   `json:"-"`
	BlockedUpper bool   `json:"-"` // the users' writes wait
	BlockedLower bool   `json:"-"` // for the disk
}

// ConnStat is the state of a connection.
type ConnStat struct {
	PeerNodeID      int        `json:"peer-node-id"`
	Name            string     `json:"name"`
	ConnectionState string     `json:"connection-state"`
	Congested       bool       `json:"congested"`
	PeerRole        string     `json:"peer-role"`
	TLS             bool       `json:"tls"`
	APInFlight      int64      `json:"ap-in-flight"`
	RSInFlight      int64      `json:"rs-in-flight"`
	Paths           []Path     `json:"paths,omitempty"`
	PeerDevices     []PeerStat `json:"peer_devices"`
}

// Path is where a connection runs.
type Path struct {
	ThisHost    Host `json:"this_host"`
	RemoteHost  Host `json:"remote_host"`
	Established bool `json:"established"`
}

// Host is one end of a Path.
type Host struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
	Family  string `json:"family"`
}

// PeerStat is the state of a volume on the peer, and of its replication.
type PeerStat struct {
	Volume           int     `json:"volume"`
	ReplicationState string  `json:"replication-state"`
	PeerDiskState    string  `json:"peer-disk-state"`
	PeerClient       bool    `json:"peer-client"`
	ResyncSuspended  string  `json:"resync-suspended"`
	Received         int64   `json:"received"`
	Sent             int64   `json:"sent"`
	OutOfSync        int64   `json:"out-of-sync"`
	Pending          int     `json:"pending"`
	Unacked          int     `json:"unacked"`
	HasSyncDetails   bool    `json:"has-sync-details"`
	HasVerifyDetails bool    `json:"has-online-verify-details"`
	PercentInSync    float64 `json:"percent-in-sync"`
	*SyncStat
}

// SyncStat is the progress of a resync or of an online verify.
type SyncStat struct {
	Total     int64 `json:"rs-total"`
	DtStartMS int64 `json:"rs-dt-start-ms"`
	PausedMS  int64 `json:"rs-paused-ms"`
	Dt0MS     int64 `json:"rs-dt0-ms"`
	Db0       int64 `json:"rs-db0-sectors"`
	Dt1MS     int64 `json:"rs-dt1-ms"`
	Db1       int64 `json:"rs-db1-sectors"`
	*ResyncStat
	*VerifyStat
	Want        float64 `json:"want"`
	Rate0       float64 `json:"db0/dt0 [MiB/s]"`
	Rate1       float64 `json:"db1/dt1 [MiB/s]"`
	Finish      int64   `json:"estimated-seconds-to-finish"`
	Average     float64 `json:"db/dt [MiB/s]"`
	PercentDone float64 `json:"percent-resync-done"`
}

// ResyncStat is what only a resync has.
type ResyncStat struct {
	Failed   int64 `json:"rs-failed"`
	SameCsum int64 `json:"rs-same-csum"`
}

// VerifyStat is what only an online verify has: where it is in sectors, the rest in KiB.
type VerifyStat struct {
	Start    int64 `json:"ov-start-sector"`
	Stop     int64 `json:"ov-stop-sector"`
	Position int64 `json:"ov-position"`
	Left     int64 `json:"ov-left"`
	Skipped  int64 `json:"ov-skipped"`
}

// Statuses returns the states of the resources with that name, or of all for "all" or "".
func (n *Node) Statuses(name string) ([]Status, error) {
	list := n.Resources()
	if name != "" && name != "all" {
		r, err := n.Resource(name)
		if err != nil {
			return nil, &Error{Exit: ExitConfig, Text: "No such resource"}
		}
		list = []*Resource{r}
	}
	out := make([]Status, 0, len(list))
	for _, r := range list {
		out = append(out, r.Status())
	}
	return out, nil
}

// Snapshot returns the state as the SDK has it, with all volumes of the resource.
func (r *Resource) Snapshot() replica.Status {
	var st replica.Status
	if res := r.replica(); res != nil {
		st = res.Status()
	}
	st.Name = r.name
	for _, v := range r.Volumes() {
		if _, ok := st.Volume(v.id); !ok {
			st.Volumes = append(st.Volumes, replica.VolumeStatus{ID: v.id, Minor: v.minor, State: unconfigured})
		}
	}
	return st
}

// ProcDRBD returns the state of the node as /proc/drbd would.
func (n *Node) ProcDRBD() string {
	var all []replica.Status
	for _, r := range n.Resources() {
		all = append(all, r.Snapshot())
	}
	return replica.ProcDRBD(all...)
}

// Status returns the state of the resource.
func (r *Resource) Status() Status {
	st := r.Snapshot()
	out := Status{
		Name: r.name, Role: st.Role().String(), Suspended: st.Suspended, WriteOrdering: "flush",
		Devices: []DeviceStat{}, Connections: []ConnStat{},
	}
	for i := range st.Volumes {
		v := &st.Volumes[i]
		out.SuspendedUser = out.SuspendedUser || v.State.Susp
		out.SuspendedNoData = out.SuspendedNoData || v.State.SuspNoData
		out.SuspendedFencing = out.SuspendedFencing || v.State.SuspFencing
		if v.WriteOrdering == 'd' {
			out.WriteOrdering = "drain"
		}
		r.mu.RLock()
		record := r.volumes[v.ID]
		r.mu.RUnlock()
		out.Devices = append(out.Devices, DeviceStat{
			Volume: int(v.ID), Minor: v.Minor, DiskState: v.State.Disk.String(), Quorum: true,
			Open: record != nil && record.dev.Opens() > 0,
			Size: v.Size >> 10, Read: v.Read >> 10, Written: v.Written >> 10,
			ALWrites: v.ALWrites, BMWrites: v.BitmapWrites,
			UpperPending: v.AppPending, LowerPending: v.LocalPending, ALSuspended: v.ActivityLogSuspended,
			BlockedUpper: v.Blocked, BlockedLower: v.DiskCongested,
		})
	}
	out.Suspended = out.Suspended || out.SuspendedUser || out.SuspendedNoData || out.SuspendedFencing
	if c := r.Net(); c != nil && r.connecting() {
		out.Connections = append(out.Connections, r.connStat(c, &st))
	}
	return out
}

func (r *Resource) connStat(c *Net, st *replica.Status) ConnStat {
	out := ConnStat{Name: peerName(c), TLS: r.node.cfg.Network.TLS != nil, PeerRole: "Unknown", ConnectionState: "StandAlone"}
	conn := protocol.StandAlone
	if len(st.Peers) > 0 {
		conn = st.Peers[0].Conn
		out.Congested = st.Peers[0].Congested
		out.APInFlight, out.RSInFlight = st.Peers[0].InFlight>>10, st.Peers[0].ResyncInFlight>>10
	}
	out.ConnectionState = connectionState(conn)
	out.Paths = []Path{{host(c.Local), host(c.Remote), conn >= protocol.WFReportParams}}
	for i := range st.Volumes {
		v := &st.Volumes[i]
		if v.State.Peer != protocol.RoleUnknown {
			out.PeerRole = v.State.Peer.String()
		}
		out.PeerDevices = append(out.PeerDevices, peerStat(v))
	}
	return out
}

func peerStat(v *replica.VolumeStatus) PeerStat {
	p := PeerStat{
		Volume: int(v.ID), ReplicationState: replicationState(v.State.Conn), PeerDiskState: v.State.PeerDisk.String(),
		ResyncSuspended: resyncSuspended(v.State), Received: v.Received >> 10, Sent: v.Sent >> 10,
		OutOfSync: v.OutOfSync >> 10, Pending: v.Pending, Unacked: v.Unacked, PercentInSync: inSync(v),
	}
	verify := v.State.Conn == protocol.VerifyS || v.State.Conn == protocol.VerifyT
	if rs := v.Resync; rs != nil {
		p.HasSyncDetails, p.HasVerifyDetails = !verify, verify
		p.SyncStat = &SyncStat{
			Total: rs.Total >> 10, DtStartMS: rs.Elapsed.Milliseconds(), PausedMS: rs.Paused.Milliseconds(),
			Dt0MS: rs.Recent[0].Time.Milliseconds(), Db0: rs.Recent[0].Bytes >> 9,
			Dt1MS: rs.Recent[1].Time.Milliseconds(), Db1: rs.Recent[1].Bytes >> 9,
			Want: mib(rs.Wanted), Rate0: rate(rs.Recent[0]), Rate1: rate(rs.Recent[1]),
			Finish: int64(rs.Finish.Seconds()), Average: mib(rs.Average), PercentDone: round2(rs.Percent()),
		}
		if o := rs.Verify; o != nil {
			p.VerifyStat = &VerifyStat{Start: o.From >> 9, Stop: o.To >> 9, Position: o.At >> 9, Left: rs.Left >> 10}
		} else {
			p.ResyncStat = &ResyncStat{Failed: rs.Failed >> 10, SameCsum: rs.SameChecksum >> 10}
		}
	}
	return p
}

// rate returns MiB per second.
func rate(p replica.Progress) float64 {
	if p.Time <= 0 {
		return 0
	}
	return round2(float64(p.Bytes) / (1 << 20) / p.Time.Seconds())
}

func mib(n int64) float64 { return round2(float64(n) / (1 << 20)) }

func round2(f float64) float64 { return math.Floor(f*100) / 100 }

// inSync returns how much of the volume is in sync in percent, rounded down: 100 only
// if all is.
func inSync(v *replica.VolumeStatus) float64 {
	if v.Size <= 0 || v.OutOfSync <= 0 {
		return 100
	}
	return round2(100 * (1 - float64(min(v.OutOfSync, v.Size))/float64(v.Size)))
}

// peerName returns what the peer is called in the output.
func peerName(c *Net) string {
	if c.PeerName != "" {
		return c.PeerName
	}
	return "peer"
}

// connectionState returns DRBD 9's name for a connection's state.
func connectionState(c protocol.ConnState) string {
	switch {
	case c == protocol.WFConnection:
		return "Connecting"
	case c >= protocol.WFReportParams:
		return "Connected"
	}
	return c.String()
}

// replicationState returns DRBD 9's name for a volume's replication state.
func replicationState(c protocol.ConnState) string {
	switch {
	case c < protocol.Connected:
		return "Off"
	case c == protocol.Connected:
		return "Established"
	}
	return c.String()
}

func resyncSuspended(s protocol.State) string {
	var why []string
	if s.UserISP {
		why = append(why, "user")
	}
	if s.PeerISP {
		why = append(why, "peer")
	}
	if s.AftrISP {
		why = append(why, "dependency")
	}
	if len(why) == 0 {
		return "no"
	}
	return strings.Join(why, ",")
}

func host(addr string) Host {
	h, p, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(p)
	family := "ipv4"
	if strings.Contains(h, ":") {
		family = "ipv6"
	}
	return Host{h, port, family}
}
