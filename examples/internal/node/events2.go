// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Events2Options are those of drbdsetup events2.
type Events2Options struct {
	Resource   string // a name, or "all" or ""
	Now        bool
	Statistics bool
	Timestamps bool
}

// object is one object of events2: what identifies it, its state and its statistics.
type object struct {
	kind  string
	id    string
	state []string // key:value
	stats []string
}

func (o *object) key() string { return o.kind + " " + o.id }

// objects returns a resource's objects in DRBD's order.
func (s *Status) objects() []object {
	name := "name:" + s.Name
	out := []object{{kind: "resource", id: name,
		state: []string{"role:" + s.Role, "suspended:" + s.suspendedBy()},
		stats: []string{"write-ordering:" + s.WriteOrdering}}}
	for i := range s.Connections {
		c := &s.Connections[i]
		out = append(out, object{kind: "connection", id: fmt.Sprintf("%s peer-node-id:%d conn-name:%s", name, c.PeerNodeID, c.Name),
			state: []string{"connection:" + c.ConnectionState, "role:" + c.PeerRole},
			stats: []string{"congested:" + yesOrNo(c.Congested)}})
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		out = append(out, object{kind: "device", id: fmt.Sprintf("%s volume:%d minor:%d", name, d.Volume, d.Minor),
			state: []string{"disk:" + d.DiskState}, stats: d.statistics()})
	}
	for i := range s.Connections {
		c := &s.Connections[i]
		for j := range c.PeerDevices {
			p := &c.PeerDevices[j]
			out = append(out, object{kind: "peer-device",
				id:    fmt.Sprintf("%s peer-node-id:%d conn-name:%s volume:%d", name, c.PeerNodeID, c.Name, p.Volume),
				state: []string{"replication:" + p.ReplicationState, "peer-disk:" + p.PeerDiskState, "resync-suspended:" + p.ResyncSuspended},
				stats: p.statistics()})
		}
	}
	return out
}

// events2 is one reader's view: what it was told last.
type events2 struct {
	w     io.Writer
	opt   Events2Options
	known map[string]object
	order []string
}

// Events2 writes the node's objects and then their changes, as drbdsetup events2, until
// ctx ends (spec: behaviour 9.5). A change that is undone before it could be written is
// not written.
func (n *Node) Events2(ctx context.Context, w io.Writer, opt Events2Options) error {
	watch := n.Watch()
	defer watch.Close()
	e := &events2{w: w, opt: opt, known: map[string]object{}}
	if opt.Resource != "" && opt.Resource != "all" {
		if _, err := n.Resource(opt.Resource); err != nil {
			return err
		}
	}
	if err := e.update(n, "exists"); err != nil {
		return err
	}
	if err := e.line("exists -"); err != nil || opt.Now {
		return err
	}
	for watch.Wait(ctx) {
		for _, h := range watch.Helpers() {
			if err := e.helper(h); err != nil {
				return err
			}
		}
		if err := e.update(n, "create"); err != nil {
			return err
		}
	}
	return nil
}

func (e *events2) wants(resource string) bool {
	return e.opt.Resource == "" || e.opt.Resource == "all" || e.opt.Resource == resource
}

// update writes what is new, what has changed and what is gone.
func (e *events2) update(n *Node, verb string) error {
	seen := map[string]bool{}
	var order []string
	for _, r := range n.Resources() {
		if !e.wants(r.name) {
			continue
		}
		st := r.Status()
		for _, o := range st.objects() {
			key := o.key()
			seen[key] = true
			order = append(order, key)
			if err := e.tell(verb, o); err != nil {
				return err
			}
		}
	}
	for _, key := range slices.Backward(e.order) {
		if !seen[key] {
			delete(e.known, key)
			if err := e.line("destroy " + key); err != nil {
				return err
			}
		}
	}
	e.order = order
	return nil
}

// tell writes one object if there is something to say about it.
func (e *events2) tell(verb string, o object) error {
	old, known := e.known[o.key()]
	say := o.state
	if known {
		verb, say = "change", nil
		for i, kv := range o.state {
			if old.state[i] != kv {
				say = append(say, kv)
			}
		}
		if len(say) == 0 {
			return nil
		}
	}
	e.known[o.key()] = o
	if e.opt.Statistics {
		say = append(slices.Clone(say), o.stats...)
	}
	return e.line(verb + " " + o.key() + " " + strings.Join(say, " "))
}

func (e *events2) helper(h HelperCall) error {
	if !e.wants(h.Resource) {
		return nil
	}
	var b strings.Builder
	b.WriteString("call helper name:" + h.Resource)
	if h.Done {
		b.Reset()
		b.WriteString("response helper name:" + h.Resource)
	}
	if h.Peer != "" {
		b.WriteString(" peer-node-id:0 conn-name:" + h.Peer)
	}
	if h.Volume >= 0 {
		fmt.Fprintf(&b, " volume:%d minor:%d", h.Volume, h.Minor)
	}
	b.WriteString(" helper:" + h.Helper)
	if h.Done {
		fmt.Fprintf(&b, " status:%d", h.Status)
	}
	return e.line(b.String())
}

func (e *events2) line(s string) error {
	if e.opt.Timestamps {
		s = time.Now().Format("2006-01-02T15:04:05.000000-07:00") + " " + s
	}
	_, err := io.WriteString(e.w, s+"\n")
	return err
}
