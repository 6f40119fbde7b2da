// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/protocol"
)

const blockSectors = 8

// covered is the oracle for what nobody may forget: a block that differs between the
// two disks is marked in the bitmap of one of the nodes, lies in an extent of the
// activity log of a node that was Primary and has gone, or belongs to a write that a
// node still watches. It must hold at every instant, and for whatever a power failure
// at this instant would leave.
func (r *Run) covered(rng *rand.Rand) {
	power := [2]bool{}
	if rng.IntN(8) == 0 {
		power[rng.IntN(2)] = true
		if rng.IntN(3) == 0 {
			power = [2]bool{true, true}
		}
	}
	for vol := range r.books {
		a, b := r.knowledge(0, vol, power[0], rng), r.knowledge(1, vol, power[1], rng)
		if a == nil || b == nil {
			continue
		}
		size := int64(min(a.size, b.size)) * sectorBytes
		a.data.current.differ(&b.data.current, size, blockSectors*sectorBytes, func(off int64) bool {
			block := uint64(off) / sectorBytes / blockSectors
			if a.knows(block) || b.knows(block) {
				return true
			}
			r.failf("volume %d, block %d differs and nobody knows (what if the power failed: %v); node 0 %s, node 1 %s; %s",
				vol, block, power, a, b, r.describe())
			return false
		})
	}
}

// knowledge is one node's: what it knows in memory, or what its disk would tell it
// after a crash.
type knowledge struct {
	data  *Disk
	size  uint64
	live  *Node // nil: what is on disk counts
	vol   int
	disk  *onDisk
	moves map[uint64]bool // blocks of writes that the node watches
}

func (k *knowledge) String() string {
	if k.live != nil {
		return "is up"
	}
	return k.disk.String()
}

func (k *knowledge) knows(block uint64) bool {
	if k.live != nil {
		marked, _ := k.live.core.OutOfSync(k.vol, block)
		return marked || k.moves[block]
	}
	return k.disk.knows(block)
}

// knowledge returns nil if there is nothing to say: no size is known.
func (r *Run) knowledge(i, vol int, power bool, rng *rand.Rand) *knowledge {
	n := r.Nodes[i]
	k := &knowledge{data: n.disks[vol], vol: vol}
	if n.core != nil && !power {
		if _, ok := n.core.OutOfSync(vol, 0); ok {
			if s, _ := n.State(vol); s.Disk == protocol.Attaching {
				return nil // it is being read
			}
			k.live, k.size, k.moves = n, n.core.Size(vol), map[uint64]bool{}
			n.core.Unsettled(vol, func(sector, sectors uint64) {
				for b := sector / blockSectors; b*blockSectors < sector+sectors; b++ {
					k.moves[b] = true
				}
			})
			return k
		}
	}
	meta := n.metas[vol]
	if power {
		k.data = n.disks[vol].whatIf(rng)
		if meta == n.disks[vol] {
			meta = k.data
		} else {
			meta = meta.whatIf(rng)
		}
	}
	disk, err := readOnDisk(meta, r.cfg.External)
	if err != nil {
		r.failf("node %d, volume %d: %v", i, vol, err)
		return nil
	}
	if disk.size == 0 {
		return nil
	}
	k.disk, k.size = disk, disk.size
	return k
}

// knows reports whether an attach of this disk would mark a block.
func (d *onDisk) knows(block uint64) bool {
	if d.flags&flagFullSync != 0 || d.flags&flagALDisabled != 0 {
		return true
	}
	if d.bitmap[block/8]&(1<<(block%8)) != 0 {
		return true
	}
	return d.flags&flagPrimary != 0 && d.hot[uint32(block*blockSectors/activitylog.ExtentSectors)]
}
