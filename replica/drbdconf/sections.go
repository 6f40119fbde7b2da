// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

// block reports whether a statement is a section with n words behind its name, or n or
// more if that is negative.
func (p *parser) block(st *statement, n int) bool {
	switch args := st.args(); {
	case !st.hasBlock:
		p.errs.at(st.pos(), ErrSyntax, "%s is a section: a { is missing", st.name())
	case n >= 0 && len(args) > n:
		p.errs.at(args[n].pos, ErrSyntax, "one word too many behind %s", st.name())
	case len(args) < n:
		p.errs.at(st.pos(), ErrSyntax, "%s needs a name", st.name())
	default:
		return true
	}
	return false
}

// line returns the words of a statement without a block, at least lo and at most hi
// behind its name, and nil for any other.
func (p *parser) line(st *statement, lo, hi int) []word {
	switch args := st.args(); {
	case st.hasBlock:
		p.errs.at(st.pos(), ErrSyntax, "%s is not a section", st.name())
	case len(args) < lo:
		p.errs.at(st.pos(), ErrSyntax, "%s needs a value", st.name())
	case len(args) > hi:
		p.errs.at(args[hi].pos, ErrSyntax, "one word too many behind %s", st.name())
	default:
		return args
	}
	return nil
}

// once complains about the second of what there must be only one of.
func (p *parser) once(seen *bool, st *statement) {
	if *seen {
		p.errs.at(st.pos(), ErrInvalid, "a second %s", st.name())
	}
	*seen = true
}

// section reads the options of a section into list, or, if they belong into another
// one, into that of all.
func (p *parser) section(name string, st *statement, list *[]Option, all *Sections) {
	for i := range st.block {
		where, o, err := option(name, &st.block[i])
		switch target := list; {
		case err != nil:
			p.errs.add(err)
		default:
			if where != name && all != nil {
				target = all.list(where)
			}
			if target == nil {
				p.errs.at(o.Pos, ErrInvalid, "there is no option %s in a section %s here", o.Name, name)
				continue
			}
			*target = append(*target, o)
		}
	}
}

// list returns the options of a section, nil if there is none of that name.
func (s *Sections) list(name string) *[]Option {
	switch name {
	case "options":
		return &s.Options
	case "net":
		return &s.Net
	case "disk":
		return &s.Disk
	case "startup":
		return &s.Startup
	case "proxy":
		return &s.Proxy
	case "handlers":
		return &s.Handlers
	case "legacy", "syncer": // of a syncer section nothing stays where it was
		return &s.Legacy
	}
	return nil
}

// common reads a common section.
func (p *parser) common(st *statement) {
	seen := map[string]*bool{}
	for i := range st.block {
		if s := &st.block[i]; !p.inherited(s, &p.config.Common, seen) {
			p.errs.at(s.pos(), ErrInvalid, "there is no %s in a common section", s.name())
		}
	}
}

// inherited reads what can stand in a common section, a resource and a connection. It
// reports whether it was one of these.
func (p *parser) inherited(st *statement, into *Sections, seen map[string]*bool) bool {
	name := st.name()
	if name == "protocol" {
		if p.line(st, 1, 1) != nil {
			_, o, err := option("net", st)
			o.Written = "protocol"
			p.errs.add(err)
			into.Net = append(into.Net, o)
		}
		return true
	}
	list := into.list(name)
	if list == nil || name == "legacy" || name == "disk" && !st.hasBlock {
		return false
	}
	if p.block(st, 0) {
		if seen[name] == nil {
			seen[name] = new(bool)
		}
		p.once(seen[name], st)
		p.section(name, st, list, into)
	}
	return true
}
