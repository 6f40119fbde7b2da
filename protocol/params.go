// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// algorithmBytes is the place for the name of an algorithm, with its final zero.
const algorithmBytes = 64

// MaxAlgorithmName is the length of the longest algorithm name that can be sent.
// AppendTo cuts longer names; a name that LookupDigest knows is never that long.
const MaxAlgorithmName = algorithmBytes - 1

// ProtocolFlags of P_PROTOCOL. spec: wire 4.3.
type ProtocolFlags uint32

// The flags, with DRBD's values.
const (
	// ProtocolDiscardMyData: the sender is ready to be the victim of a split
	// brain.
	ProtocolDiscardMyData ProtocolFlags = 1
	// ProtocolDryRun: find out what would be synchronised, then disconnect.
	// From version 92 on.
	ProtocolDryRun ProtocolFlags = 2
)

// Protocol is what two nodes must have configured alike: P_PROTOCOL, the first
// packet after authentication, and P_PROTOCOL_UPDATE, by which a node changes it
// while connected. spec: wire 4.3.
//
// Decode takes the numbers as they are; use Compatible for the former packet, and
// Valid before adopting the latter.
type Protocol struct {
	Replication ReplicationProtocol
	// AfterSB0, AfterSB1 and AfterSB2 are after-sb-0pri, -1pri and -2pri.
	AfterSB0, AfterSB1, AfterSB2 Policy
	Flags                        ProtocolFlags
	TwoPrimaries                 bool
	// IntegrityAlg is the digest algorithm of the data the sender sends; ""
	// for none. Not on the wire below version 87.
	IntegrityAlg string
}

const protocolBytes = 24

// AppendTo appends the body; from version 87 on with IntegrityAlg.
func (p Protocol) AppendTo(dst []byte, s *Session) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Replication))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.AfterSB0))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.AfterSB1))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.AfterSB2))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Flags))
	dst = binary.BigEndian.AppendUint32(dst, bitIf(p.TwoPrimaries, 1))
	if s.Version < versionIntegrity {
		return dst
	}
	return appendName(dst, p.IntegrityAlg)
}

// Decode reads the body. Errors: ErrLength; ErrField for a name without its final
// zero.
func (p *Protocol) Decode(body []byte, s *Session) error {
	if b := protocolBounds(s); !b.allow(uint32(len(body))) {
		return lengthError(CmdProtocol, len(body), int(b.body+b.tailMin))
	}
	r := Protocol{
		Replication:  ReplicationProtocol(binary.BigEndian.Uint32(body)),
		AfterSB0:     Policy(binary.BigEndian.Uint32(body[4:])),
		AfterSB1:     Policy(binary.BigEndian.Uint32(body[8:])),
		AfterSB2:     Policy(binary.BigEndian.Uint32(body[12:])),
		Flags:        ProtocolFlags(binary.BigEndian.Uint32(body[16:])),
		TwoPrimaries: binary.BigEndian.Uint32(body[20:]) != 0,
	}
	if s.Version >= versionIntegrity {
		name, err := decodeName(body[protocolBytes:], "data-integrity-alg")
		if err != nil {
			return err
		}
		r.IntegrityAlg = name
	}
	*p = r
	return nil
}

// Valid reports whether every number has a name: a receiver of P_PROTOCOL_UPDATE
// adopts only such.
func (p Protocol) Valid() bool {
	return p.Replication >= A && p.Replication <= C &&
		p.AfterSB0 <= PolicyViolently && p.AfterSB1 <= PolicyViolently && p.AfterSB2 <= PolicyViolently
}

// Compatible compares the own parameters p with those in the P_PROTOCOL of the peer.
// A nil means that the two nodes may connect. Otherwise the error is ErrMismatch and
// names the first setting that differs; the node goes StandAlone. The integrity
// algorithm is compared only if s has a version that carries it. spec: wire 4.3.
func (p Protocol) Compatible(peer Protocol, s *Session) error {
	differ := func(option string, own, theirs any) error {
		return fmt.Errorf("%w: %s is %v here, %v there", ErrMismatch, option, own, theirs)
	}
	switch {
	case p.Replication != peer.Replication:
		return differ("protocol", p.Replication, peer.Replication)
	case p.AfterSB0.Mirrored() != peer.AfterSB0:
		return differ("after-sb-0pri", p.AfterSB0, peer.AfterSB0)
	case p.AfterSB1.Mirrored() != peer.AfterSB1:
		return differ("after-sb-1pri", p.AfterSB1, peer.AfterSB1)
	case p.AfterSB2.Mirrored() != peer.AfterSB2:
		return differ("after-sb-2pri", p.AfterSB2, peer.AfterSB2)
	case p.Flags&peer.Flags&ProtocolDiscardMyData != 0:
		return fmt.Errorf("%w: both nodes have discard-my-data", ErrMismatch)
	case p.TwoPrimaries != peer.TwoPrimaries:
		return differ("allow-two-primaries", p.TwoPrimaries, peer.TwoPrimaries)
	case s.Version >= versionIntegrity && p.IntegrityAlg != peer.IntegrityAlg:
		return differ("data-integrity-alg", quoted(p.IntegrityAlg), quoted(peer.IntegrityAlg))
	}
	return nil
}

// quoted prints a name that may come from a peer.
type quoted string

func (q quoted) String() string { return fmt.Sprintf("%q", string(q)) }

// appendName appends name, cut at the first zero byte or at MaxAlgorithmName, and a
// zero byte.
func appendName(dst []byte, name string) []byte {
	for i := 0; i < len(name) && i < MaxAlgorithmName && name[i] != 0; i++ {
		dst = append(dst, name[i])
	}
	return append(dst, 0)
}

// appendPaddedName appends name as appendName does and zeros up to algorithmBytes.
func appendPaddedName(dst []byte, name string) []byte {
	end := len(dst) + algorithmBytes
	dst = appendName(dst, name)
	for len(dst) < end {
		dst = append(dst, 0)
	}
	return dst
}

// decodeName reads a name up to its first zero byte.
func decodeName(b []byte, option string) (string, error) {
	n := bytes.IndexByte(b, 0)
	if n < 0 {
		return "", fmt.Errorf("%w: %s has no end", ErrField, option)
	}
	return string(b[:n]), nil
}

// SyncParam are the parameters of resync and verify of one volume: P_SYNC_PARAM and
// P_SYNC_PARAM89. Session.SyncParamCommand says which of the two to send. Fields
// that the agreed version does not carry are not sent, and zero when decoded.
// spec: wire 4.4.
type SyncParam struct {
	Rate        uint32 // KiB/s
	VerifyAlg   string // from version 88 on
	CsumsAlg    string // from version 89 on
	PlanAhead   uint32 // c-plan-ahead, 0.1 s; from version 95 on as the rest
	DelayTarget uint32 // c-delay-target, 0.1 s
	FillTarget  uint32 // c-fill-target, sectors
	MaxRate     uint32 // c-max-rate, KiB/s
}

// DefaultSyncParam returns what a DRBD node sends that has nothing configured.
func DefaultSyncParam() SyncParam {
	return SyncParam{Rate: 250, PlanAhead: 20, DelayTarget: 10, FillTarget: 100, MaxRate: 102400}
}

// AppendTo appends the body in the form of the agreed version.
func (p SyncParam) AppendTo(dst []byte, s *Session) []byte {
	dst = binary.BigEndian.AppendUint32(dst, p.Rate)
	switch {
	case s.Version < versionVerify:
		return dst
	case s.Version < versionSyncParam89:
		return appendName(dst, p.VerifyAlg)
	}
	dst = appendPaddedName(dst, p.VerifyAlg)
	dst = appendPaddedName(dst, p.CsumsAlg)
	if s.Version < versionH95 {
		return dst
	}
	dst = binary.BigEndian.AppendUint32(dst, p.PlanAhead)
	dst = binary.BigEndian.AppendUint32(dst, p.DelayTarget)
	dst = binary.BigEndian.AppendUint32(dst, p.FillTarget)
	return binary.BigEndian.AppendUint32(dst, p.MaxRate)
}

// Decode reads the body in the form of the agreed version. Errors: ErrLength;
// ErrField for a name without its final zero.
func (p *SyncParam) Decode(body []byte, s *Session) error {
	if b := syncParamBounds(s); !b.allow(uint32(len(body))) {
		return lengthError(s.SyncParamCommand(), len(body), int(b.body+b.tailMin))
	}
	r := SyncParam{Rate: binary.BigEndian.Uint32(body)}
	if s.Version < versionVerify {
		*p = r
		return nil
	}
	var err error
	verify := body[4:min(len(body), 4+algorithmBytes)]
	if r.VerifyAlg, err = decodeName(verify, "verify-alg"); err != nil {
		return err
	}
	if s.Version >= versionSyncParam89 {
		if r.CsumsAlg, err = decodeName(body[68:132], "csums-alg"); err != nil {
			return err
		}
	}
	if s.Version >= versionH95 {
		r.PlanAhead = binary.BigEndian.Uint32(body[132:])
		r.DelayTarget = binary.BigEndian.Uint32(body[136:])
		r.FillTarget = binary.BigEndian.Uint32(body[140:])
		r.MaxRate = binary.BigEndian.Uint32(body[144:])
	}
	*p = r
	return nil
}

// Compatible compares the own parameters p with those in the peer's first packet for
// this volume on a connection. A nil means that they fit. Otherwise the error is
// ErrMismatch and the node goes StandAlone; later in a connection different names are
// adopted instead. Only the names that the agreed version carries are compared.
// spec: wire 4.4.
func (p SyncParam) Compatible(peer SyncParam, s *Session) error {
	differ := func(option, own, theirs string) error {
		return fmt.Errorf("%w: %s is %q here, %q there", ErrMismatch, option, own, theirs)
	}
	switch {
	case s.Version >= versionVerify && p.VerifyAlg != peer.VerifyAlg:
		return differ("verify-alg", p.VerifyAlg, peer.VerifyAlg)
	case s.Version >= versionSyncParam89 && p.CsumsAlg != peer.CsumsAlg:
		return differ("csums-alg", p.CsumsAlg, peer.CsumsAlg)
	}
	return nil
}
