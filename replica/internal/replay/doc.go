// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package replay plays what a Linux kernel's DRBD once said to a blockmirror node
// against the core, without the kernel: on every test run, on every platform.
//
//	 TestKernel -kernel.record                   Play
//	+--------+  commands  +------+   testdata   +--------+ commands, kernel's packets  +------+
//	|  test  |----------->| node |  *.jsonl.gz  |        |---------------------------->|      |
//	+--------+            +--+---+ -----------> | player |                             | core |
//	+--------+   packets     |                  |        |<----------------------------|      |
//	| kernel |<--------------+                  +--------+ packets, results, states    +------+
//	+--------+
//
// A Recording is a list of entries in the order in which they happened: what the disks
// held, what the test asked of the node, every packet in either direction, the result of
// every request, and the node's state at the end. Play does the same to a core with disks
// in memory and a clock of its own. It is a check and no mere exercise:
//
//   - A packet of the kernel is delivered when the core has sent every packet that the
//     node had sent before it, and not earlier; if the core does not send one of them,
//     the replay fails. Packets are compared with all their fields and the hash of their
//     data. What is of no consequence is left out: identifiers of requests, counters of
//     acks, pings, and the order of packets between two of the kernel's.
//   - Commands and requests end as they ended, with success or not.
//   - At the end the states, the generation identifiers and the out-of-sync count of
//     every volume are those of the node, and the core has sent nothing else.
//   - No operation touches anything outside of the disk, and memory is bounded.
//
// Data is kept as references into a pattern, so that a full sync takes a few kilobytes.
//
// FuzzReplay changes the kernel's packets on the way: whatever a peer sends, the core does
// not panic, and stays within its disks and its memory.
package replay
