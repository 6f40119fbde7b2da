// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
	"github.com/go-blockmirror/blockmirror/replica/drbdconf"
)

// Load reads a file and what it includes. host is this node's name. The warnings are for
// people, a line each.
func Load(path, host string) (list []node.ResourceConfig, warnings []string, err error) {
	c, err := drbdconf.Load(path)
	if err != nil {
		return nil, nil, err
	}
	l := &loader{config: c, host: host}
	var errs []error
	for _, r := range c.Resources {
		rc, err := l.resource(r)
		switch {
		case errors.Is(err, drbdconf.ErrNotFound):
			l.warn(r.Pos, "resource %s is not on %s and is left out", r.Name, host)
		case err != nil:
			errs = append(errs, fmt.Errorf("%v: resource %s: %w", r.Pos, r.Name, err))
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

// options joins lists of options, of which the later ones count. Options that this node
// does not know are left out with a warning.
func (l *loader) options(known []string, lists ...[]drbdconf.Option) node.Options {
	out := node.Options{}
	for _, list := range lists {
		for _, o := range list {
			if !slices.Contains(known, o.Name) {
				l.warn(o.Pos, "%s has no effect here", o.Written)
				continue
			}
			out[o.Name] = o.Value
		}
	}
	return out
}

func (l *loader) resource(r *drbdconf.Resource) (out node.ResourceConfig, err error) {
	own, err := r.Host(l.host)
	if err != nil {
		return out, err
	}
	if own.Stacked {
		return out, errors.New("stacked resources are not supported")
	}
	common := &l.config.Common
	out = node.ResourceConfig{
		Name: r.Name, Handlers: map[string]string{},
		Options: l.options(node.ResourceOptions.Names(), common.Options, r.Options),
	}
	for _, list := range [][]drbdconf.Option{common.Handlers, r.Handlers} {
		for _, o := range list {
			if !slices.Contains(node.HandlerNames(), o.Name) {
				l.warn(o.Pos, "handler %s is never called here", o.Name)
				continue
			}
			out.Handlers[o.Name] = o.Value
		}
	}
	for _, list := range [][]drbdconf.Option{common.Startup, r.Startup, common.Proxy, r.Proxy, common.Legacy, r.Legacy} {
		for _, o := range list {
			l.warn(o.Pos, "%s has no effect here", o.Written)
		}
	}
	for _, v := range r.HostVolumes(own) {
		vc, err := l.volume(v, append(slices.Clone(common.Disk), r.Disk...))
		if err != nil {
			return out, fmt.Errorf("volume %d: %w", v.Number, err)
		}
		out.Volumes = append(out.Volumes, vc)
	}
	out.Net, err = l.net(r, own)
	return out, err
}

func (l *loader) volume(v *drbdconf.Volume, disk []drbdconf.Option) (node.VolumeConfig, error) {
	out := node.VolumeConfig{Volume: v.Number, Minor: v.Minor, Options: l.options(node.DiskOptions.Names(), disk, v.Options)}
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

// net finds the peer and the two addresses.
func (l *loader) net(r *drbdconf.Resource, own *drbdconf.Host) (*node.Net, error) {
	var peer *drbdconf.Host
	for _, h := range r.Hosts {
		switch {
		case h == own || h.Stacked:
		case peer != nil:
			return nil, fmt.Errorf("%d hosts: one peer is supported", len(r.Hosts))
		default:
			peer = h
		}
	}
	if peer == nil {
		return nil, nil
	}
	local, remote := own.Address, peer.Address
	lists := [][]drbdconf.Option{l.config.Common.Net, r.Net}
	if len(r.Connections) > 1 {
		return nil, fmt.Errorf("%d connections: one is supported", len(r.Connections))
	}
	for _, c := range r.Connections {
		lists = append(lists, c.Net)
		if len(c.Paths) > 1 {
			return nil, fmt.Errorf("%d paths: one is supported", len(c.Paths))
		}
		for _, h := range slices.Concat(append(c.Paths, c.Hosts)...) {
			to := &remote
			if slices.Contains(own.Names, h.Name) {
				to = &local
			}
			if h.Address.Host != "" {
				*to = h.Address
			}
			if h.Port != 0 {
				to.Port = h.Port
			}
		}
	}
	if local.Host == "" || remote.Host == "" {
		return nil, errors.New("a host has no address")
	}
	for _, a := range []drbdconf.Address{local, remote} {
		if a.Family != "ipv4" && a.Family != "ipv6" {
			return nil, fmt.Errorf("address family %s is not supported", a.Family)
		}
	}
	names := slices.Clone(node.NetOptions.Names())
	return &node.Net{Local: local.String(), Remote: remote.String(), PeerName: peer.Name(), Options: l.options(names, lists...)}, nil
}
