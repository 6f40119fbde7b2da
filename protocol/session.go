// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"math"
)

// Session is what the meaning of bytes depends on: the result of the handshake
// with one peer. The zero value is a connection on which nothing is agreed yet.
//
// A Session is not changed by any method and may be used by several goroutines as
// long as nobody changes its fields.
type Session struct {
	// Version is the agreed protocol version; 0 before the agreement.
	Version Version
	// Features are the agreed features.
	Features Features
	// PeerDigestSize is the number of bytes of the integrity digest in front
	// of the data the PEER sends: Digest.Size of the algorithm in its last
	// P_PROTOCOL or P_PROTOCOL_UPDATE. 0 stands for none.
	PeerDigestSize int
}

func (s *Session) digestBytes() uint32 {
	return uint32(min(max(s.PeerDigestSize, 0), MaxDigestBytes))
}

// CheckHeader judges the header of a packet received on st before its body is
// read: is the command known on this stream, in the agreed version and with the
// agreed features, and may it have this length? After a nil the length is safe to
// read into memory: it is at most MaxPacketBytes(st).
//
// The two DRBD 9 packets Cmd9x58 and Cmd9x59 pass on the data stream in every
// version; read their body and ignore it.
//
// Errors: ErrUnknownCommand, ErrNotNegotiated (which is also an
// ErrUnknownCommand), ErrWrongStream, ErrLength. Beside ErrLength, because a node
// reacts differently there: ErrIncompatible for P_CONNECTION_FEATURES, ErrChallenge
// for P_AUTH_CHALLENGE, ErrResponseLength for P_AUTH_RESPONSE.
// spec: wire 4, 5, 9.1, 9.2.
func (s *Session) CheckHeader(st Stream, h Header) error {
	r := lookup(h.Command)
	switch {
	case r == nil:
		return fmt.Errorf("%w: %v on %v", ErrUnknownCommand, h.Command, st)
	case st > MetaStream || r.streams&(1<<st) == 0:
		return fmt.Errorf("%w: %v on %v", ErrWrongStream, h.Command, st)
	case !s.negotiated(r, true):
		return fmt.Errorf("%w: %w: %v in version %d with features %v",
			ErrUnknownCommand, ErrNotNegotiated, h.Command, s.Version, s.Features)
	}
	b := r.bounds(s)
	if b.allow(h.Length) {
		return nil
	}
	err := fmt.Errorf("%w: %v of %d bytes, want %v", ErrLength, h.Command, h.Length, b)
	if r.fail != nil {
		return fmt.Errorf("%w: %w", r.fail, err)
	}
	return err
}

// CanSend reports whether a packet of command c may be sent in this session, as
// far as version and features decide. It is false for packets that a node only
// drops: P_DELAY_PROBE, Cmd9x58, Cmd9x59.
func (s *Session) CanSend(c Command) bool {
	r := lookup(c)
	return r != nil && !r.ignored && s.negotiated(r, false)
}

// negotiated applies the version and feature gates of r.
func (s *Session) negotiated(r *row, receiving bool) bool {
	if r.opening || s.Version == 0 {
		return r.opening && s.Version == 0
	}
	if !s.Features.Has(r.needs) {
		return false
	}
	if receiving && r.lenient {
		return true
	}
	return s.Version >= r.since && (r.until == 0 || s.Version <= r.until)
}

// SyncParamCommand returns the command under which SyncParam is sent:
// P_SYNC_PARAM up to version 88, then P_SYNC_PARAM89.
func (s *Session) SyncParamCommand() Command {
	if s.CanSend(CmdSyncParam) {
		return CmdSyncParam
	}
	return CmdSyncParam89
}

// PayloadOffset returns the number of bytes after the header that come before the
// data of the packet: fixed body and digest. A reader reads that many, decodes
// them, and then reads the rest into a buffer that suits the disk. For a packet
// without data for the application it is h.Length. It is never more than h.Length,
// and never more than MaxFrontBytes for a packet that passed CheckHeader.
func (s *Session) PayloadOffset(h Header) int {
	r := lookup(h.Command)
	if r == nil || !r.bulk {
		return int(min(h.Length, math.MaxInt32))
	}
	b := r.bounds(s)
	return int(min(b.body+b.digest, h.Length))
}

// DigestIn returns the integrity digest at the end of front, the PayloadOffset
// bytes of a packet with header h; nil if there is none. It aliases front.
func (s *Session) DigestIn(h Header, front []byte) []byte {
	r := lookup(h.Command)
	if r == nil || !r.bulk {
		return nil
	}
	b := r.bounds(s)
	if b.digest == 0 || len(front) < int(b.body+b.digest) {
		return nil
	}
	return front[b.body : b.body+b.digest]
}

// MaxFrontBytes is the largest PayloadOffset: a buffer of this size holds all of a
// packet but the application's data.
const MaxFrontBytes = 4096

// MaxPacketBytes returns the largest Length that CheckHeader passes on st.
func MaxPacketBytes(st Stream) int {
	if st == MetaStream {
		return 24
	}
	return 28 + MaxDigestBytes + MaxBlockBytes
}

func (r *row) bounds(s *Session) bounds {
	if r.vary != nil {
		return r.vary(s)
	}
	return r.size
}

func (b bounds) allow(length uint32) bool {
	if length < b.body {
		return false
	}
	tail := length - b.body
	if b.tailMax == 0 {
		return tail == 0
	}
	if b.orBare && tail == 0 {
		return true
	}
	if tail < b.digest {
		return false
	}
	tail -= b.digest
	return tail >= b.tailMin && tail <= b.tailMax && tail%b.step == 0
}

// String describes the allowed lengths for an error message.
func (b bounds) String() string {
	front := b.body + b.digest
	switch {
	case b.tailMax == 0:
		return fmt.Sprintf("%d", b.body)
	case b.step > 1:
		return fmt.Sprintf("%d and %d to %d in steps of %d", front, b.tailMin, b.tailMax, b.step)
	}
	return fmt.Sprintf("%d to %d", front+b.tailMin, front+b.tailMax)
}
