// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"io"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// alChunkBlocks is how many blocks of the activity log are written at once.
const alChunkBlocks = 64

// alGeometry is the layout's geometry in the words of package activitylog.
func (l *Layout) alGeometry() activitylog.Geometry {
	return activitylog.Geometry{Stripes: l.Geometry.ALStripes, StripeSize4k: l.Geometry.ALStripeSize4k}
}

// InitActivityLog writes every block of the activity log as initialised, as
// create-md and apply-al do (spec: on-disk 5.1); v07's log becomes all zero. A node
// that closes a device in an orderly way may do so, too, between its bitmap and a
// superblock that is clean (spec: on-disk 10.4).
//
// Durability: it flushes what was written to dev before, the bitmap above all,
// with the blocks; then it writes the block that is first in the ring, and flushes
// again. Of a log that was in use since its first transaction, a replay accepts
// whatever a crash leaves in that order, but not a lone torn block elsewhere.
func InitActivityLog(dev io.WriterAt, l Layout) error {
	if l.Version == V07 {
		if err := zeroRange(dev, l.ActivityLogOffset, l.ActivityLogSize); err != nil {
			return err
		}
		return flush(dev)
	}
	chunk := make([]byte, min(l.ActivityLogSize, alChunkBlocks*BlockSize))
	for b := chunk; len(b) > 0; b = b[BlockSize:] {
		activitylog.InitBlock((*[BlockSize]byte)(b))
	}
	for done := int64(BlockSize); done < l.ActivityLogSize; {
		n := min(l.ActivityLogSize-done, int64(len(chunk)))
		if err := writeFull(dev, chunk[:n], l.ActivityLogOffset+done); err != nil {
			return err
		}
		done += n
	}
	if err := flush(dev); err != nil {
		return err
	}
	if err := writeFull(dev, chunk[:BlockSize], l.ActivityLogOffset); err != nil {
		return err
	}
	return flush(dev)
}
