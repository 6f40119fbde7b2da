// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

import (
	"errors"
	"fmt"
	"math"
)

// The sizes below are part of the disk format (spec: on-disk 5). Do not change.
const (
	// ExtentSectors is the size of an extent in sectors of 512 bytes: 4 MiB.
	ExtentSectors = 8192

	// BlockSize is the size of a transaction on disk in bytes.
	BlockSize = 4096

	// MaxUpdates is the largest number of changes in one transaction.
	MaxUpdates = 64

	// ContextSlots is the number of slots whose state each transaction repeats.
	ContextSlots = 919

	// MinExtents and DefaultExtents are the smallest and the usual number of slots
	// (spec: on-disk 5.3).
	MinExtents     = 67
	DefaultExtents = 1237

	// slotLimit is the number that no slot reaches.
	slotLimit = 65534
)

// An Extent is the number of a 4 MiB extent of the volume: sector / ExtentSectors.
type Extent uint32

// Free is the mark of a slot that holds no extent.
const Free Extent = 0xFFFFFFFF

// ExtentOf returns the extent that holds a sector.
func ExtentOf(sector uint64) Extent { return Extent(sector / ExtentSectors) }

// ExtentRange returns the first and the last extent that a request of sectors > 0
// sectors from sector on touches.
func ExtentRange(sector, sectors uint64) (first, last Extent) {
	return ExtentOf(sector), ExtentOf(sector + sectors - 1)
}

// ErrGeometry is returned for a ring that DRBD would not accept; the metadata is
// damaged, or not metadata.
var ErrGeometry = errors.New("activitylog: impossible ring geometry")

// Geometry is the shape of the ring of blocks (spec: on-disk 5.2). The zero value
// means 1 x 8, as in superblocks from before 8.4.
type Geometry struct {
	Stripes      uint32 // number of stripes
	StripeSize4k uint32 // blocks of 4096 bytes per stripe
}

// Check returns ErrGeometry unless the ring has 8 to 4194304 blocks (spec: on-disk
// 2.4). All other methods, New and Replay need a geometry that passes.
func (g Geometry) Check() error {
	g = g.orDefault()
	n := uint64(g.Stripes) * uint64(g.StripeSize4k)
	if n < 8 || n > 4194304 {
		return fmt.Errorf("%w: %d stripes of %d blocks, want 8 to 4194304 blocks in all", ErrGeometry, g.Stripes, g.StripeSize4k)
	}
	return nil
}

func (g Geometry) orDefault() Geometry {
	if g == (Geometry{}) {
		return Geometry{Stripes: 1, StripeSize4k: 8}
	}
	return g
}

// Blocks returns N, the number of blocks in the ring.
func (g Geometry) Blocks() uint32 {
	g = g.orDefault()
	return g.Stripes * g.StripeSize4k
}

// Bytes returns the size of the area on disk in bytes.
func (g Geometry) Bytes() int64 { return int64(g.Blocks()) * BlockSize }

// Position returns the index, within the area, of the block in which transaction tr
// is stored. Consecutive ring positions go round the stripes.
func (g Geometry) Position(tr uint32) uint32 {
	g = g.orDefault()
	r := tr % g.Blocks()
	return r%g.Stripes*g.StripeSize4k + r/g.Stripes
}

// Next returns the number of the transaction after tr: tr + 1, except where the
// counter wraps and the ring's length is no power of two. There it skips the few
// numbers that would make the ring jump back by a part of a turn, for a reader goes
// by ring position and would miss the newest transactions.
func (g Geometry) Next(tr uint32) uint32 {
	if tr == math.MaxUint32 {
		return uint32((uint64(1) << 32) % uint64(g.Blocks()))
	}
	return tr + 1
}

// MaxExtents returns the largest number of slots that the ring can describe even
// while one of its blocks is being overwritten (spec: on-disk 5.3).
func (g Geometry) MaxExtents() int {
	if n := g.Blocks(); n <= 72 {
		return int(n-1) * ContextSlots
	}
	return slotLimit
}

// Clamp returns the nearest number of slots that is allowed, as the kernel does
// with what is configured.
func (g Geometry) Clamp(extents int) int {
	return max(MinExtents, min(extents, g.MaxExtents()))
}
