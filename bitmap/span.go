// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap

const sectorsPerBlock = BlockSize / 512

// Touched returns the bits [from, to) of all blocks of which a request of sectors
// 512-byte sectors from sector on covers at least a part. These are the ones to set
// when the request may have left the copies different (spec: behaviour 5.4).
func Touched(sector, sectors uint64) (from, to uint64) {
	from = sector / sectorsPerBlock
	if sectors == 0 {
		return from, from
	}
	return from, (sector+sectors-1)/sectorsPerBlock + 1
}

// Covered returns the bits [from, to) of the blocks that a request covers as a whole,
// which may be none, and then from equals to. These are the ones to clear when the
// request left the copies equal. The last block of a device whose size is not a
// multiple of the block size counts as a whole if the request reaches the device's end
// (spec: behaviour 5.4).
func Covered(sector, sectors, deviceSectors uint64) (from, to uint64) {
	from = BitsFor(sector)
	to = (sector + sectors) / sectorsPerBlock
	if sector+sectors >= deviceSectors {
		to = BitsFor(deviceSectors)
	}
	return from, max(from, to)
}
