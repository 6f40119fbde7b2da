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

// initActivityLog writes every block of the activity log as initialised; v07's
// log becomes all zero. It flushes once before and once after the block that is
// first in the ring: of a log that was in use, a replay accepts whatever a crash
// leaves in that order, but not a lone torn block elsewhere.
func initActivityLog(dev io.WriterAt, l Layout) error {
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
