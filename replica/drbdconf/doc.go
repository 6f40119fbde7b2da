// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package drbdconf reads drbd.conf as users have it, in the spellings of DRBD 0.7, 8.3,
// 8.4 and 9, and makes a replica.Config of it.
//
//	 /etc/drbd.conf ---- include ----> /etc/drbd.d/*.res
//	       |
//	     Load            words, braces, quotes, comments, skip
//	       |
//	    Config           global, common, resources: what is written, under today's names
//	     |   |
//	     |   +-- Dump    the same text as "drbdadm dump"
//	     |
//	Resource(name).Node(host)      which of the hosts am I?
//	     |
//	    Node             replica.Config, addresses, paths of disks and metadata
//	     + Problems      what is in the file and is not done, with line and column
//
// Nothing in a file is silently ignored. What is no drbd.conf is an error that names
// file, line and column: Load returns them all. What is valid but not done here, or
// only by DRBD 9, is a Problem of the Node; a program decides whether it goes on.
// An option that is set to what happens anyway is no problem.
//
// Disks, metadata devices and connections are not opened: Node has their paths and
// addresses, and an Example shows how they come together.
package drbdconf
