// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package bitmap keeps track of which 4 KiB blocks of a volume differ from a
// peer's copy: in memory, on disk and on the wire.
//
//	storage   | 4 KiB | 4 KiB | 4 KiB | 4 KiB | ...
//	bit           0       1       1       0          1 = out of sync
//
//	memory    words   64 bits each, the tail past the last bit always 0
//	          per page of 32768 bits (128 MiB of storage):
//	              ones   number of set bits    O(1) counts, fast CountRange
//	              some   has a set bit         NextSet skips empty pages
//	              gaps   has a clear bit       NextClear and SetRange skip full pages
//	              dirty  differs from disk     what Store has to write
//
//	disk      page p, one slot       = 4096 bytes, bit b is bit b&7 of byte b>>3
//	          page p, P slots (v09)  = P blocks of 4096 bytes, slots take turns:
//	              | slot 0 | slot 1 | .. | slot P-1 | slot 0 | slot 1 | ..
//	                32 bits, little-endian            the next 32 bits
//
//	wire      plain       64-bit little-endian words, chunks of a fixed size
//	          compressed  run lengths of alternating value, in a prefix code
//
// A [Bitmap] is the memory form. [Bitmap.Page] and [Bitmap.LoadPage] give single
// pages to a caller that does its own I/O, [Area] moves whole bitmaps. [Encoder] and
// [Decoder] are the two ends of a transfer.
//
// The package is pure: no goroutine, no lock, no clock, and no I/O beyond an
// [io.ReaderAt] or [io.WriterAt] handed to it. Nothing in it is safe for concurrent
// use; the caller's lock guards each bitmap. Bytes from a disk or a peer never make
// it panic.
//
// Sizes: 1 TiB of storage is 2^28 bits, 32 MiB and 20 KiB of memory, 8192 pages.
//
// Spec: on-disk 4, wire 6; what sets and clears bits is the business of the replica
// package (spec: behaviour 5.4).
package bitmap
