// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package blockmirror is the root of an SDK for synchronous block mirroring: a
// program hands it a disk and a peer, and gets a volume whose every write is on both
// machines before it returns. It is DRBD 8.4 in plain Go, in user space: the same
// metadata on disk, the same packets on the wire.
//
// This package holds no code. The packages below, each of which is useful alone and
// imports only those that stand under it:
//
//	replica                  resources, volumes, peers: the API, start here
//	    replica/blockdev     backing devices: files, disks, memory
//	transport                pairs of byte streams: TCP, TLS, a shared listener
//	    transporttest        the same in memory, with delays, stalls and cuts
//	protocol                 packets, handshake, authentication
//	metadata                 superblocks, their place on disk, generation identifiers
//	activitylog              which 4 MiB extents may have writes under way
//	bitmap                   which 4 KiB blocks differ
//
// # Where to start
//
// To mirror a disk, read the documentation of package replica; the example below is
// one node. To see it work, run
//
//	go run ./examples/quickstart
//
// which mirrors a disk between two processes, cuts their link, kills one of them, and
// compares; its node.go is a complete program around a Resource. To look at a disk's
// metadata, see package metadata, or examples/metatool for a command line.
//
// How it works is described in docs, page by page; docs/divergence.md lists where it
// differs from DRBD on purpose.
package blockmirror
