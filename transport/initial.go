// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"fmt"
)

// role is which of the two streams of a pair a connection is.
type role uint8

const (
	roleData role = iota + 1
	roleMeta
)

func (r role) String() string {
	if r == roleMeta {
		return "meta"
	}
	return "data"
}

// The first packet on a connection, sent by the side that dialled it: a header
// without a body (spec: wire 1.3, 2). These numbers are DRBD's and never change.
const (
	magic80 = 0x83740267 // u32, then u16 command, u16 length
	magic95 = 0x835a     // u16, then u16 command, u32 length

	cmdInitialMeta = 0xfff1
	cmdInitialData = 0xfff2

	initialSize = 8
)

// appendInitial appends the first packet for a stream of role r: always the h80 form.
func appendInitial(b []byte, r role) []byte {
	cmd := uint16(cmdInitialData)
	if r == roleMeta {
		cmd = cmdInitialMeta
	}
	b = binary.BigEndian.AppendUint32(b, magic80)
	b = binary.BigEndian.AppendUint16(b, cmd)
	return binary.BigEndian.AppendUint16(b, 0)
}

// decodeInitial reads a first packet. Any bytes give a role or ErrFirstPacket.
func decodeInitial(b []byte) (role, error) {
	if len(b) != initialSize {
		return 0, fmt.Errorf("%w: %d bytes", ErrFirstPacket, len(b))
	}
	var cmd uint16
	var length uint32
	switch {
	case binary.BigEndian.Uint32(b) == magic80:
		cmd = binary.BigEndian.Uint16(b[4:])
		length = uint32(binary.BigEndian.Uint16(b[6:]))
	case binary.BigEndian.Uint16(b) == magic95:
		cmd = binary.BigEndian.Uint16(b[2:])
		length = binary.BigEndian.Uint32(b[4:])
	default:
		return 0, fmt.Errorf("%w: it sent % x", ErrFirstPacket, b)
	}
	switch {
	case length != 0:
		return 0, fmt.Errorf("%w: first packet 0x%04x with %d bytes of body", ErrFirstPacket, cmd, length)
	case cmd == cmdInitialData:
		return roleData, nil
	case cmd == cmdInitialMeta:
		return roleMeta, nil
	}
	return 0, fmt.Errorf("%w: first packet 0x%04x", ErrFirstPacket, cmd)
}
