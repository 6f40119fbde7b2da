// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "errors"

// Errors that errors.Is finds in what this package returns. What a DRBD node does
// on each of them depends on the stream: spec: wire 9.1.
var (
	// ErrHeaderSize: DecodeHeader got another number of bytes than HeaderSize says.
	ErrHeaderSize = errors.New("protocol: header has the wrong number of bytes")
	// ErrBadMagic: the header does not begin with a magic number allowed in
	// the agreed version. The stream is out of step or the peer is not a
	// DRBD node.
	ErrBadMagic = errors.New("protocol: wrong magic value")
	// ErrHeaderPadding: the last four bytes of a 16-byte header are not zero.
	ErrHeaderPadding = errors.New("protocol: header padding is not zero")

	// ErrUnknownCommand: no packet of this number exists here. Also wrapped
	// by every ErrNotNegotiated.
	ErrUnknownCommand = errors.New("protocol: unknown packet")
	// ErrNotNegotiated: the packet exists, but not in the agreed version or
	// without a feature that was not agreed.
	ErrNotNegotiated = errors.New("protocol: packet was not negotiated")
	// ErrWrongStream: the packet belongs on the other stream.
	ErrWrongStream = errors.New("protocol: packet on the wrong stream")
	// ErrLength: a packet is shorter or longer than its kind allows.
	ErrLength = errors.New("protocol: wrong packet length")
	// ErrField: a field has a value outside its range.
	ErrField = errors.New("protocol: invalid field")

	// ErrIncompatible: two nodes have no protocol version in common. One of
	// them needs another release, or another version range configured.
	ErrIncompatible = errors.New("protocol: no common protocol version")

	// ErrMismatch: a setting that must be equal on both nodes is not. Configure
	// it alike and connect again.
	ErrMismatch = errors.New("protocol: the nodes are configured differently")

	// ErrUnknownAlgorithm: no digest or HMAC of that name is known here.
	ErrUnknownAlgorithm = errors.New("protocol: unknown digest algorithm")
	// ErrDigest: data does not match its digest: it was damaged on the way or
	// changed while it was being sent.
	ErrDigest = errors.New("protocol: digest mismatch")

	// ErrSecret: the shared secret is empty or longer than MaxSecretBytes.
	ErrSecret = errors.New("protocol: shared secret must have 1 to 63 bytes")
	// ErrChallenge: the peer's challenge has a bad length. As all failures of
	// authentication but ErrResponseLength it must not be retried.
	ErrChallenge = errors.New("protocol: unusable authentication challenge")
	// ErrReflection: the peer sent our own challenge back to us.
	ErrReflection = errors.New("protocol: peer repeated our authentication challenge")
	// ErrResponseLength: the peer's response does not have the digest size of
	// our algorithm: the cram-hmac-alg settings differ.
	ErrResponseLength = errors.New("protocol: authentication response has the wrong length")
	// ErrAuthentication: the peer's response is wrong: the shared secrets differ.
	ErrAuthentication = errors.New("protocol: peer does not know the shared secret")
)
