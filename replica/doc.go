// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package replica mirrors block devices: hand it a backing disk and a peer, and get
// a volume whose every write is on both machines before it returns.
//
//	        alpha                                          beta
//	  your program                                    your program
//	       │ Volume.WriteAt                                │ Volume.ReadAt (after Promote)
//	┌──────┴──────────────────┐                     ┌──────┴──────────────────┐
//	│ Resource r0, Primary    │   data  ────────►   │ Resource r0, Secondary  │
//	│                         │   P_DATA, bitmaps   │                         │
//	│  core: what to do       │                     │  core: what to do       │
//	│  shell: does it         │   meta  ◄────────   │  shell: does it         │
//	│                         │   acks, pings       │                         │
//	└──────┬──────────────────┘                     └──────┬──────────────────┘
//	   data, metadata                                  data, metadata
//
// A [Resource] is a group of volumes with one connection and one role. [Open] attaches
// the disks, [Resource.Connect] looks for the peer, [Resource.Promote] lets this node
// read and write, and a [Volume] is an io.ReaderAt and io.WriterAt with Flush,
// Discard and WriteZeroes. [Resource.Status] prints like /proc/drbd, and
// [Resource.Events] tells what happens, in order. The peer may be another blockmirror
// node or a Linux kernel's DRBD 8.4; disks may be exchanged with it too.
//
// A new pair begins with [CreateMetadata] on both disks, Connect on both nodes, and
// Promote with [Force] on the node whose data counts: the other one is then filled
// from it while the volume is in use. After that Force is for emergencies.
//
// # Inside
//
// All policy is in internal/core, a state machine without I/O, clock, goroutine or
// lock. This package runs it: under one mutex per resource, on whichever goroutine
// has an event, and performs what it asks for after the mutex is released (engine.go).
// A lone write stays on its caller's goroutine all the way: it sends the packet,
// writes the disk, and waits for the peer's ack (request.go, perform.go). Under load,
// one sender's writev takes the packets of all (send.go). Reads and writes allocate
// nothing. See docs/life-of-a-write.md.
package replica
