// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package daemon is the storageserver without its command line: it puts a node, its
// control socket, its exports and its web page together and runs them until it is
// told to stop.
//
//	drbd.conf ──► node.Node ◄── control   drbdsetup, over a unix socket
//	                  ▲    ◄── nbd        the volumes, over TCP or a unix socket
//	                  └────◄── web        page, metrics, health: loopback by default
package daemon
