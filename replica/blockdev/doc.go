// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package blockdev is what a replica stores its blocks on: files, block devices
// and memory behind one small interface, and queues that keep several requests of
// a device under way.
//
//	        Op: read, write, flush, discard, zero
//	                       |
//	                    Queue                 order: only "flush covers what had completed"
//	          ____________/ \____________
//	         |                           |
//	  io_uring (Linux,            goroutines that call
//	  direct I/O on a disk)       the device (everywhere)
//	         |                           |
//	         +-----------+---------------+
//	                     |
//	                  Device                  ReadAt, WriteAt, Flush, Size, Close
//	      _______________|________________    + Discarder, ZeroWriter, FUAWriter, Limiter, Resizer
//	     |               |                |
//	   File            Memory           Faulty ---> any Device
//	file or disk,    sparse, for      injects errors, hangs and
//	O_DIRECT, lock   tests, examples  power cuts, for tests
//
// # Durability
//
// WriteAt returns when the device has the data, which may be in a cache that a
// power cut empties. What Flush covers is durable: every write that had returned
// before Flush was called. A single write can be made durable by itself with
// FUAWriter or Op.FUA.
//
// A power cut may leave a write that no flush covered done, undone or torn: each
// 512-byte sector is old or new by itself. Faulty does just that to a program
// under test.
//
// # Memory
//
// Devices take buffers of any alignment. Buffers from AlignedBuffer or a Pool save
// the copy that direct I/O otherwise needs.
package blockdev
