// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// Config is what the files say. It is not changed by anything in this package.
type Config struct {
	// File is the name it was read by.
	File string
	// Global has the options of global sections.
	Global []Option
	// Common has what holds for all resources that do not say otherwise.
	Common Sections
	// Resources in the order of the files.
	Resources []*Resource

	hasGlobal, hasCommon bool
}

// Option is one option of a section.
type Option struct {
	Pos Pos
	// Name is today's: "resync-rate", although it may be written "rate".
	Name string
	// Value as written, without quotes; "yes" or "no" of what is switched.
	Value string
	// Written is how it stands in the file, with its section, as "syncer rate".
	Written string
}

// Sections has the options of a common section, a resource, a connection or a volume,
// in their order and under today's names: what was in a syncer section is where 8.4
// has it. The last of two counts.
type Sections struct {
	Options, Net, Disk, Startup, Proxy, Handlers []Option
	// Legacy has what no version has had since 0.7.
	Legacy []Option
}

// Resource is one resource section.
type Resource struct {
	Pos  Pos
	Name string
	Sections
	// Volumes are those outside of hosts, or the one of number 0 whose lines stand
	// in the resource itself. They complete those of the hosts.
	Volumes []*Volume
	// Hosts in the order of the file.
	Hosts []*Host
	// Connections of DRBD 9, those of a mesh too.
	Connections []*Connection

	config *Config
}

// Host is an on or a floating section.
type Host struct {
	Pos Pos
	// Names are those behind on; of a floating host, its address.
	Names []string
	// Floating says that the host is known by its address.
	Floating bool
	// Stacked says that it stands on top of another resource, whose name Names has.
	Stacked bool
	// Address is where it listens.
	Address Address
	// NodeID is DRBD 9's, -1 for none.
	NodeID int
	// Volumes as far as they are described here: Resource.HostVolumes completes them.
	Volumes []*Volume

	nodeIDPos Pos
}

// Name returns the first name.
func (h *Host) Name() string { return h.Names[0] }

// Address is an address line.
type Address struct {
	Pos Pos
	// Family is "ipv4", "ipv6", "ssocks", "sdp" or "sci".
	Family string
	// Host is a numeric address, without brackets.
	Host string
	// Port, 1 to 65535.
	Port int
}

// String returns "HOST:PORT" as package net takes it, "" without an address.
func (a Address) String() string {
	if a.Host == "" {
		return ""
	}
	if a.Family == "ipv6" {
		return fmt.Sprintf("[%s]:%d", a.Host, a.Port)
	}
	return fmt.Sprintf("%s:%d", a.Host, a.Port)
}

// Volume is a volume section, or the lines of one that stand directly in a host or a
// resource.
type Volume struct {
	Pos Pos
	// Number, 0 to 65535.
	Number int
	// Implicit says that there is no volume section: the number is 0.
	Implicit bool
	// Device is a path, as "/dev/drbd0", or "".
	Device string
	// Minor is the device's number, -1 if unknown.
	Minor int
	// Disk is a path, or "none".
	Disk string
	// MetaDisk is a path, or "internal".
	MetaDisk string
	// MetaIndex is the number in brackets, -1 for none: the whole device.
	MetaIndex int
	// Options are the disk options of this volume alone.
	Options []Option
}

// Connection is a connection or a connection-mesh section of DRBD 9.
type Connection struct {
	Pos Pos
	// Mesh: each host with each other one.
	Mesh bool
	// Hosts are names, with the addresses that are given for this connection.
	Hosts []ConnectionHost
	// Paths have the hosts of each path section.
	Paths [][]ConnectionHost
	Sections
}

// ConnectionHost is one end of a connection.
type ConnectionHost struct {
	Pos     Pos
	Name    string
	Address Address // zero: the host's own
	Port    int     // 0: that of the address
}

// Resource returns the resource of that name, and ErrNotFound for none.
func (c *Config) Resource(name string) (*Resource, error) {
	for _, r := range c.Resources {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, errorAt(Pos{File: c.File, Line: 1, Column: 1}, ErrNotFound, "there is no resource %q", name)
}

// Host returns the host of that name, and ErrNotFound for none. A floating host is
// found by its address, with its port or without.
func (r *Resource) Host(name string) (*Host, error) {
	for _, h := range r.Hosts {
		if slices.Contains(h.Names, name) || h.Floating && (h.Address.Host == name || h.Address.String() == name) {
			return h, nil
		}
	}
	return nil, errorAt(r.Pos, ErrNotFound, "resource %s has no host %q", r.Name, name)
}

// HostVolumes returns the volumes of a host: what its own lines say, completed with
// those of the resource, by number.
func (r *Resource) HostVolumes(h *Host) []*Volume {
	byNumber := map[int]*Volume{}
	for _, v := range r.Volumes {
		byNumber[v.Number] = v
	}
	list := make([]*Volume, 0, len(byNumber))
	for _, own := range h.Volumes {
		if v := byNumber[own.Number]; v != nil {
			delete(byNumber, own.Number)
			own = merge(own, v)
		}
		list = append(list, own)
	}
	for _, v := range byNumber {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b *Volume) int { return cmp.Compare(a.Number, b.Number) })
	return list
}

// merge completes a host's volume with the resource's.
func merge(own, common *Volume) *Volume {
	v := *own
	if v.Device == "" && v.Minor < 0 {
		v.Device, v.Minor = common.Device, common.Minor
	}
	if v.Disk == "" {
		v.Disk = common.Disk
	}
	if v.MetaDisk == "" {
		v.MetaDisk, v.MetaIndex = common.MetaDisk, common.MetaIndex
	}
	v.Options = slices.Concat(common.Options, own.Options)
	return &v
}

// minorOf returns the minor number in a device's name, -1 for none.
func minorOf(device string) int {
	for _, prefix := range []string{"/dev/drbd", "drbd"} {
		if len(device) > len(prefix) && device[:len(prefix)] == prefix {
			if n, err := strconv.ParseUint(device[len(prefix):], 10, 20); err == nil {
				return int(n)
			}
		}
	}
	return -1
}
