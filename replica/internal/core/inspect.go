// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/metadata"

// What an observer outside may look at: the simulator's oracles, which compare what
// a node knows with what its disk holds. None of it changes anything.

// IDs returns the generation identifiers of a volume as they are in memory. They
// are zero if no disk was attached yet.
func (c *Core) IDs(vol int) metadata.GenerationIDs { return c.vols[vol].ids }

// Size returns the size of a volume in sectors of 512 bytes; 0 while it is unknown.
func (c *Core) Size(vol int) uint64 { return c.vols[vol].size }

// OutOfSync reports whether a 4 KiB block of a volume is marked out of sync towards
// its peer. ok is false if the node has no bitmap: it has no disk.
func (c *Core) OutOfSync(vol int, block uint64) (marked, ok bool) {
	bm := c.vols[vol].bitmapOf()
	if bm == nil {
		return false, false
	}
	return block < bm.Len() && bm.Test(block), true
}

// Unsettled calls fn for each write of the application that has begun and is not yet
// known to be stable on both nodes: in flight, or in the transfer log.
func (c *Core) Unsettled(vol int, fn func(sector, sectors uint64)) {
	for _, r := range c.requests.live() {
		if r.v != nil && r.v.idx == vol && r.kind != IORead {
			fn(r.sector, uint64(r.size)/512)
		}
	}
}
