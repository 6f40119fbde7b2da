// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package nbd is a server of network block devices: what qemu, libnbd, nbd-client and
// the Linux kernel's nbd driver speak. It needs the standard library only, and is meant
// to be copied; package volume beside it serves a blockmirror volume.
//
//	qemu, nbdcopy, /dev/nbd0 ...         one connection
//	      |  TCP or unix socket
//	+-----+------------ Server ------------------------------------------+
//	|  handshake   options in plain text or TLS 1.3; GO picks an export  |
//	|     |                                                              |
//	|  workers     one at a time reads a request, and then does it       |
//	|     |  |  |  itself, while the next one reads on                   |
//	|  replies     in the order in which they are done                   |
//	+-----+--+--+--------------------------------------------------------+
//	      |  |  |      Export.Open before the first client, .Close after the last
//	    Backend        ReadAt, WriteAt, Flush, Size
//	                   + Trimmer, ZeroWriter, FastZeroWriter, ExtentLister
//
// It speaks the fixed newstyle handshake with the options EXPORT_NAME, ABORT, LIST,
// STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META_CONTEXT and SET_META_CONTEXT, and
// the commands READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES and BLOCK_STATUS (context
// base:allocation) with the flags FUA, NO_HOLE, FAST_ZERO, DF and REQ_ONE. Several
// connections to one export see one device (CAN_MULTI_CONN). The protocol's document
// is doc/proto.md of https://github.com/NetworkBlockDevice/nbd.
//
// # Memory
//
// A connection has at most Config.MaxRequests requests under way, each with a
// goroutine, and at most Config.MaxBytes of data of them. Who sends more than that is
// not read from until replies have left: TCP slows them down.
//
// # Trust
//
// Whoever reaches the listener can read and write every export, unless Config.TLS
// wants a certificate of them (TLSFiles). Nothing a client sends makes the server
// panic, or take memory beyond the limits above; a client that breaks the protocol
// loses its connection and nobody else's.
//
// # Durability
//
// The server has no cache. A reply is sent when the Backend has returned; a FLUSH
// covers what was answered before it on any connection, if Backend.Flush covers what
// had returned before it. A request whose connection is lost may or may not be done.
package nbd
