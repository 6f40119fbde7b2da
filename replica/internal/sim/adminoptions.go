// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Options change while the nodes run. A connected peer adopts what concerns it; one
// that is not connected does not know, and the nodes refuse each other until somebody
// gives both the same again.

// netOptions changes an option of the connection, mostly on both nodes.
func (r *Run) netOptions(a *rand.Rand) {
	opt := r.cfg.Net
	switch a.IntN(8) {
	case 0:
		opt.VerifyAlg = pick(a, "", "crc32c", "sha1")
	case 1:
		opt.CSumsAlg = pick(a, "", "xxhash64", "sha1")
	case 2:
		opt.IntegrityAlg = pick(a, "", "crc32c")
	case 3:
		opt.MaxEpochSize = 1 + a.IntN(64)
	case 4:
		opt.MaxBuffers = 32 << a.IntN(6)
	case 5:
		opt.UseRLE = !opt.UseRLE
	case 6:
		if r.cfg.Reckless {
			opt.AfterSB0 = protocol.Policy(a.IntN(5))
		}
	default:
		// Careful administrators weaken nothing: the oracles go by the script.
		if r.cfg.Reckless || opt.Protocol != protocol.ProtocolC {
			opt.Protocol = pick(a, protocol.ProtocolA, protocol.ProtocolB, protocol.ProtocolC)
		}
	}
	first, both := a.IntN(2), a.IntN(4) > 0
	for i := range 2 {
		n := r.Nodes[(first+i)%2]
		if n.core != nil && (i == 0 || both) {
			r.try(n, "net options", func(c *core.Command) { n.core.SetNet(c, opt) })
		}
	}
}

func pick[T any](a *rand.Rand, list ...T) T { return list[a.IntN(len(list))] }

// diskOptions changes an option of a volume on one node.
func (r *Run) diskOptions(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	vol := a.IntN(len(n.disks))
	opt := n.core.Volume(vol)
	switch a.IntN(4) {
	case 0:
		opt.ResyncRate = 256 << a.IntN(8)
	case 1:
		opt.ALExtents = 67 + a.IntN(60)
	case 2:
		opt.NoALUpdates = !opt.NoALUpdates
	default:
		opt.ReadBalancing = core.ReadBalancing(a.IntN(4))
	}
	r.try(n, "disk options", func(c *core.Command) { n.core.SetVolume(c, vol, opt) })
}

// adjust gives a node the options of the script again, as from its configuration file.
func (r *Run) adjust(n *Node) {
	r.try(n, "adjust", func(c *core.Command) { n.core.SetNet(c, r.cfg.Net) })
}
