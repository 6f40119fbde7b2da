// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"errors"
	"slices"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/transport"
)

// Node is a resource as one of its hosts sees it.
type Node struct {
	// Host and Peer are the names of the two; Peer is "" for a resource of one host.
	Host, Peer string

	// Config is complete but for what has to be opened: Disk and MetaDevice of its
	// volumes, for which Disks has the paths; Transport of its peer, for which TCP
	// has the addresses; Logger; and ResyncOrder, if resources wait for each other.
	Config replica.Config
	// Disks belong to Config.Volumes, in the same order.
	Disks []Disk
	// TCP is for transport.NewTCP.
	TCP transport.TCPConfig

	// Startup is what an init script would do.
	Startup Startup
	// Handlers runs the commands of the handlers section, each as [SplitCommand] splits
	// it; one that needs a shell is among Problems. It is in Config already, as Handlers
	// and, if there is a fence-peer, as Fencer; a program that does not want commands of
	// a file to be run clears both. nil if there are none.
	Handlers *replica.ExecHandlers

	// Problems is what is in the file and is not done as it is written, in the order
	// of the file.
	Problems []Problem
}

// Disk says where the data and the metadata of a volume lie.
type Disk struct {
	// Device is the path that DRBD would have: "/dev/drbd0".
	Device string
	// Path of the backing device, "" for a diskless volume.
	Path string
	// MetaPath is the path of the device with the metadata, "" for internal. Several
	// volumes may have the same one.
	MetaPath string
}

// Startup is the startup section.
type Startup struct {
	// Timeouts are how long to wait for the peer, for Resource.StartupContext.
	Timeouts replica.WaitTimeouts
	// WaitAfterSplitBrain waits on although there is a split brain.
	WaitAfterSplitBrain bool
	// Primary says that this node is to be promoted (become-primary-on).
	Primary bool
}

// Node returns the resource as the host of that name sees it: what uname -n says, or
// what the user says who this is. Of a floating host the name is its address. Options
// are those of the common section, the resource, its connection and the volume, of which
// the later one counts.
//
// Errors: ErrNotFound for a host that is not there; ErrUnsupported for a resource of
// more than two hosts, a stacked one, or a network that is not IP.
func (r *Resource) Node(host string) (*Node, error) {
	own, err := r.Host(host)
	if err != nil {
		return nil, err
	}
	if len(r.Hosts) > 2 {
		return nil, errorAt(r.Hosts[2].Pos, ErrUnsupported, "a third host: DRBD 9 knows more than two, protocol 101 does not")
	}
	n := &Node{Host: own.Name()}
	n.Config.Name = r.Name
	m := &mapper{node: n, r: r, host: own, peer: &replica.PeerConfig{}}
	for _, h := range r.Hosts {
		if h.Stacked {
			return nil, errorAt(h.Pos, ErrUnsupported, "a stacked resource: mirror the volume of one resource with another in a program")
		}
		if h != own {
			m.other = h
		}
	}
	for _, v := range r.HostVolumes(own) {
		m.volume(v)
	}
	if err := m.addresses(); err != nil {
		return nil, err
	}
	m.options()
	if h := n.Handlers; h != nil {
		n.Config.Handlers = h.Handlers()
		if h.Commands["fence-peer"] != nil {
			n.Config.Fencer = h
		}
	}
	slices.SortStableFunc(n.Problems, func(a, b Problem) int { return a.Pos.compare(b.Pos) })
	if m.other != nil {
		n.Peer = m.other.Name()
		m.peer.Name = n.Peer
		n.Config.Peers = []replica.PeerConfig{*m.peer}
	}
	return n, m.errs.err()
}

// Err returns the problems that change what happens to the data, those of the kinds
// Unsupported and Only9, as one error that wraps ErrUnsupported; nil if there are none.
func (n *Node) Err() error {
	var list []error
	for _, p := range n.Problems {
		if p.Kind == Unsupported || p.Kind == Only9 {
			list = append(list, errorAt(p.Pos, ErrUnsupported, "%s: %s", p.Option, p.Message))
		}
	}
	return errors.Join(list...)
}

// mapper fills in a Node.
type mapper struct {
	node        *Node
	r           *Resource
	host, other *Host // other may be nil
	peer        *replica.PeerConfig
	vol         *replica.VolumeConfig // whose options are being mapped
	errs        errorList
}

func (m *mapper) problem(pos Pos, kind ProblemKind, option, message string) {
	p := Problem{Pos: pos, Kind: kind, Option: option, Message: message}
	if !slices.Contains(m.node.Problems, p) { // options of all volumes are seen once for each
		m.node.Problems = append(m.node.Problems, p)
	}
}

// volume adds a volume with its places.
func (m *mapper) volume(v *Volume) {
	out := replica.VolumeConfig{ID: uint16(v.Number), Minor: v.Minor, MetaDisk: metadata.Internal()}
	d := Disk{Device: v.Device}
	if d.Device == "" {
		d.Device = "minor " + itoa(v.Minor)
	}
	if v.Disk != "none" {
		d.Path = v.Disk
		switch {
		case v.MetaDisk == "internal":
		case v.MetaIndex >= 0:
			d.MetaPath, out.MetaDisk = v.MetaDisk, metadata.Indexed(v.MetaIndex)
		default:
			d.MetaPath, out.MetaDisk = v.MetaDisk, metadata.FlexExternal()
		}
	}
	m.node.Config.Volumes = append(m.node.Config.Volumes, out)
	m.node.Disks = append(m.node.Disks, d)
}

// addresses finds the two ends of the connection, which DRBD 9 may have for a
// connection alone.
func (m *mapper) addresses() error {
	local, remote := m.host.Address, Address{}
	if m.other != nil {
		remote = m.other.Address
	}
	for _, c := range m.r.Connections {
		hosts := c.Hosts
		if len(c.Paths) > 0 {
			hosts = c.Paths[0]
		}
		for _, p := range c.Paths[min(1, len(c.Paths)):] {
			for _, h := range p[:min(1, len(p))] {
				m.problem(h.Pos, Only9, "connection path", "only the first path is used")
			}
		}
		for _, h := range hosts {
			a := &remote
			if slices.Contains(m.host.Names, h.Name) {
				a = &local
			}
			if h.Address.Host != "" {
				*a = h.Address
			}
			if h.Port != 0 {
				a.Port = h.Port
			}
		}
	}
	for _, a := range []Address{local, remote} {
		if a.Host != "" && a.Family != "ipv4" && a.Family != "ipv6" {
			return errorAt(a.Pos, ErrUnsupported, "the address family %s: DRBD is spoken over TCP here, use ipv4 or ipv6", a.Family)
		}
	}
	if m.other != nil && (local.Host == "" || remote.Host == "") {
		return errorAt(m.r.Pos, ErrInvalid, "%s and %s do not have an address each", m.host.Name(), m.other.Name())
	}
	m.node.TCP.Local, m.node.TCP.Remote = local.String(), remote.String()
	return nil
}

// options maps everything there is, common things first.
func (m *mapper) options() {
	c := &m.r.config.Common
	for _, o := range m.r.config.Global {
		m.problem(o.Pos, NoEffect, o.Written, "a matter of DRBD's tools")
	}
	for _, h := range m.r.Hosts {
		if h.NodeID >= 0 {
			m.problem(h.nodeIDPos, NoEffect, "node-id", "nodes of DRBD 8.4 have no numbers")
		}
	}
	for _, section := range []string{"options", "net", "startup", "handlers", "proxy"} {
		lists := [][]Option{*c.list(section), *m.r.list(section)}
		for _, conn := range m.r.Connections {
			lists = append(lists, *conn.list(section))
		}
		m.section(section, slices.Concat(lists...))
	}
	for _, o := range slices.Concat(c.Legacy, m.r.Legacy) {
		m.legacy(o)
	}
	volumes := m.r.HostVolumes(m.host)
	for i := range m.node.Config.Volumes {
		m.vol = &m.node.Config.Volumes[i]
		list := slices.Concat(c.Disk, m.r.Disk)
		for _, conn := range m.r.Connections {
			list = append(list, conn.Disk...)
		}
		list = append(list, volumes[i].Options...)
		m.section("disk", list)
		for _, o := range list {
			if o.Name == "disk-barrier" && o.Value == "yes" {
				m.vol.NoDiskFlushes = false // a flush does what the barrier was meant to do
			}
		}
	}
}

// section maps the options of a section, of which the last of a name counts.
func (m *mapper) section(section string, list []Option) {
	for i, o := range list {
		if slices.ContainsFunc(list[i+1:], func(later Option) bool { return later.Name == o.Name }) {
			continue
		}
		m.option(section, o)
	}
}

func (m *mapper) option(section string, o Option) {
	sp := sectionSpecs[section][o.Name]
	var n int64
	if sp.kind == number {
		n, _ = sp.number(o.Value) // was checked when it was read
	}
	if f := mappings[place{section, o.Name}]; f != nil {
		f(m, o, n)
		return
	}
	if section == "handlers" && !sp.only9 {
		m.handler(o.Name, o)
		return
	}
	if sp.isDefault(o.Value) {
		return
	}
	note, ok := notes[place{section, o.Name}]
	switch {
	case sp.only9:
		m.problem(o.Pos, Only9, o.Written, "this node speaks the protocol of DRBD 8.4")
	case ok:
		m.problem(o.Pos, NoEffect, o.Written, note)
	case sp.def != "":
		m.problem(o.Pos, Unsupported, o.Written, "this node does as with "+o.Name+" "+sp.def)
	default:
		m.problem(o.Pos, Unsupported, o.Written, "this node does without it")
	}
}

// isDefault reports whether a value says what is done anyway.
func (sp spec) isDefault(value string) bool {
	if sp.kind == number {
		a, errA := sp.number(value)
		b, errB := sp.number(sp.def)
		return errA == nil && errB == nil && a == b
	}
	return value == sp.def && value != ""
}

func (m *mapper) legacy(o Option) {
	section, _, _ := strings.Cut(o.Written, " ")
	if o.Name == "incon-degr-cmd" {
		section = "resource"
		m.handler("pri-on-incon-degr", o)
	}
	m.problem(o.Pos, Legacy, o.Written, legacy[place{section, o.Name}])
}
