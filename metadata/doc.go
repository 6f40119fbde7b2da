// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package metadata reads and writes what DRBD keeps on disk beside the data, byte
// for byte as drbdmeta and the kernels do: the superblock in its formats v07, v08
// and v09, and where it, the activity log and the bitmap lie. It also has the
// generation identifiers and their comparison.
//
//	internal (at the end of the backing device)
//
//	    0                                          UsableSectors
//	    +------------------------------------------+--------+--------------+------------+
//	    | data                                     | bitmap | activity log | superblock |
//	    +------------------------------------------+--------+--------------+------------+
//	                                               BMOffset < ALOffset < 0 : 4 KiB, aligned
//
//	flex-external (a device of its own), indexed (slot N of 128 MiB)
//
//	    0, or N * 128 MiB
//	    +------------+--------------+-------------------------------------------+
//	    | superblock | activity log | bitmap                                    |
//	    +------------+--------------+-------------------------------------------+
//	      4 KiB        ALOffset = 8   BMOffset = 8 + size of the activity log
//
// All integers of the superblock and the activity log are big-endian, the bitmap
// is little-endian. Offsets in the superblock are sectors of 512 bytes relative to
// its own place.
//
// # Where to start
//
// [Read] finds, decodes and validates the superblock of a device, and tells where
// the rest lies; [Create] writes fresh metadata; [ApplyAL] does what must happen
// after a crash, before the device is attached again. [Decode] and
// [Superblock.Encode] are the codec alone.
//
// The package does no I/O beyond the io.ReaderAt and io.WriterAt handed to it, has
// no goroutines and no state. Its values are not synchronised: share them by copy.
// Functions that write say in their documentation what they flush, and when.
//
// Sections of the format description are cited as "spec: on-disk N".
package metadata
