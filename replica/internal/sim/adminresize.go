// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// growBytes is by how much the disks of both nodes grow at a time.
const growBytes = 64 << 10

// resize changes the size of a volume: to what an administrator chooses, or to all that
// the disks have. Careful administrators do so while the nodes are connected, but
// that may end at any moment.
func (r *Run) resize(a *rand.Rand) {
	n := r.any(a)
	if n.core == nil {
		return
	}
	vol := a.IntN(len(n.disks))
	if !r.cfg.Reckless && r.conn(n) < protocol.Connected {
		return
	}
	full := uint64(n.disks[vol].garble)
	opt := core.ResizeOptions{}
	switch a.IntN(4) {
	case 0, 1:
		opt.Size = (full - a.Uint64N(min(full/3, 2048))) &^ 7
	case 2:
		if r.cfg.External {
			for _, m := range r.Nodes {
				m.disks[vol].Grow(growBytes, byte(a.IntN(2)))
			}
			r.cutOff(vol, full) // new storage holds anything
		}
	}
	opt.AssumePeerHasSpace = r.cfg.Reckless && a.IntN(3) == 0
	r.cutOff(vol, opt.Size)
	r.fault("resize")
	r.setSize(n, vol, opt)
}

// setSize gives the command.
func (r *Run) setSize(n *Node, vol int, opt core.ResizeOptions) {
	r.tracef("%d resize of volume %d to %d sectors", n.idx, vol, opt.Size)
	n.Resize(vol, opt, func(err error) { r.tracef("%d resize: %v", n.idx, err) })
}

// cutOff: what lies behind a size may be lost from now on.
func (r *Run) cutOff(vol int, size uint64) {
	if size > 0 {
		r.books[vol].end = min(r.books[vol].end, size)
	}
}

// unsize gives both nodes all that their disks have: one may have taken a size that the
// other has not, and then they refuse each other.
func (r *Run) unsize() {
	for _, n := range r.Nodes {
		for vol := range n.disks {
			if n.core != nil && r.books[vol].end < noEnd {
				r.setSize(n, vol, core.ResizeOptions{AssumePeerHasSpace: true})
			}
		}
	}
}
