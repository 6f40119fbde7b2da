// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/binary"
	"fmt"
	"math"
)

// connectionFeaturesBytes is the exact size of P_CONNECTION_FEATURES.
const connectionFeaturesBytes = 72

// ConnectionFeatures is the first packet of each node on the data stream:
// P_CONNECTION_FEATURES, always with the 8-byte header. spec: wire 4.1.
type ConnectionFeatures struct {
	// Min and Max are the lowest and the highest protocol version of the
	// sender. A received Max of 0 means Min; numbers that do not fit a Version
	// are taken as its largest value.
	Min, Max Version
	Features Features
	// SenderNode and ReceiverNode are zero in DRBD 8.4; a DRBD 9 node puts
	// node ids there. spec: wire 10.
	SenderNode, ReceiverNode uint32
}

// DefaultConnectionFeatures returns what this package can speak: versions 86 to 101
// with all features.
func DefaultConnectionFeatures() ConnectionFeatures {
	return ConnectionFeatures{Min: MinVersion, Max: MaxVersion, Features: AllFeatures}
}

// AppendTo appends the body, 72 bytes.
func (p ConnectionFeatures) AppendTo(dst []byte, _ *Session) []byte {
	var b [connectionFeaturesBytes]byte
	binary.BigEndian.PutUint32(b[0:], uint32(p.Min))
	binary.BigEndian.PutUint32(b[4:], uint32(p.Features))
	binary.BigEndian.PutUint32(b[8:], uint32(p.Max))
	binary.BigEndian.PutUint32(b[12:], p.SenderNode)
	binary.BigEndian.PutUint32(b[16:], p.ReceiverNode)
	return append(dst, b[:]...)
}

// Decode reads the body. Bytes that are zero in DRBD 8.4 are ignored, as its kernel
// does. Errors: ErrLength.
func (p *ConnectionFeatures) Decode(body []byte, _ *Session) error {
	if len(body) != connectionFeaturesBytes {
		return lengthError(CmdConnectionFeatures, len(body), connectionFeaturesBytes)
	}
	*p = ConnectionFeatures{
		Min:          clampVersion(binary.BigEndian.Uint32(body)),
		Features:     Features(binary.BigEndian.Uint32(body[4:])),
		Max:          clampVersion(binary.BigEndian.Uint32(body[8:])),
		SenderNode:   binary.BigEndian.Uint32(body[12:]),
		ReceiverNode: binary.BigEndian.Uint32(body[16:]),
	}
	return nil
}

func clampVersion(v uint32) Version {
	return Version(min(v, math.MaxUint16))
}

// Negotiate computes what two nodes agree on from the packets they sent each other:
// the smaller of the two highest versions, and the features both have. Both nodes
// come to the same result. spec: wire 4.1.
//
// Errors: ErrIncompatible if one node's highest version is below the other's lowest,
// or the result is not a version this package speaks; the node goes StandAlone.
func Negotiate(own, peer ConnectionFeatures) (Version, Features, error) {
	if own.Max == 0 {
		own.Max = own.Min
	}
	if peer.Max == 0 {
		peer.Max = peer.Min
	}
	v := min(own.Max, peer.Max)
	if v < own.Min || v < peer.Min || v < MinVersion || v > MaxVersion {
		return 0, 0, fmt.Errorf("%w: %d to %d here, %d to %d there",
			ErrIncompatible, own.Min, own.Max, peer.Min, peer.Max)
	}
	return v, own.Features & peer.Features, nil
}

// AppendInitial appends the packet with which the node that dialled a TCP connection
// says which stream it is: P_INITIAL_DATA or P_INITIAL_META. spec: wire 1.3.
func AppendInitial(dst []byte, st Stream) []byte {
	cmd := CmdInitialData
	if st == MetaStream {
		cmd = CmdInitialMeta
	}
	return AppendHeader(dst, 0, Header{Command: cmd})
}

// DecodeInitial reads the first 8 bytes of an accepted TCP connection and returns the
// stream that it is to be. On an error the connection is to be closed and the node
// goes on listening.
//
// Errors: those of DecodeHeader; ErrUnknownCommand for any other packet; ErrLength.
func DecodeInitial(src []byte) (Stream, error) {
	h, err := DecodeHeader(src, 0)
	if err != nil {
		return 0, err
	}
	st := DataStream
	if h.Command == CmdInitialMeta {
		st = MetaStream
	} else if h.Command != CmdInitialData {
		return 0, fmt.Errorf("%w: first packet is %v, not P_INITIAL_DATA or P_INITIAL_META", ErrUnknownCommand, h.Command)
	}
	return st, (&Session{}).CheckHeader(st, h)
}
