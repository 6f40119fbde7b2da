// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package activitylog keeps the log of hot extents: the 4 MiB extents of a volume
// that may have writes in flight, so that after a crash only these have to be
// compared with the peer.
//
// The guarantee (spec: behaviour 5.5): after a crash of the Primary every block that
// may differ between the nodes is marked in the bitmap on disk, or lies in an extent
// of the activity log on disk.
//
//	write to a cold extent                                   write to a hot one
//	     |                                                        |
//	  TryHold: pending                                         TryHold: hot
//	     |        slot chosen, change queued                      |
//	  Prepare     up to 64 changes in one 4 KiB block             |
//	     |        1. bitmap pages of the evicted extents          |
//	     |        2. flush, block, durable                        |
//	  Commit                                                      |
//	     |                                                        |
//	  Granted --> write the disk, send to the peer, wait <--------+
//	                             |
//	                          Release   when both are done for good
//
//	a slot:   free or hot --change--> queued --Prepare--> in flight --Commit--> hot
//	                ^                  |   ^                 |
//	                +---not needed-----+   +------Abort------+
//
//	the ring: N blocks of 4096 bytes, transaction t in ring position t mod N
//
//	   | t=8 | t=9 | t=2 | t=3 | t=4 | t=5 | t=6 | t=7 |       N = 8
//	            ^     ^
//	       newest     oldest, the next to be overwritten
//
// Each block holds its changes, and beside them a window of 919 slots as they were
// before: so the blocks that are left when one is torn describe all slots.
//
// [Log] is the part that runs, [Block] is one block, [Replay] reads a ring after a
// crash, and [ReplayFormat] also the forms of older and newer releases.
//
// The package is pure: no goroutine, no lock, no clock, and no I/O beyond an
// [io.ReaderAt] handed to it. Nothing in it is safe for concurrent use; the caller's
// lock guards each log. Bytes from a disk never make it panic; misuse of a Log does,
// for it means that a write is no longer covered.
//
// Spec: on-disk 5, 10.2, 10.3; behaviour 5.5.
package activitylog
