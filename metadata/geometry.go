// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"strings"
)

// Defaults and limits of the geometry (spec: on-disk 1, 2.3, 2.4).
const (
	// DefaultBytesPerBit is the storage a bitmap bit stands for, if not said otherwise.
	DefaultBytesPerBit = 4096

	maxBytesPerBit = 1 << 20

	defaultALStripes      = 1
	defaultALStripeSize4k = 8
	minALBlocks           = 8
	maxALStripes          = 1024
	maxALBlocksCreate     = 8192    // the tool's buffer, 32 MiB
	maxALBlocks           = 4194304 // the kernels' limit, 16 GiB
)

// Geometry is what the layout depends on besides the device. A zero field
// means its default: 1 stripe, 8 blocks, 4096 bytes per bit, 1 peer.
type Geometry struct {
	ALStripes      uint32 // 1..1024
	ALStripeSize4k uint32 // blocks of 4096 bytes in each stripe; 8..8192 blocks in all
	BytesPerBit    uint32 // v09: power of two 4096..1048576; others and indexed metadata: 4096
	MaxPeers       uint32 // v09: 1..31 bitmap slots; others: 1
}

func (g Geometry) withDefaults() Geometry {
	if g.ALStripes == 0 {
		g.ALStripes = defaultALStripes
	}
	if g.ALStripeSize4k == 0 {
		g.ALStripeSize4k = defaultALStripeSize4k
	}
	if g.BytesPerBit == 0 {
		g.BytesPerBit = DefaultBytesPerBit
	}
	if g.MaxPeers == 0 {
		g.MaxPeers = 1
	}
	return g
}

// alBlocks is the size of the activity log in blocks of 4096 bytes.
func (g Geometry) alBlocks() uint64 { return uint64(g.ALStripes) * uint64(g.ALStripeSize4k) }

// alSectors is the size of the activity log in sectors.
func (g Geometry) alSectors() int64 { return int64(g.alBlocks()) * sectorsPerBlock }

// check applies what no version of the kernels or the tool does without. All
// arithmetic on a geometry that passes stays far inside int64.
func (g Geometry) check(v Version) error {
	if g.MaxPeers < 1 || g.MaxPeers > MaxPeers || (v != V09 && g.MaxPeers != 1) {
		return fmt.Errorf("%w: %d", ErrCorruptMaxPeers, g.MaxPeers)
	}
	b := g.BytesPerBit
	if b < DefaultBytesPerBit || b > maxBytesPerBit || b&(b-1) != 0 || (v != V09 && b != DefaultBytesPerBit) {
		return fmt.Errorf("%w: %d", ErrCorruptBytesPerBit, b)
	}
	if g.ALStripes == 0 || g.alBlocks() < minALBlocks || g.alBlocks() > maxALBlocks {
		return fmt.Errorf("%w: %d stripes of %d blocks", ErrCorruptGeometry, g.ALStripes, g.ALStripeSize4k)
	}
	return nil
}

// checkCreate applies, on top of check, the limits for new metadata.
func (g Geometry) checkCreate(v Version, loc Location) error {
	if v == V09 && (g.MaxPeers < 1 || g.MaxPeers > MaxPeers) || v != V09 && g.MaxPeers != 1 {
		return fmt.Errorf("%w: %d bitmap slots: v09 has 1..%d, v07 and v08 have 1", ErrInvalidGeometry, g.MaxPeers, MaxPeers)
	}
	if err := g.check(v); err != nil {
		return fmt.Errorf("%w: %s", ErrInvalidGeometry, strings.TrimPrefix(err.Error(), corruptPrefix))
	}
	if g.ALStripes > maxALStripes || g.alBlocks() > maxALBlocksCreate {
		return fmt.Errorf("%w: %d activity log stripes of %d blocks: at most %d stripes and %d blocks in all",
			ErrInvalidGeometry, g.ALStripes, g.ALStripeSize4k, maxALStripes, maxALBlocksCreate)
	}
	isDefaultAL := g.ALStripes == defaultALStripes && g.ALStripeSize4k == defaultALStripeSize4k
	if v == V07 && !isDefaultAL {
		return fmt.Errorf("%w: v07 has an activity log of 1 stripe of 8 blocks", ErrInvalidGeometry)
	}
	if loc.kind == kindIndexed && (!isDefaultAL || g.BytesPerBit != DefaultBytesPerBit) {
		return fmt.Errorf("%w: indexed metadata has 1 activity log stripe of 8 blocks and 4096 bytes per bit", ErrInvalidGeometry)
	}
	return nil
}

// BitmapBytes returns how many bytes of bitmap, a multiple of 4096, describe
// sectors of storage in maxPeers slots (spec: on-disk 2.2, 4.3). bytesPerBit
// and maxPeers must be in the ranges of [Geometry].
func BitmapBytes(sectors uint64, bytesPerBit, maxPeers uint32) uint64 {
	perBit := uint64(bytesPerBit / SectorSize)
	bits := sectors / perBit
	if sectors%perBit != 0 {
		bits++
	}
	bits = (bits + 63) &^ 63
	bytes := bits / 8 * uint64(maxPeers)
	return (bytes + BlockSize - 1) &^ (BlockSize - 1)
}

// bitmapLimit is how many sectors a bitmap of bitmapSectors sectors describes,
// in the tool's arithmetic (spec: on-disk 2.3). The kernel of DRBD 9 rounds
// less and may count up to 63 bits more, which the area does not hold in full.
func bitmapLimit(bitmapSectors int64, g Geometry) uint64 {
	if bitmapSectors <= 0 {
		return 0
	}
	words := uint64(bitmapSectors) * 4096 / 64 / uint64(g.MaxPeers)
	return words * 64 * uint64(g.BytesPerBit/SectorSize)
}
