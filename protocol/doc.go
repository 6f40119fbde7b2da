// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package protocol is the wire protocol of DRBD 8.4, versions 86 to 101, as pure
// functions on bytes: headers, packets, the agreement on a version and on features,
// authentication, digests, and the words for states. It does no I/O and keeps no
// state; who reads and writes the bytes is the caller's affair.
//
// # A packet
//
//	        8 or 16 bytes       fixed size          "front", with the body
//	      +---------------+------------------+ - - - - +- - - - - - - - - - - - +
//	      | header        | body             | digest  | data                   |
//	      +---------------+------------------+ - - - - +- - - - - - - - - - - - +
//	                      |<------- PayloadOffset ---->|
//	                      |<------------------ Header.Length ------------------>|
//	type   Header          Data, BlockAck,    Digest    the caller's buffer
//	                       State, Sizes, ...
//
// Only P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY and P_WSAME have data, and a digest
// only if its sender has a data-integrity-alg.
//
// # Receiving
//
// What bytes mean depends on what was agreed with the peer. That is the Session:
// version, features, size of the peer's integrity digest. A reader of one stream
// does, for each packet:
//
//	read HeaderSize(session.Version) bytes
//	DecodeHeader                          the form of the header is right
//	Session.CheckHeader                   the packet is allowed here, its length too
//	read Session.PayloadOffset bytes      at most MaxFrontBytes
//	value.Decode, or Data.DecodeAs        the fields are in range
//	read the rest into a buffer           at most MaxBlockBytes
//	Digest.Verify                         if Session.DigestIn gives a digest
//
// Every decoder is total: any bytes give a value or an error, never a panic, and no
// decoder allocates more than a few short strings. Errors are values that errors.Is
// finds; what a node does on each is in spec: wire 9.1.
//
// # Sending
//
// AppendPacket appends header and body to a buffer. It allocates nothing if the buffer
// has room and the packet is passed by value. Digest and data follow; tell their
// size as payload.
//
// # The table
//
// Everything that decides by command asks one table (catalog.go): stream, versions,
// features, lengths, type. docs/wire-packets.md shows it, and how to add a packet.
//
// Section numbers such as "spec: wire 4.7" refer to the project's protocol
// specification.
package protocol
