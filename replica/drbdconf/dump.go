// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"fmt"
	"strconv"
	"strings"
)

// Dialect says whose drbdadm a Dump is to equal.
type Dialect uint8

const (
	// DRBD84: the tool of 8.4, which also reads 8.3's files. Volumes stand in hosts.
	DRBD84 Dialect = iota
	// DRBD9: the tool of 9. Volumes stand where they are written.
	DRBD9
)

// Dump returns the configuration as "drbdadm dump all" writes it, but for its comments,
// white space, and the settings of the tool itself. It can be read again, and is the
// same then.
func (c *Config) Dump(d Dialect) string {
	w := &writer{dialect: d}
	if c.hasGlobal {
		w.global(c.Global)
	}
	if c.hasCommon {
		w.open("common")
		w.sections(&c.Common)
		w.close()
		w.b.WriteByte('\n')
	}
	for _, r := range c.Resources {
		w.resource(r)
		w.b.WriteByte('\n')
	}
	return w.b.String()
}

// writer indents.
type writer struct {
	b       strings.Builder
	depth   int
	dialect Dialect
}

func (w *writer) line(format string, args ...any) {
	w.b.WriteString(strings.Repeat("    ", w.depth))
	fmt.Fprintf(&w.b, format, args...)
	w.b.WriteByte('\n')
}

func (w *writer) open(words ...string) {
	w.line("%s {", strings.Join(words, " "))
	w.depth++
}

func (w *writer) close() {
	w.depth--
	w.line("}")
}

// pair writes a name and a value in columns.
func (w *writer) pair(name, value string) {
	w.line("%-*s %3s;", 24-4*w.depth, name, value)
}

// global writes the global section, which the tool has in an order of its own.
func (w *writer) global(list []Option) {
	w.open("global")
	for _, name := range []string{
		"disable-ip-verification", "minor-count", "dialog-refresh", "usage-count", "udev-always-use-vnr",
		"cmd-timeout-short", "cmd-timeout-medium", "cmd-timeout-long",
	} {
		if o, ok := last(list, name); ok {
			w.line("%s;", strings.TrimSpace(name+" "+o.Value))
		}
	}
	w.close()
	w.b.WriteByte('\n')
}

// last returns the option that counts of those with a name.
func last(list []Option, name string) (Option, bool) {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Name == name {
			return list[i], true
		}
	}
	return Option{}, false
}

func (w *writer) sections(s *Sections) {
	w.options("options", s.Options)
	w.options("net", s.Net)
	w.options("disk", s.Disk)
	w.options("startup", s.Startup)
	w.options("proxy", s.Proxy)
	w.options("handlers", s.Handlers)
	w.legacy(s.Legacy)
}

func (w *writer) options(section string, list []Option) {
	if len(list) == 0 {
		return
	}
	w.open(section)
	// The tools have some options in lists of their own, which come last.
	late := func(o Option) bool {
		return o.Name == "become-primary-on" || w.dialect == DRBD9 && section == "disk" && isResyncRate(o.Name)
	}
	for _, pass := range []bool{false, true} {
		for _, o := range list {
			switch {
			case late(o) != pass:
			case o.Name == "become-primary-on": // the one that can have several words
				w.pair(o.Name, o.Value)
			default:
				w.pair(o.Name, quote(o.Value))
			}
		}
	}
	w.close()
}

// isResyncRate reports whether an option belongs to the peer's disk with DRBD 9.
func isResyncRate(name string) bool { return name == "resync-rate" || strings.HasPrefix(name, "c-") }

// legacy writes what no tool reads any more, where it was.
func (w *writer) legacy(list []Option) {
	for _, o := range list {
		section, _, ok := strings.Cut(o.Written, " ")
		if ok {
			w.open(section)
		}
		w.line("%s;", strings.TrimSpace(o.Name+" "+quoteText(o.Value)))
		if ok {
			w.close()
		}
	}
}

// quote puts a value in quotes where it needs them.
func quote(s string) string {
	if isPlain(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// quoteText is quote for what may be nothing.
func quoteText(s string) string {
	if s == "" {
		return ""
	}
	return quote(s)
}

func (w *writer) resource(r *Resource) {
	w.open("resource", quote(r.Name))
	if w.dialect == DRBD9 {
		w.volumes(r.Volumes)
	}
	for _, h := range r.Hosts {
		w.host(r, h)
	}
	for _, c := range r.Connections {
		w.connection(c)
	}
	w.sections(&r.Sections)
	w.close()
}

func (w *writer) host(r *Resource, h *Host) {
	switch {
	case h.Floating:
		w.open("floating", address(h.Address))
	case h.Stacked:
		w.open("stacked-on-top-of", quote(h.Name()))
	default:
		names := []string{"on"}
		for _, n := range h.Names {
			names = append(names, quote(n))
		}
		w.open(names...)
	}
	if h.NodeID >= 0 {
		w.line("node-id %d;", h.NodeID)
	}
	if w.dialect == DRBD9 {
		w.volumes(h.Volumes)
	} else {
		w.volumes(r.HostVolumes(h))
	}
	if !h.Floating && h.Address.Host != "" {
		w.pair("address", address(h.Address))
	}
	w.close()
}

// address writes an address as the tool does: with its family.
func address(a Address) string { return a.Family + " " + a.String() }

func (w *writer) volumes(list []*Volume) {
	for _, v := range list {
		if !v.Implicit {
			w.open("volume", strconv.Itoa(v.Number))
		}
		w.options("disk", v.Options)
		switch {
		case v.Device != "":
			w.pair("device", quote(v.Device)+" minor "+strconv.Itoa(v.Minor))
		case v.Minor >= 0:
			w.pair("device", "minor "+strconv.Itoa(v.Minor))
		}
		if v.Disk != "" {
			w.pair("disk", quote(v.Disk))
		}
		switch {
		case v.MetaIndex >= 0:
			w.pair("meta-disk", fmt.Sprintf("%s [%d]", quote(v.MetaDisk), v.MetaIndex))
		case v.MetaDisk != "":
			w.pair("meta-disk", quote(v.MetaDisk))
		}
		if !v.Implicit {
			w.close()
		}
	}
}

func (w *writer) connection(c *Connection) {
	if c.Mesh {
		w.open("connection-mesh")
		words := []string{"hosts"}
		for _, h := range c.Hosts {
			words = append(words, quote(h.Name))
		}
		w.line("%s;", strings.Join(words, " "))
	} else {
		w.open("connection")
		w.connectionHosts(c.Hosts)
		for _, p := range c.Paths {
			w.open("path")
			w.connectionHosts(p)
			w.close()
		}
	}
	w.sections(&c.Sections)
	w.close()
}

func (w *writer) connectionHosts(list []ConnectionHost) {
	for _, h := range list {
		s := "host " + quote(h.Name)
		if h.Address.Host != "" {
			s += " address " + address(h.Address)
		}
		if h.Port != 0 {
			s += fmt.Sprintf(" port %d", h.Port)
		}
		w.line("%s;", s)
	}
}
