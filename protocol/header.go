// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/binary"
	"fmt"
)

// Magic numbers that begin the three header forms. spec: wire 2. Do not change:
// they are part of the wire format.
const (
	magicH80  uint32 = 0x83740267
	magicH95  uint16 = 0x835a
	magicH100 uint32 = 0x8620ec20
)

const (
	headerSmall = 8  // h80 and h95
	headerLarge = 16 // h100

	// h95From is the length above which a version 95..99 sender uses the h95
	// form; h80 could hold up to h80Max.
	h95From = 32768
	h80Max  = 65535
)

// MaxHeaderBytes is the size of the largest header form.
const MaxHeaderBytes = headerLarge

// Header is the frame in front of every packet.
type Header struct {
	Command Command
	// Volume is the number of the replicated device inside the connection.
	// Only the 16-byte form carries it; it is 0 otherwise, and 0 in packets
	// for which Command.PerVolume is false.
	Volume uint16
	// Length counts all bytes after the header: fixed body, digest, data.
	Length uint32
}

// HeaderSize returns the number of header bytes in version v: 16 from version 100
// on, else 8. v == 0 means that no version is agreed yet.
func HeaderSize(v Version) int {
	if v >= versionH100 {
		return headerLarge
	}
	return headerSmall
}

// AppendHeader appends h in the form that a sender of version v uses: h80 before
// the agreement (v == 0) and up to version 94, h95 for packets above 32 KiB and
// h80 for the others in 95..99, and h100 from version 100 on. spec: wire 2.
//
// A length that does not fit 16 bits is never truncated: such a packet, which a
// correct sender does not produce before version 95, gets the h95 form.
func AppendHeader(dst []byte, v Version, h Header) []byte {
	var b [MaxHeaderBytes]byte
	n := PutHeader(b[:], v, h)
	return append(dst, b[:n]...)
}

// PutHeader writes h as AppendHeader does to the beginning of dst and returns the
// number of bytes written, HeaderSize(v). It panics if dst is shorter than that.
func PutHeader(dst []byte, v Version, h Header) int {
	switch {
	case v >= versionH100:
		_ = dst[headerLarge-1]
		binary.BigEndian.PutUint32(dst, magicH100)
		binary.BigEndian.PutUint16(dst[4:], h.Volume)
		binary.BigEndian.PutUint16(dst[6:], uint16(h.Command))
		binary.BigEndian.PutUint32(dst[8:], h.Length)
		binary.BigEndian.PutUint32(dst[12:], 0)
		return headerLarge
	case v >= versionH95 && h.Length > h95From, h.Length > h80Max:
		_ = dst[headerSmall-1]
		binary.BigEndian.PutUint16(dst, magicH95)
		binary.BigEndian.PutUint16(dst[2:], uint16(h.Command))
		binary.BigEndian.PutUint32(dst[4:], h.Length)
	default:
		_ = dst[headerSmall-1]
		binary.BigEndian.PutUint32(dst, magicH80)
		binary.BigEndian.PutUint16(dst[4:], uint16(h.Command))
		binary.BigEndian.PutUint16(dst[6:], uint16(h.Length))
	}
	return headerSmall
}

// DecodeHeader reads one header of a stream on which version v is agreed (0: none
// yet). src must hold exactly HeaderSize(v) bytes. Below version 100 the h80 and
// the h95 form are accepted, from 100 on only h100. The header is not checked
// beyond its form; do that with Session.CheckHeader before using Length.
//
// Errors: ErrHeaderSize, ErrBadMagic, ErrHeaderPadding.
func DecodeHeader(src []byte, v Version) (Header, error) {
	if len(src) != HeaderSize(v) {
		return Header{}, fmt.Errorf("%w: %d, need %d in version %d", ErrHeaderSize, len(src), HeaderSize(v), v)
	}
	magic := binary.BigEndian.Uint32(src)
	if v >= versionH100 {
		if magic != magicH100 {
			return Header{}, fmt.Errorf("%w: 0x%08x in version %d", ErrBadMagic, magic, v)
		}
		if pad := binary.BigEndian.Uint32(src[12:]); pad != 0 {
			return Header{}, fmt.Errorf("%w: 0x%08x", ErrHeaderPadding, pad)
		}
		return Header{
			Volume:  binary.BigEndian.Uint16(src[4:]),
			Command: Command(binary.BigEndian.Uint16(src[6:])),
			Length:  binary.BigEndian.Uint32(src[8:]),
		}, nil
	}
	switch {
	case magic == magicH80:
		return Header{
			Command: Command(binary.BigEndian.Uint16(src[4:])),
			Length:  uint32(binary.BigEndian.Uint16(src[6:])),
		}, nil
	case uint16(magic>>16) == magicH95:
		return Header{
			Command: Command(binary.BigEndian.Uint16(src[2:])),
			Length:  binary.BigEndian.Uint32(src[4:]),
		}, nil
	}
	return Header{}, fmt.Errorf("%w: 0x%08x in version %d", ErrBadMagic, magic, v)
}
