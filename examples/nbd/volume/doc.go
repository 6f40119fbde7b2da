// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package volume exports a blockmirror volume over NBD.
//
//	nbd.Server --> nbd.Export --> Backend --> replica.Volume --> both nodes' disks
//	                  | Open, Close
//	                  +--> Promotion --> replica.Resource: Primary while it is used
//
// Requests are multiples of 512 bytes, as those of the volume; a client that has asked
// for the block size knows. FUA and FLUSH are what they are with the volume: durable on
// the own disk, and in order on the peer's.
package volume
