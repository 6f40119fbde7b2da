// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/drbdconf"
)

// Load reads a file and what it includes. host is this node's name. The warnings are for
// people, a line each: FILE:LINE:COLUMN, what is not done as it is written, and what
// happens instead. An error without a list is about the file; one with a list, of what
// can be, is about the resources that are missing from it.
func Load(path, host string) (list []node.ResourceConfig, warnings []string, err error) {
	c, err := drbdconf.Load(path)
	if err != nil {
		return nil, nil, err
	}
	l := &loader{config: c, host: host}
	list = []node.ResourceConfig{}
	var errs []error
	for _, r := range c.Resources {
		rc, err := l.resource(r)
		switch {
		case errors.Is(err, drbdconf.ErrNotFound):
			l.warn(r.Pos, "resource %s is not on %s and is left out", r.Name, host)
		case err != nil:
			errs = append(errs, fmt.Errorf("resource %s: %w", r.Name, err))
		default:
			list = append(list, rc)
		}
	}
	return list, l.warnings, errors.Join(errs...)
}

type loader struct {
	config   *drbdconf.Config
	host     string
	warnings []string
}

func (l *loader) warn(pos drbdconf.Pos, format string, args ...any) {
	text := fmt.Sprintf("%v: %s", pos, fmt.Sprintf(format, args...))
	if !slices.Contains(l.warnings, text) {
		l.warnings = append(l.warnings, text)
	}
}

// seen is a resource as this node sees it.
type seen struct {
	*loader
	r *drbdconf.Resource
	n *drbdconf.Node
}

func (l *loader) resource(r *drbdconf.Resource) (out node.ResourceConfig, err error) {
	n, err := r.Node(l.host)
	if err != nil {
		return out, err
	}
	for _, p := range n.Problems {
		l.warn(p.Pos, "%s: %v: %s", p.Option, p.Kind, p.Message)
	}
	s := seen{l, r, n}
	common := &l.config.Common
	out = node.ResourceConfig{Name: r.Name, Options: s.options(node.ResourceOptions.Names(), nil, common.Options, r.Options)}
	for _, list := range [][]drbdconf.Option{common.Startup, r.Startup} {
		for _, o := range list {
			l.warn(o.Pos, "%s has no effect here: the daemon does not wait, and promotes nobody", o.Written)
		}
	}
	if out.Handlers, err = s.handlers(); err != nil {
		return out, err
	}
	own, err := r.Host(l.host)
	if err != nil {
		return out, err
	}
	for i, v := range r.HostVolumes(own) {
		vc, err := s.volume(v, &n.Config.Volumes[i])
		if err != nil {
			return out, err
		}
		out.Volumes = append(out.Volumes, vc)
	}
	if n.Peer != "" {
		out.Net = s.net()
	}
	return out, nil
}

// options joins lists of options, of which the later ones count, without those that
// are a problem: the warning says what happens in their place. Of those that mapped has,
// its value is taken.
func (s seen) options(known []string, mapped map[string]string, lists ...[]drbdconf.Option) node.Options {
	out := node.Options{}
	for _, o := range slices.Concat(lists...) {
		value, rewritten := mapped[o.Name]
		switch {
		case rewritten:
			out[o.Name] = value
		case slices.ContainsFunc(s.n.Problems, func(p drbdconf.Problem) bool { return p.Pos == o.Pos }):
			delete(out, o.Name)
		case !slices.Contains(known, o.Name):
			s.warn(o.Pos, "%s has no effect here", o.Written)
		default:
			out[o.Name] = o.Value
		}
	}
	return out
}

// decisive are the handlers whose exit code decides over data.
var decisive = []string{"fence-peer", "before-resync-target", "before-resync-source"}

// handlers returns the programs that are run as handlers. A line that only a shell
// understands is an error if data depends on it, and else one of the problems.
func (s seen) handlers() (map[string]string, error) {
	out := map[string]string{}
	common := &s.config.Common
	for _, o := range slices.Concat(common.Legacy, common.Handlers, s.r.Legacy, s.r.Handlers) {
		name := o.Name
		if name == "incon-degr-cmd" {
			name = "pri-on-incon-degr"
		}
		switch err := node.CheckHandler(name, o.Value); {
		case err == nil:
			out[name] = o.Value
		case slices.Contains(decisive, name):
			return nil, fmt.Errorf("%v: %w", o.Pos, err)
		default:
			delete(out, name) // a later line counts: nothing is called
		}
	}
	return out, nil
}

func (s seen) volume(v *drbdconf.Volume, c *replica.VolumeConfig) (node.VolumeConfig, error) {
	mapped := map[string]string{}
	if c.ResyncAfter != nil {
		mapped["resync-after"] = fmt.Sprint(s.minor(v.Pos, c.ResyncAfter))
	}
	disk := slices.Concat(s.config.Common.Disk, s.r.Disk, v.Options)
	for _, o := range disk {
		if o.Name == "on-io-error" {
			mapped[o.Name] = c.OnIOError.String()
		}
	}
	out := node.VolumeConfig{Volume: v.Number, Minor: v.Minor, Options: s.options(node.DiskOptions.Names(), mapped, disk)}
	if c.Fencing != replica.DontCare { // it may stand in the net section, as with DRBD 9
		out.Options["fencing"] = c.Fencing.String()
	}
	if out.Minor < 0 {
		return out, fmt.Errorf("%v: the device %q has no minor number: write \"device minor N\"", v.Pos, v.Device)
	}
	if v.Disk == "none" || v.Disk == "" {
		return out, nil
	}
	b := &node.Backing{Disk: v.Disk, MetaDisk: v.MetaDisk}
	switch {
	case v.MetaDisk == "internal" || v.MetaDisk == "":
		b.MetaDisk, b.Index = "internal", "internal"
	case v.MetaIndex < 0:
		b.Index = "flex-external"
	default:
		b.Index = fmt.Sprint(v.MetaIndex)
	}
	out.Backing = b
	return out, nil
}

// minor returns the minor of a volume that resync-after names, -1 if it is not on this
// node.
func (s seen) minor(pos drbdconf.Pos, ref *replica.VolumeRef) int {
	if r, err := s.config.Resource(ref.Resource); err == nil {
		if own, err := r.Host(s.host); err == nil {
			for _, v := range r.HostVolumes(own) {
				if v.Number == int(ref.Volume) && v.Minor >= 0 {
					return v.Minor
				}
			}
		}
	}
	s.warn(pos, "resync-after: %s/%d is not on %s: nobody is waited for", ref.Resource, ref.Volume, s.host)
	return -1
}

// net returns the connection to the peer.
func (s seen) net() *node.Net {
	lists := [][]drbdconf.Option{s.config.Common.Net, s.r.Net}
	for _, c := range s.r.Connections {
		lists = append(lists, c.Net)
	}
	p := s.n.Config.Peers[0]
	list := slices.DeleteFunc(slices.Concat(lists...), func(o drbdconf.Option) bool { return o.Name == "fencing" })
	mapped := map[string]string{}
	for _, o := range list {
		// "discard-node-alpha" is another policy on alpha than on its peer.
		if strings.HasPrefix(o.Value, "discard-node-") {
			mapped[o.Name] = map[string]string{
				"after-sb-0pri": p.AfterSB0Pri.String(), "after-sb-1pri": p.AfterSB1Pri.String(), "after-sb-2pri": p.AfterSB2Pri.String(),
			}[o.Name]
		}
	}
	return &node.Net{
		Local: s.n.TCP.Local, Remote: s.n.TCP.Remote, PeerName: s.n.Peer,
		Options: s.options(node.NetOptions.Names(), mapped, list),
	}
}
