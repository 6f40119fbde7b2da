// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// resource reads a resource section.
func (p *parser) resource(st *statement) {
	r := &Resource{Pos: st.pos(), Name: st.args()[0].text, config: p.config}
	for _, other := range p.config.Resources {
		if other.Name == r.Name {
			p.errs.at(r.Pos, ErrInvalid, "a second resource %s, the first is at %v", r.Name, other.Pos)
		}
	}
	if r.Name == "" {
		p.errs.at(r.Pos, ErrInvalid, "a resource without a name")
	}
	p.config.Resources = append(p.config.Resources, r)
	seen := map[string]*bool{}
	for i := range st.block {
		s := &st.block[i]
		switch s.name() {
		case "on":
			if p.block(s, -1) {
				p.host(r, s)
			}
		case "floating", "stacked-on-top-of":
			if p.block(s, -1) {
				p.otherHost(r, s)
			}
		case "connection", "connection-mesh":
			if p.block(s, -1) {
				p.connection(r, s)
			}
		case "incon-degr-cmd":
			_, o, _ := option("resource", s)
			o.Written = s.name()
			r.Legacy = append(r.Legacy, o)
		default:
			if !p.inherited(s, &r.Sections, seen) && !p.volumeLine(s, &r.Volumes, r.Pos) {
				p.errs.at(s.pos(), ErrInvalid, "there is no %s in a resource", s.name())
			}
		}
	}
}

// host reads an on section.
func (p *parser) host(r *Resource, st *statement) {
	h := &Host{Pos: st.pos(), NodeID: -1}
	for _, w := range st.args() {
		h.Names = append(h.Names, w.text)
	}
	if len(h.Names) == 0 {
		p.errs.at(h.Pos, ErrSyntax, "on needs the name of a host")
		return
	}
	p.hostLines(r, h, st)
}

// otherHost reads a floating or a stacked-on-top-of section.
func (p *parser) otherHost(r *Resource, st *statement) {
	h := &Host{Pos: st.pos(), NodeID: -1, Floating: st.name() == "floating", Stacked: st.name() != "floating"}
	if h.Stacked {
		if len(st.args()) != 1 {
			p.errs.at(h.Pos, ErrSyntax, "stacked-on-top-of needs the name of a resource")
			return
		}
		h.Names = []string{st.args()[0].text}
	} else {
		h.Address = p.address(st.pos(), st.args())
		h.Names = []string{h.Address.String()}
	}
	p.hostLines(r, h, st)
}

func (p *parser) hostLines(r *Resource, h *Host, st *statement) {
	for _, other := range r.Hosts {
		for _, name := range h.Names {
			if slices.Contains(other.Names, name) {
				p.errs.at(h.Pos, ErrInvalid, "a second section for %s, the first is at %v", name, other.Pos)
			}
		}
	}
	r.Hosts = append(r.Hosts, h)
	for i := range st.block {
		s := &st.block[i]
		switch s.name() {
		case "address":
			if args := p.line(s, 1, 3); args != nil {
				if h.Address.Host != "" {
					p.errs.at(s.pos(), ErrInvalid, "a second address")
				}
				h.Address = p.address(s.pos(), args)
			}
		case "node-id":
			if args := p.line(s, 1, 1); args != nil {
				h.NodeID, h.nodeIDPos = p.integer(args[0], 0, 31), s.pos()
			}
		default:
			if !p.volumeLine(s, &h.Volumes, h.Pos) {
				p.errs.at(s.pos(), ErrInvalid, "there is no %s in the section of a host", s.name())
			}
		}
	}
}

// volumeLine reads a volume section, or a line of the implicit volume. It reports
// whether it was one.
func (p *parser) volumeLine(st *statement, list *[]*Volume, pos Pos) bool {
	if st.name() == "volume" {
		if p.block(st, 1) {
			p.volume(st, list)
		}
		return true
	}
	switch st.name() {
	case "device", "disk", "meta-disk", "flexible-meta-disk":
	default:
		return false
	}
	for _, v := range *list {
		if !v.Implicit {
			p.errs.at(st.pos(), ErrInvalid, "%s outside of a volume section, although there is one: put it into it", st.name())
			return true
		}
	}
	if len(*list) == 0 {
		*list = append(*list, newVolume(pos, 0))
		(*list)[0].Implicit = true
	}
	p.field(st, (*list)[0])
	return true
}

func newVolume(pos Pos, n int) *Volume { return &Volume{Pos: pos, Number: n, Minor: -1, MetaIndex: -1} }

func (p *parser) volume(st *statement, list *[]*Volume) {
	v := newVolume(st.pos(), p.integer(st.args()[0], 0, 65535))
	for _, other := range *list {
		switch {
		case other.Implicit:
			p.errs.at(st.pos(), ErrInvalid, "a volume section, although lines of a volume stand outside of one, at %v", other.Pos)
		case other.Number == v.Number:
			p.errs.at(st.pos(), ErrInvalid, "a second volume %d", v.Number)
		}
	}
	*list = append(*list, v)
	for i := range st.block {
		p.field(&st.block[i], v)
	}
}

// field reads a line of a volume.
func (p *parser) field(st *statement, v *Volume) {
	twice := func(set bool) {
		if set {
			p.errs.at(st.pos(), ErrInvalid, "a second %s", st.name())
		}
	}
	switch st.name() {
	case "device":
		if args := p.line(st, 1, 3); args != nil {
			twice(v.Device != "" || v.Minor >= 0)
			p.device(v, args)
		}
	case "disk":
		if st.hasBlock {
			if p.block(st, 0) {
				p.section("disk", st, &v.Options, nil)
			}
		} else if args := p.line(st, 1, 1); args != nil {
			twice(v.Disk != "")
			v.Disk = args[0].text
			p.notEmpty(args[0])
		}
	case "meta-disk", "flexible-meta-disk":
		if args := p.line(st, 1, 4); args != nil {
			twice(v.MetaDisk != "")
			p.metaDisk(v, args, st.name() == "flexible-meta-disk")
		}
	default:
		p.errs.at(st.pos(), ErrInvalid, "there is no %s in a volume", st.name())
	}
}

func (p *parser) notEmpty(w word) {
	if w.text == "" {
		p.errs.at(w.pos, ErrInvalid, "an empty name")
	}
}

// device reads "PATH", "minor N" or "PATH minor N".
func (p *parser) device(v *Volume, args []word) {
	pos := args[0].pos
	if args[0].text != "minor" {
		v.Device = args[0].text
		p.notEmpty(args[0])
		if !strings.HasPrefix(v.Device, "/") {
			v.Device = "/dev/" + v.Device
		}
		v.Minor = minorOf(v.Device)
		if args = args[1:]; len(args) == 0 {
			if v.Minor < 0 {
				p.errs.at(pos, ErrInvalid, "the number of %s is not known: add minor and the number", v.Device)
			}
			return
		}
	}
	if len(args) != 2 || args[0].text != "minor" {
		p.errs.at(pos, ErrSyntax, "device is followed by a name, by minor and a number, or by both")
		return
	}
	n := p.integer(args[1], 0, 1<<20-1)
	if v.Minor >= 0 && v.Minor != n {
		p.errs.at(args[1].pos, ErrInvalid, "%s has the number %d, not %d", v.Device, v.Minor, n)
	}
	v.Minor = n
}

// metaDisk reads "internal", "PATH" or "PATH[N]".
func (p *parser) metaDisk(v *Volume, args []word, flexible bool) {
	pos := args[0].pos
	p.notEmpty(args[0])
	if args[0].quoted {
		v.MetaDisk = args[0].text
		args = args[1:]
	}
	rest := strings.ReplaceAll(joinWords(args), " ", "")
	path, index, bracket := strings.Cut(rest, "[")
	if v.MetaDisk != "" && path != "" || path == "" && v.MetaDisk == "" {
		p.errs.at(pos, ErrSyntax, "meta-disk is followed by internal, or by a device and maybe a number in brackets")
		return
	}
	if path != "" {
		v.MetaDisk = path
	}
	if !bracket {
		return
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(index, "]"), 10, 8)
	switch {
	case err != nil || !strings.HasSuffix(index, "]"):
		p.errs.at(pos, ErrInvalid, "the index of the metadata is a number in brackets, 0 to 255, not [%s", index)
	case flexible || v.MetaDisk == "internal":
		p.errs.at(pos, ErrInvalid, "only a meta-disk of its own has an index")
	default:
		v.MetaIndex = int(n)
	}
}

// address reads "[FAMILY] HOST:PORT", where the words may be apart.
func (p *parser) address(pos Pos, args []word) Address {
	a := Address{Pos: pos, Family: "ipv4"}
	if len(args) > 0 && slices.Contains([]string{"ipv4", "ipv6", "ssocks", "sdp", "sci"}, args[0].text) {
		a.Family, args = args[0].text, args[1:]
	}
	s := strings.ReplaceAll(joinWords(args), " ", "")
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil || ap.Port() == 0:
		p.errs.at(pos, ErrInvalid, "%q is no numeric address with a port, as 192.0.2.1:7788 or ipv6 [2001:db8::1]:7788", s)
	case ap.Addr().Is4() == (a.Family == "ipv6"):
		p.errs.at(pos, ErrInvalid, "%s is not an address of the family %s", s, a.Family)
	default:
		a.Host, a.Port = ap.Addr().String(), int(ap.Port())
	}
	return a
}

// integer reads a number without a unit.
func (p *parser) integer(w word, lo, hi int) int {
	n, err := strconv.Atoi(w.text)
	if err != nil || n < lo || n > hi {
		p.errs.at(w.pos, ErrInvalid, "%q is not a number from %d to %d", w.text, lo, hi)
		return lo
	}
	return n
}
