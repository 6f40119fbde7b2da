// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// alone is the oracle for writes that only one node has. When one is acknowledged, the
// generation that it belongs to is durable, and the other node does not know it. Else
// that one could go on from here, too, and nobody would see that the two diverge. Of the
// power failures of the other node, lost says whether there was one meanwhile: without a
// disk here its cache held the only copy, which it had acknowledged, and nobody has it now.
func (r *Run) alone(n *Node, vol int, w *write, lost bool) {
	st, up := n.State(vol)
	other := r.other(n)
	if !up || st.Conn >= protocol.Connected && st.PeerDisk >= protocol.Inconsistent ||
		w.on(other.disks[vol]) || !other.mayGoOn(vol) || lost && st.Disk <= protocol.Failed {
		return
	}
	mine, theirs := durableGeneration(n.metas[vol], r.cfg.External).Identity(), other.generations(vol).Current.Identity()
	if r.failure == nil && r.story.vols[vol].descends(theirs, mine) {
		r.failf("node %d, volume %d: a write is acknowledged that node %d does not have, in generation %s, and node %d has %s, which is that or comes of it",
			n.idx, vol, other.idx, mine, other.idx, theirs)
	}
}

// durableGeneration is the current one that a power failure would leave.
func durableGeneration(d *Disk, external bool) metadata.UUID {
	at := int64(0)
	if !external {
		at = (d.size - 4096) &^ 4095
	}
	return metadata.UUID(binary.BigEndian.Uint64(d.durable.at(at, sectorBytes)[8:]))
}

// on reports whether a disk holds all of a write.
func (w *write) on(d *Disk) bool {
	for s := w.from; s < w.to; s++ {
		if id, err := idOf(d.current.at(int64(s)*sectorBytes, sectorBytes), s); err != nil || id != w.content() {
			return false
		}
	}
	return true
}

// mayGoOn reports whether a node could be promoted without force, as it is.
func (n *Node) mayGoOn(vol int) bool {
	if s, up := n.State(vol); up && s.Disk > protocol.Failed {
		return s.Disk == protocol.UpToDate
	}
	sb, _, err := n.super(vol)
	const good = metadata.Consistent | metadata.WasUpToDate
	return err == nil && sb.Flags&good == good
}
