// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Show writes the configuration in force, as drbdsetup show. name is a resource, a
// minor, or all. With defaults, options that are at their default are written too.
func (n *Node) Show(name string, defaults bool) (string, error) {
	list := n.Resources()
	if name != "" && name != "all" {
		r, err := n.Resource(name)
		if err != nil {
			v, minor := n.Volume(name)
			if minor != nil {
				return "", err
			}
			r = v.r
		}
		list = []*Resource{r}
	}
	var b strings.Builder
	for _, r := range list {
		r.show(&b, defaults)
	}
	return b.String(), nil
}

func (r *Resource) show(b *strings.Builder, defaults bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	fmt.Fprintf(b, "resource %s {\n", r.name)
	section(b, "    ", "options", ResourceOptions, r.options, defaults)
	if r.net != nil && r.netUp {
		section(b, "    ", "net", NetOptions, r.net.Options, defaults)
		h := host(r.net.Remote)
		fmt.Fprintf(b, "    _remote_host {\n        address\t\t\t%s %s;\n    }\n", h.Family, r.net.Remote)
	}
	b.WriteString("    _this_host {\n")
	if r.net != nil && r.netUp {
		fmt.Fprintf(b, "        address\t\t\t%s %s;\n", host(r.net.Local).Family, r.net.Local)
	}
	for _, v := range r.volumesLocked() {
		fmt.Fprintf(b, "        volume %d {\n            device\t\t\tminor %d;\n", v.id, v.minor)
		if v.backing != nil {
			fmt.Fprintf(b, "            disk\t\t\t%q;\n            meta-disk\t\t\t%s;\n", v.backing.Disk, v.backing.metaDisk())
			section(b, "            ", "disk", DiskOptions, v.options, defaults)
		}
		b.WriteString("        }\n")
	}
	b.WriteString("    }\n}\n")
}

// metaDisk returns the place of the metadata as drbd.conf has it.
func (b *Backing) metaDisk() string {
	switch b.Index {
	case "internal":
		return "internal"
	case "flex-external", "":
		return fmt.Sprintf("%q", b.MetaDisk)
	}
	return fmt.Sprintf("%q[%s]", b.MetaDisk, b.Index)
}

func section(b *strings.Builder, indent, name string, t optionTable, o Options, defaults bool) {
	var lines []string
	for _, key := range t.Names() {
		value, set := o[key]
		if !set && (!defaults || t[key].def == "") {
			continue
		}
		if !set {
			value = t[key].def
		}
		suffix := ""
		if !t[key].plain && t[key].kind == optNumber {
			suffix = map[int64]string{512: "s", 1024: "k"}[t[key].unit]
		}
		if t[key].kind == optText {
			value = fmt.Sprintf("%q", value)
		}
		lines = append(lines, fmt.Sprintf("%s    %-24s%s%s;\n", indent, key, value, suffix))
	}
	if len(lines) > 0 {
		b.WriteString(indent + name + " {\n" + strings.Join(lines, "") + indent + "}\n")
	}
}

// GI returns the generation identifiers of a minor in one line (get-gi), or with the
// drawing that explains them (show-gi).
func (n *Node) GI(minor string, drawing bool) (string, error) {
	v, err := n.Volume(minor)
	if err != nil {
		return "", err
	}
	st, _ := v.Status()
	if v.backing == nil {
		return "", &Error{Exit: ExitNoDisk, Text: "Device is unconfigured"}
	}
	sb := metadata.Superblock{Version: metadata.V08, Flags: st.Flags}
	sb.SetGenerationIDs(st.IDs)
	if drawing {
		return sb.ShowGI(0)
	}
	line, err := sb.GI(0)
	return line + "\n", err
}

// Line returns the answer to role, cstate or dstate.
func (n *Node) Line(verb, minor string) (string, error) {
	v, err := n.Volume(minor)
	if err != nil {
		return "", err
	}
	st, _ := v.Status()
	s := st.State
	if v.backing == nil && !v.r.connecting() && s.Role != protocol.Primary {
		return "Unconfigured\n", nil
	}
	switch verb {
	case "role", "state":
		return fmt.Sprintf("%v/%v\n", s.Role, s.Peer), nil
	case "cstate":
		return s.Conn.String() + "\n", nil
	case "dstate":
		return fmt.Sprintf("%v/%v\n", s.Disk, s.PeerDisk), nil
	}
	return "", usage("%s: no such command", verb)
}
