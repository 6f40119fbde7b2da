// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package transport forms pairs of byte streams between two nodes. A DRBD
// connection is such a pair: one stream for data, one for what must never wait
// behind data (spec: wire 1).
//
//	   node alpha                                     node beta
//	+---------------+   P_INITIAL_DATA ->         +---------------+
//	|     Data  o---+-----------------------------+---o  Data     |  writes, reads, resync
//	|               |                             |               |
//	|     Meta  o---+-----------------------------+---o  Meta     |  acks, pings
//	+---------------+         <- P_INITIAL_META   +---------------+
//	 accepted meta:                                dialled meta:
//	 the resolver                                  not the resolver
//
// Both nodes listen and both dial, because neither knows which of them is up
// first, and a firewall may let only one through. The first packet on a stream,
// sent by the side that dialled it, says which of the two it is. Transport.Connect
// does all that and returns a Pair; what then travels on the streams is the matter
// of packages protocol and replica.
//
// # Which one to use
//
//   - NewTCP: any peer, in particular a kernel's DRBD. A port for every resource.
//   - NewTLS: two blockmirror nodes; TLS 1.3, both show certificates.
//   - Listen: two blockmirror nodes with many resources on one port, with or without
//     TLS. The dialling side names the resource in a preface of ours.
//   - New: any other network that has streams (Streams).
//   - package transporttest: a network in memory that delays, stalls and breaks.
//
// # Trust
//
// Plain TCP proves nothing about the peer; DRBD's own authentication (package
// protocol) proves that it knows a secret but neither encrypts nor protects what
// follows. Only TLS does. On plain TCP whoever can reach the port and sends a right
// first packet is taken for the peer and displaces its connection, as with DRBD. On
// TLS and in the preface strangers get no further than their own connection: first
// packets and prefaces have a time limit, a fixed size, and total decoders, and the
// number of pending connections is bounded.
package transport
