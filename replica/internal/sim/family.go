// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Families are kinds of random scripts beside the ordinary ones, by name: I/O is
// suspended instead of failed, the peer is fenced, an arbiter is asked.
func Families() []string { return slices.Sorted(maps.Keys(families)) }

// families change the options of a script that has the setting "family".
var families = map[string]func(o *Options){
	"no-data": func(o *Options) {
		o.Core = func(_ int, cfg *core.Config) { cfg.NoData = core.NoDataSuspendIO }
	},
	"no-data-with-limit": func(o *Options) {
		o.Core = func(_ int, cfg *core.Config) {
			cfg.NoData, cfg.SuspendLimit = core.NoDataSuspendIO, 3*time.Second
		}
	},
	"arbiter": func(o *Options) {
		a := &arbiter{owner: map[string]int{}, takes: 5 * time.Millisecond}
		o.Core = func(_ int, cfg *core.Config) { cfg.Arbiter, cfg.NoData = true, core.NoDataSuspendIO }
		o.Call = a.call
	},
	"resource-and-stonith": func(o *Options) { fenceOtherWay(o, core.FencingResourceAndStonith) },
	"resource-only":        func(o *Options) { fenceOtherWay(o, core.FencingResourceOnly) },
}

// arbiter grants every generation of the data to the first node that asks, for ever:
// a register that can be set once.
type arbiter struct {
	owner    map[string]int
	down     [2]bool
	takes    time.Duration
	loses    bool // it decides, and the answer is lost
	promotes int
	asked    [2]int
}

func (a *arbiter) call(n *Node, call *core.Call) (func() int, time.Duration) {
	code := 0
	if call.Name == core.HandlerArbiter {
		code = a.decide(n.idx, call)
	}
	return func() int { return code }, a.takes
}

func (a *arbiter) decide(node int, call *core.Call) int {
	a.asked[node]++
	if call.Promote {
		a.promotes++
	}
	if a.down[node] {
		return core.ArbiterUnreachable
	}
	key := fmt.Sprint(call.Generations)
	if _, ok := a.owner[key]; !ok {
		a.owner[key] = node
	}
	switch {
	case a.loses:
		return core.ArbiterUnreachable
	case a.owner[key] == node:
		return core.ArbiterGranted
	}
	return core.ArbiterDenied
}

// fenceOtherWay fences by a second way to the other node, which works whenever that is
// up: what is out of order is found out by asking it.
func fenceOtherWay(o *Options, f core.Fencing) {
	if o.Net.Protocol == protocol.ProtocolA {
		o.Net.Protocol = protocol.ProtocolC
	}
	o.Volume.Fencing = f
	o.Core = func(_ int, cfg *core.Config) { cfg.Fencer = true }
	o.Call = func(n *Node, _ *core.Call) (func() int, time.Duration) {
		other := n.c.Nodes[1-n.idx]
		if other.core == nil {
			return func() int { return core.FencePeerUnreachable }, 10 * time.Millisecond
		}
		for v := range other.disks {
			other.Command(func(cmd *core.Command) { other.core.Outdate(cmd, v) }, func(error) {})
		}
		return func() int { return became(other) }, 500 * time.Millisecond
	}
}

// became is the exit code that tells what a node is now.
func became(n *Node) int {
	if n.core == nil {
		return core.FencePeerUnreachable
	}
	code := core.FencePeerOutdated
	for v := range n.disks {
		st, _ := n.State(v)
		switch {
		case st.Role == protocol.Primary:
			return core.FencePeerPrimary
		case st.Disk > protocol.Outdated || st.Conn >= protocol.Connected:
			return 1 // it has not noticed the loss yet
		}
	}
	return code
}
