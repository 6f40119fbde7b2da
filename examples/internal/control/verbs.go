// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"maps"
	"slices"
	"strings"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// Verb is one command of drbdsetup.
type Verb struct {
	Name  string
	Usage string // the arguments, for people
	// MinArgs and MaxArgs are how many arguments it takes.
	MinArgs, MaxArgs int
	// Options has the names of the options; true for those that take yes or no, so that
	// their name alone is enough.
	Options map[string]bool
	// Object is the argument that messages name, -1 if none.
	Object int
}

func flags(names ...string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

func values(names ...string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = false
	}
	return out
}

// table returns a table of DRBD's options as a set of options of a verb.
func table(names []string, isBool func(string) bool) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = isBool(n)
	}
	return out
}

func with(sets ...map[string]bool) map[string]bool {
	out := map[string]bool{}
	for _, s := range sets {
		maps.Copy(out, s)
	}
	return out
}

// Verbs returns all commands by name.
func Verbs() map[string]Verb {
	disk := table(node.DiskOptions.Names(), node.DiskOptions.IsBool)
	net := table(node.NetOptions.Names(), node.NetOptions.IsBool)
	res := table(node.ResourceOptions.Names(), node.ResourceOptions.IsBool)
	wait := with(values("wfc-timeout", "degr-wfc-timeout", "outdated-wfc-timeout"), flags("wait-after-sb"))
	reset := flags("set-defaults")
	list := []Verb{
		{"new-resource", "RESOURCE", 1, 1, res, 0},
		{"new-minor", "RESOURCE MINOR VOLUME", 3, 3, nil, 1},
		{"del-resource", "RESOURCE", 1, 1, nil, 0},
		{"del-minor", "MINOR", 1, 1, nil, 0},
		{"attach", "MINOR [DISK META_DISK META_INDEX]", 1, 4, disk, 0},
		{"detach", "MINOR", 1, 1, flags("force"), 0},
		{"connect", "RESOURCE [LOCAL REMOTE]", 1, 3, with(net, flags("discard-my-data", "tentative"), values("peer-name")), 0},
		{"disconnect", "LOCAL REMOTE | RESOURCE", 1, 2, flags("force"), 0},
		{"primary", "MINOR", 1, 1, flags("force", "overwrite-data-of-peer"), 0},
		{"secondary", "MINOR", 1, 1, nil, 0},
		{"invalidate", "MINOR", 1, 1, nil, 0},
		{"invalidate-remote", "MINOR", 1, 1, nil, 0},
		{"pause-sync", "MINOR", 1, 1, nil, 0},
		{"resume-sync", "MINOR", 1, 1, nil, 0},
		{"suspend-io", "MINOR", 1, 1, nil, 0},
		{"resume-io", "MINOR", 1, 1, nil, 0},
		{"verify", "MINOR", 1, 1, values("start", "stop"), 0},
		{"resize", "MINOR", 1, 1, with(values("size"), flags("assume-peer-has-space", "assume-clean")), 0},
		{"repair", "MINOR", 1, 1, nil, 0},
		{"outdate", "MINOR", 1, 1, nil, 0},
		{"new-current-uuid", "MINOR", 1, 1, flags("clear-bitmap"), 0},
		{"disk-options", "MINOR", 1, 1, with(disk, reset), 0},
		{"net-options", "LOCAL REMOTE | RESOURCE", 1, 2, with(net, reset), 0},
		{"resource-options", "RESOURCE", 1, 1, with(res, reset), 0},
		{"wait-connect", "MINOR", 1, 1, wait, 0},
		{"wait-sync", "MINOR", 1, 1, wait, 0},
		{"role", "MINOR", 1, 1, nil, 0},
		{"state", "MINOR", 1, 1, nil, 0},
		{"cstate", "MINOR", 1, 1, nil, 0},
		{"dstate", "MINOR", 1, 1, nil, 0},
		{"get-gi", "MINOR", 1, 1, nil, 0},
		{"show-gi", "MINOR", 1, 1, nil, 0},
		{"show", "[RESOURCE | MINOR | all]", 0, 1, flags("show-defaults"), -1},
		{"down", "RESOURCE", 1, 1, nil, 0},
		{"up", "RESOURCE | all", 1, 1, nil, 0},
		{"explain", "[RESOURCE | all]", 0, 1, nil, -1},
		{"status", "[RESOURCE | all]", 0, 1, with(flags("verbose", "statistics", "json", "proc"), values("color")), 0},
		{"events2", "[RESOURCE | all]", 0, 1, flags("now", "statistics", "timestamps"), -1},
	}
	out := map[string]Verb{}
	for _, v := range list {
		out[v.Name] = v
	}
	return out
}

// Synopsis returns the usage of all commands, a line each.
func Synopsis() string {
	var b strings.Builder
	verbs := Verbs()
	for _, name := range slices.Sorted(maps.Keys(verbs)) {
		v := verbs[name]
		b.WriteString("  " + name)
		if v.Usage != "" {
			b.WriteString(" " + v.Usage)
		}
		for _, o := range slices.Sorted(maps.Keys(v.Options)) {
			if len(v.Options) > 8 {
				b.WriteString(" [OPTIONS]")
				break
			}
			b.WriteString(" [--" + o)
			if !v.Options[o] {
				b.WriteString(" VALUE")
			}
			b.WriteString("]")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
