// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package node is one storage node: many resources in one process, with the life
// cycle that drbdsetup gives them. It holds what DRBD's kernel module would hold, and
// replica.Resources do the work.
//
//	control (unix socket)   web, metrics      nbd
//	        │ Run                │ Resources   │ Device: Open, ReadAt, WriteAt, Flush
//	┌───────┴────────────────────┴─────────────┴──────────┐
//	│ Node                                                │
//	│   Resource r0     options, net, minors              │
//	│     ├ Volume 0    Device, histograms, backing disk  │
//	│     └ replica.Resource, made anew when options that │
//	│       it takes only at its start have changed       │
//	│   Resource r1 ...                                   │
//	└───────┬─────────────────────────────────────────────┘
//	        │ TCP or TLS, a port each or one shared listener
//	      peer
//
// A replica.Resource has its volumes and options from the start. drbdsetup brings them
// one after the other (new-resource, new-minor, attach, connect). So a Resource here
// records what it was told, and opens the replica.Resource with the first command that
// needs one.
package node
