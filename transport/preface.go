// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// The preface of a connection to a shared listener, before DRBD's first packet:
//
//	dialling side                        0       4    5      6      8
//	                                     +-------+----+------+------+-----------+
//	                                     | BMIR  | 1  | 0    | n    | name      |  n: u16, big-endian
//	                                     +-------+----+------+------+-----------+
//	accepting side                       0       4    5      6      8
//	                                     +-------+----+------+------+
//	                                     | BMIR  | 1  |status| 0    |
//	                                     +-------+----+------+------+
//
// The dialling side goes on only after status 0; else the connection is closed.
// These constants are on the wire between nodes of different releases: do not
// change them.
const (
	prefaceMagic   = "BMIR"
	prefaceVersion = 1
	prefaceHeader  = 8

	// MaxResourceName is the longest name of a resource, in bytes.
	MaxResourceName = 255
)

// prefaceStatus is the answer to a preface.
type prefaceStatus uint8

const (
	statusOK         prefaceStatus = 0
	statusUnknown    prefaceStatus = 1 // no such resource
	statusNotWaiting prefaceStatus = 2 // it is connected, or not wanted to be
	statusIdentity   prefaceStatus = 3 // the certificate is not that of the resource's peer
	statusMalformed  prefaceStatus = 4 // this preface, or its version, is not understood
)

// err returns what the dialling side reports for a status.
func (s prefaceStatus) err() error {
	switch s {
	case statusOK:
		return nil
	case statusUnknown:
		return ErrUnknownResource
	case statusNotWaiting:
		return ErrNotWaiting
	case statusIdentity:
		return ErrCertificateRefused
	case statusMalformed:
		return fmt.Errorf("%w: the peer does not understand version %d", ErrPreface, prefaceVersion)
	}
	return fmt.Errorf("%w: status %d", ErrPreface, uint8(s))
}

// errKernelPeer explains the likeliest reason for a wrong preface.
var errKernelPeer = errors.New("it speaks plain DRBD, which names no resource: give this peer a port of its own (NewTCP)")

// checkName tells whether name may be a resource's: 1 to MaxResourceName bytes of
// UTF-8 without control characters.
func checkName(name string) error {
	if name == "" || len(name) > MaxResourceName || !utf8.ValidString(name) {
		return fmt.Errorf("transport: resource name %.40q: it must be 1 to %d bytes of UTF-8", name, MaxResourceName)
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("transport: resource name %.40q: it contains a control character", name)
		}
	}
	return nil
}

// appendPreface appends the preface for a resource whose name was checked.
func appendPreface(b []byte, name string) []byte {
	b = append(b, prefaceMagic...)
	b = append(b, prefaceVersion, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	return append(b, name...)
}

// readPreface reads a preface and returns the name. It takes not a byte more than
// the preface has, and at most prefaceHeader+MaxResourceName. Any input gives a
// name or an error.
func readPreface(r io.Reader) (string, error) {
	var b [prefaceHeader + MaxResourceName]byte
	if _, err := io.ReadFull(r, b[:prefaceHeader]); err != nil {
		return "", err
	}
	if string(b[:4]) != prefaceMagic {
		if _, err := decodeInitial(b[:initialSize]); err == nil {
			return "", fmt.Errorf("%w: %w", ErrPreface, errKernelPeer)
		}
		return "", fmt.Errorf("%w: it sent % x", ErrPreface, b[:prefaceHeader])
	}
	n := int(binary.BigEndian.Uint16(b[6:]))
	if b[4] != prefaceVersion || b[5] != 0 {
		return "", fmt.Errorf("%w: version %d, flags 0x%02x; this node knows version %d", ErrPreface, b[4], b[5], prefaceVersion)
	}
	if n == 0 || n > MaxResourceName {
		return "", fmt.Errorf("%w: a name of %d bytes", ErrPreface, n)
	}
	if _, err := io.ReadFull(r, b[prefaceHeader:prefaceHeader+n]); err != nil {
		return "", err
	}
	name := string(b[prefaceHeader : prefaceHeader+n])
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPreface, err)
	}
	return name, nil
}

// appendStatus appends the answer to a preface.
func appendStatus(b []byte, s prefaceStatus) []byte {
	b = append(b, prefaceMagic...)
	return append(b, prefaceVersion, byte(s), 0, 0)
}

// readStatus reads the answer and returns nil or what the peer refused for.
func readStatus(r io.Reader) error {
	var b [prefaceHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: the peer closed it; is a shared listener of blockmirror there?", ErrPreface)
		}
		return err
	}
	// The version is not compared: a newer peer may say here that it is one.
	if string(b[:4]) != prefaceMagic {
		return fmt.Errorf("%w: it answered % x", ErrPreface, b[:])
	}
	return prefaceStatus(b[5]).err()
}
