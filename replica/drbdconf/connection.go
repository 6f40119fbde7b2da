// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import "strings"

// connection reads a connection or a connection-mesh section of DRBD 9.
func (p *parser) connection(r *Resource, st *statement) {
	c := &Connection{Pos: st.pos(), Mesh: st.name() == "connection-mesh"}
	r.Connections = append(r.Connections, c)
	if args := st.args(); len(args) > 0 && (c.Mesh || len(args) > 1) {
		p.errs.at(args[0].pos, ErrSyntax, "one word too many behind %s", st.name())
	}
	seen := map[string]*bool{}
	for i := range st.block {
		s := &st.block[i]
		switch {
		case s.name() == "hosts" && c.Mesh:
			for _, w := range p.line(s, 1, 1<<10) {
				c.Hosts = append(c.Hosts, ConnectionHost{Pos: w.pos, Name: w.text})
			}
		case s.name() == "host" && !c.Mesh:
			c.Hosts = p.connectionHost(c.Hosts, s)
		case s.name() == "path" && !c.Mesh:
			if p.block(s, 0) {
				c.Paths = append(c.Paths, p.path(s))
			}
		case s.name() == "volume" && s.hasBlock:
			p.errs.at(s.pos(), ErrUnsupported, "options of a volume for one connection alone")
		case s.name() == "net" || s.name() == "disk" && s.hasBlock || s.name() == "protocol":
			p.inherited(s, &c.Sections, seen)
		default:
			p.errs.at(s.pos(), ErrInvalid, "there is no %s in a %s", s.name(), st.name())
		}
	}
}

func (p *parser) path(st *statement) (hosts []ConnectionHost) {
	for i := range st.block {
		s := &st.block[i]
		if s.name() != "host" {
			p.errs.at(s.pos(), ErrInvalid, "there is no %s in a path", s.name())
			continue
		}
		hosts = p.connectionHost(hosts, s)
	}
	return hosts
}

// connectionHost reads "host NAME [address ADDRESS] [port PORT]".
func (p *parser) connectionHost(list []ConnectionHost, st *statement) []ConnectionHost {
	args := p.line(st, 1, 8)
	if args == nil {
		return list
	}
	h := ConnectionHost{Pos: args[0].pos, Name: args[0].text}
	for args = args[1:]; len(args) > 0; {
		switch {
		case args[0].text == "port" && len(args) >= 2:
			h.Port = p.integer(args[1], 1, 65535)
			args = args[2:]
		case args[0].text == "address" && len(args) >= 2:
			n := 2
			for n < len(args) && args[n].text != "port" {
				n++
			}
			if s := joinWords(args[1:n]); !strings.Contains(s, ":") {
				p.errs.at(args[1].pos, ErrUnsupported, "an address without a port")
			} else {
				h.Address = p.address(args[1].pos, args[1:n])
			}
			args = args[n:]
		default:
			p.errs.at(args[0].pos, ErrSyntax, "host is followed by a name, by address and one, by port and a number")
			return list
		}
	}
	return append(list, h)
}
