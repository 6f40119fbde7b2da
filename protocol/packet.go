// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "fmt"

// Body is what can be sent: something that appends the body of a packet.
//
// AppendTo appends only the body: no header, and of a packet with data neither
// digest nor data. s may decide about the form.
type Body interface {
	AppendTo(dst []byte, s *Session) []byte
}

// Packet is a Body that can also be received. Pointers to all packet types of this
// package are Packets; the types themselves are Bodies.
//
// Decode reads a whole body. It is total: any bytes give a value or an error
// (ErrLength, ErrField), and it allocates no more than a few strings. After an
// error the receiver is unchanged. Byte slices in the result alias body.
type Packet interface {
	Body
	Decode(body []byte, s *Session) error
}

// AppendPacket appends the header and the body of one packet. payload is the number
// of bytes that the caller sends after them (digest and data); it is counted in the
// header. The volume of a connection-wide packet is sent as 0, and the packets that
// come before the agreement on a version get the header form of that phase whatever
// s says. spec: wire 2.
//
// Pass p by value: then nothing is allocated as long as dst has room. (A pointer to
// a variable of the caller makes that variable escape to the heap.)
func AppendPacket[B Body](dst []byte, s *Session, cmd Command, volume uint16, p B, payload int) []byte {
	v := headerVersion(s, cmd)
	at, n := len(dst), HeaderSize(v)
	var room [MaxHeaderBytes]byte
	dst = append(dst, room[:n]...)
	dst = p.AppendTo(dst, s)
	if !cmd.PerVolume() {
		volume = 0
	}
	PutHeader(dst[at:], v, Header{Command: cmd, Volume: volume, Length: uint32(len(dst) - at - n + payload)})
	return dst
}

// AppendEmpty appends a packet without a body: P_PING, P_PING_ACK,
// P_UNPLUG_REMOTE, P_INITIAL_DATA, P_INITIAL_META.
func AppendEmpty(dst []byte, s *Session, cmd Command, volume uint16) []byte {
	return AppendPacket(dst, s, cmd, volume, Empty{}, 0)
}

func headerVersion(s *Session, cmd Command) Version {
	if r := lookup(cmd); r != nil && r.opening {
		return 0
	}
	return s.Version
}

// NewPacket returns a new zero value of the type that holds the body of c, or nil if
// there is no such packet. It serves tools and tests; a node decodes into values it
// already has.
func NewPacket(c Command) Packet {
	if r := lookup(c); r != nil {
		return r.fresh()
	}
	return nil
}

// DecodePacket decodes the body of a packet whose header passed CheckHeader into a
// new value. front is what Session.PayloadOffset counts; for packets with data the
// data itself may follow. It serves tools and tests.
//
// Errors: ErrUnknownCommand, ErrLength, ErrField.
func DecodePacket(s *Session, c Command, front []byte) (Packet, error) {
	p := NewPacket(c)
	if p == nil {
		return nil, fmt.Errorf("%w: %v", ErrUnknownCommand, c)
	}
	var err error
	if d, ok := p.(*Data); ok {
		err = d.DecodeAs(c, front, s)
	} else {
		err = p.Decode(front, s)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Empty is the body of the packets that have none.
type Empty struct{}

// AppendTo appends nothing.
func (Empty) AppendTo(dst []byte, _ *Session) []byte { return dst }

// Decode accepts only a body of no bytes. Errors: ErrLength.
func (*Empty) Decode(body []byte, _ *Session) error {
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes where none belong", ErrLength, len(body))
	}
	return nil
}

// Ignored is the body of the DRBD 9 packets Cmd9x58 and Cmd9x59, of which nothing is
// used.
type Ignored struct {
	Raw [4]byte
}

// AppendTo appends the bytes as they came.
func (p Ignored) AppendTo(dst []byte, _ *Session) []byte { return append(dst, p.Raw[:]...) }

// Decode keeps the four bytes. Errors: ErrLength.
func (p *Ignored) Decode(body []byte, _ *Session) error {
	if len(body) != len(p.Raw) {
		return lengthError(Cmd9x59, len(body), len(p.Raw))
	}
	copy(p.Raw[:], body)
	return nil
}

// alias returns b for a field of a decoded packet: nil if empty, and so that an append
// to it cannot write into what follows b.
func alias(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b[:len(b):len(b)]
}

// lengthError reports a body of got bytes where want belong.
func lengthError(c Command, got, want int) error {
	return fmt.Errorf("%w: body of %v has %d bytes, want %d", ErrLength, c, got, want)
}
