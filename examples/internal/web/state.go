// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// State is what the page shows of a node at one instant.
type State struct {
	Node      string     `json:"node"`
	Time      time.Time  `json:"time"`
	Resources []Resource `json:"resources"`
	Proc      string     `json:"proc"`
}

// Resource is one resource on the page.
type Resource struct {
	Name      string       `json:"name"`
	Role      string       `json:"role"`
	Peer      string       `json:"peer"`
	PeerRole  string       `json:"peerRole"`
	Conn      string       `json:"conn"`
	Suspended bool         `json:"suspended"`
	Volumes   []Volume     `json:"volumes"`
	Advice    *node.Advice `json:"advice,omitempty"`
	Log       []Line       `json:"log"`
}

// Volume is one volume on the page. Amounts are bytes.
type Volume struct {
	ID        int     `json:"id"`
	Minor     int     `json:"minor"`
	State     string  `json:"state"`
	Disk      string  `json:"disk"`
	PeerDisk  string  `json:"peerDisk"`
	Size      int64   `json:"size"`
	OutOfSync int64   `json:"outOfSync"`
	Clients   int     `json:"clients"`
	Resync    *Resync `json:"resync,omitempty"`
}

// Resync is the progress of a resync or verify.
type Resync struct {
	Percent float64 `json:"percent"`
	Total   int64   `json:"total"`
	Left    int64   `json:"left"`
	Rate    int64   `json:"rate"`    // bytes per second
	Seconds int64   `json:"seconds"` // to the end, estimated
	Stalled bool    `json:"stalled"`
	Paused  bool    `json:"paused"`
}

// Line is one line of a resource's history.
type Line struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// logLines is how many lines of history a resource has on the page.
const logLines = 8

// Snapshot returns the state of a node.
func Snapshot(n *node.Node) State {
	st := State{Node: n.Name(), Time: time.Now(), Resources: []Resource{}, Proc: n.ProcDRBD()}
	for _, r := range n.Resources() {
		st.Resources = append(st.Resources, resource(r))
	}
	return st
}

func resource(r *node.Resource) Resource {
	snap := r.Snapshot()
	out := Resource{
		Name: r.Name(), Role: snap.Role().String(), PeerRole: "Unknown", Conn: protocol.StandAlone.String(),
		Suspended: snap.Suspended, Advice: r.Advice(), Volumes: []Volume{}, Log: []Line{},
	}
	if c := r.Net(); c != nil {
		if out.Peer = c.PeerName; out.Peer == "" {
			out.Peer = c.Remote
		}
	}
	if len(snap.Peers) > 0 {
		out.Conn = snap.Peers[0].Conn.String()
	}
	clients := map[uint16]int{}
	for _, v := range r.Volumes() {
		clients[v.ID()] = v.Device().Opens()
	}
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		if v.State.Peer != protocol.RoleUnknown {
			out.PeerRole = v.State.Peer.String()
		}
		out.Volumes = append(out.Volumes, volume(v, clients[v.ID]))
	}
	log := r.Log()
	for _, e := range log[max(0, len(log)-logLines):] {
		out.Log = append(out.Log, Line{e.Time, e.Text})
	}
	return out
}

func volume(v *replica.VolumeStatus, clients int) Volume {
	out := Volume{
		ID: int(v.ID), Minor: v.Minor, State: v.State.Conn.String(), Disk: v.State.Disk.String(),
		PeerDisk: v.State.PeerDisk.String(), Size: v.Size, OutOfSync: v.OutOfSync, Clients: clients,
	}
	if rs := v.Resync; rs != nil {
		out.Resync = &Resync{
			Percent: rs.Percent(), Total: rs.Total, Left: rs.Left, Rate: rs.Rate, Seconds: int64(rs.Finish.Seconds()),
			Stalled: rs.Stalled, Paused: v.State.Conn == protocol.PausedSyncS || v.State.Conn == protocol.PausedSyncT,
		}
	}
	return out
}
