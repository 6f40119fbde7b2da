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
	known map[string][]object // by resource, as written last
}

// Events2 writes the node's objects and then their changes, as drbdsetup events2, until
// ctx ends (spec: behaviour 9.5). A resource that is not there yet is waited for. A change that is undone before it could be written is
// not written.
func (n *Node) Events2(ctx context.Context, w io.Writer, opt Events2Options) error {
	if opt.Resource == "all" {
		opt.Resource = ""
	}
	watch := n.WatchResource(opt.Resource)
	defer watch.Close()
	e := &events2{w: w, opt: opt, known: map[string][]object{}}
	for _, r := range n.Resources() {
		if opt.Resource != "" && opt.Resource != r.name {
			continue
		}
		if err := e.update(n, r.name, "exists"); err != nil {
			return err
		}
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
		changed := watch.Changed()
		slices.Sort(changed)
		for _, name := range changed {
			if err := e.update(n, name, "create"); err != nil {
				return err
			}
		}
	}
	return nil
}

// update writes what is new of a resource, what has changed and what is gone.
func (e *events2) update(n *Node, name, verb string) error {
	var now []object
	if r, err := n.Resource(name); err == nil {
		st := r.Status()
		now = st.objects()
	}
	old := e.known[name]
	for _, o := range now {
		if err := e.tell(verb, old, o); err != nil {
			return err
		}
	}
	for _, o := range slices.Backward(old) {
		if find(now, o.key()) != nil {
			continue
		}
		if err := e.line("destroy " + o.key()); err != nil {
			return err
		}
	}
	e.known[name] = now
	if len(now) == 0 {
		delete(e.known, name)
	}
	return nil
}

func find(list []object, key string) *object {
	for i := range list {
		if list[i].key() == key {
			return &list[i]
		}
	}
	return nil
}

// tell writes one object if there is something to say about it.
func (e *events2) tell(verb string, before []object, o object) error {
	say := o.state
	if old := find(before, o.key()); old != nil {
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
	if e.opt.Statistics {
		say = append(slices.Clone(say), o.stats...)
	}
	return e.line(verb + " " + o.key() + " " + strings.Join(say, " "))
}

func (e *events2) helper(h HelperCall) error {
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
