// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"fmt"
	"slices"
	"strings"
)

// checkResource says what is missing in a resource.
func (p *parser) checkResource(r *Resource) {
	if len(r.Hosts) == 0 {
		p.errs.at(r.Pos, ErrInvalid, "resource %s has no hosts: on NAME { ... }", r.Name)
	}
	for _, h := range r.Hosts {
		p.checkHost(r, h)
	}
	for _, h := range r.Hosts {
		for _, v := range r.HostVolumes(h) {
			if first := r.HostVolumes(r.Hosts[0]); !has(first, v.Number) {
				p.errs.at(v.Pos, ErrInvalid, "volume %d is not defined on %s", v.Number, r.Hosts[0].Name())
			}
		}
		for _, v := range r.HostVolumes(r.Hosts[0]) {
			if !has(r.HostVolumes(h), v.Number) {
				p.errs.at(h.Pos, ErrInvalid, "volume %d is not defined on %s", v.Number, h.Name())
			}
		}
	}
	for _, c := range r.Connections {
		p.checkConnection(r, c)
	}
}

func has(list []*Volume, number int) bool {
	for _, v := range list {
		if v.Number == number {
			return true
		}
	}
	return false
}

func (p *parser) checkHost(r *Resource, h *Host) {
	if h.Address.Host == "" && !p.hasConnectionAddress(r, h) {
		p.errs.at(h.Pos, ErrInvalid, "%s has no address", h.Name())
	}
	volumes := r.HostVolumes(h)
	if len(volumes) == 0 {
		p.errs.at(h.Pos, ErrInvalid, "%s has no volume: device, disk and meta-disk are missing", h.Name())
	}
	written, implicit := slices.Concat(r.Volumes, h.Volumes), 0
	for _, v := range written {
		if v.Implicit {
			implicit++
		}
	}
	for _, v := range volumes {
		if v.Minor < 0 {
			p.errs.at(v.Pos, ErrInvalid, "volume %d of %s has no device", v.Number, h.Name())
		}
		if v.Disk == "" && !h.Stacked {
			p.errs.at(v.Pos, ErrInvalid, "volume %d of %s has no disk; one without is disk none", v.Number, h.Name())
		}
		if v.MetaDisk == "" && v.Disk != "none" && !h.Stacked {
			p.errs.at(v.Pos, ErrInvalid, "volume %d of %s has no meta-disk", v.Number, h.Name())
		}
	}
	if implicit > 0 && implicit < len(written) {
		p.errs.at(h.Pos, ErrInvalid, "volume sections and lines of a volume outside of one are mixed")
	}
}

// hasConnectionAddress reports whether a host is given addresses by connections.
func (p *parser) hasConnectionAddress(r *Resource, h *Host) bool {
	for _, c := range r.Connections {
		for _, list := range append(c.Paths, c.Hosts) {
			for _, ch := range list {
				if ch.Address.Host != "" && ch.Name == h.Name() {
					return true
				}
			}
		}
	}
	return false
}

func (p *parser) checkConnection(r *Resource, c *Connection) {
	for _, list := range append(c.Paths, c.Hosts) {
		for _, ch := range list {
			if _, err := r.Host(ch.Name); err != nil {
				p.errs.at(ch.Pos, ErrInvalid, "resource %s has no host %q", r.Name, ch.Name)
			}
		}
	}
}

// checkResyncAfter looks for the resources that others wait for.
func (p *parser) checkResyncAfter() {
	check := func(o Option) {
		if o.Name != "resync-after" || o.Value == "-1" {
			return
		}
		name, _, _ := strings.Cut(o.Value, "/")
		if _, err := p.config.Resource(name); err != nil {
			p.errs.at(o.Pos, ErrInvalid, "there is no resource %q to wait for", name)
		}
	}
	each := func(list []Option) {
		for _, o := range list {
			check(o)
		}
	}
	each(p.config.Common.Disk)
	for _, r := range p.config.Resources {
		each(r.Disk)
		for _, h := range r.Hosts {
			for _, v := range h.Volumes {
				each(v.Options)
			}
		}
		for _, v := range r.Volumes {
			each(v.Options)
		}
	}
}

// checkConflicts finds what two resources of a host would both use.
func (p *parser) checkConflicts() {
	first := map[string]Pos{}
	use := func(pos Pos, host, what string) {
		key := host + "\x00" + what
		if other, ok := first[key]; ok {
			p.errs.at(pos, ErrInvalid, "%s is used twice on %s, first at %v", what, host, other)
			return
		}
		first[key] = pos
	}
	for _, r := range p.config.Resources {
		for _, h := range r.Hosts {
			if h.Stacked {
				continue
			}
			for _, name := range h.Names {
				if h.Floating {
					name = h.Address.Host
				}
				if h.Address.Host != "" {
					use(h.Address.Pos, name, "the address "+h.Address.String())
				}
				for _, v := range r.HostVolumes(h) {
					use(v.Pos, name, fmt.Sprintf("the minor number %d", v.Minor))
					if v.Disk != "none" {
						use(v.Pos, name, "the disk "+v.Disk)
					}
					if v.MetaIndex >= 0 {
						use(v.Pos, name, fmt.Sprintf("the metadata %s[%d]", v.MetaDisk, v.MetaIndex))
					} else if v.MetaDisk != "internal" && v.MetaDisk != "" {
						use(v.Pos, name, "the metadata "+v.MetaDisk)
					}
				}
			}
		}
	}
}
