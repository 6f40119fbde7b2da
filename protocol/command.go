// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

// Command is the packet type in a header. spec: wire 4 and 5.
type Command uint16

// The commands of DRBD 8.4, by number. The DRBD name stands in the comment
// where it is not the obvious one; Command.String returns it.
const (
	CmdData             Command = 0x00
	CmdDataReply        Command = 0x01
	CmdRSDataReply      Command = 0x02
	CmdBarrier          Command = 0x03
	CmdBitmap           Command = 0x04
	CmdUnplugRemote     Command = 0x07
	CmdDataRequest      Command = 0x08
	CmdRSDataRequest    Command = 0x09
	CmdSyncParam        Command = 0x0a
	CmdProtocol         Command = 0x0b
	CmdUUIDs            Command = 0x0c
	CmdSizes            Command = 0x0d
	CmdState            Command = 0x0e
	CmdSyncUUID         Command = 0x0f
	CmdAuthChallenge    Command = 0x10
	CmdAuthResponse     Command = 0x11
	CmdStateChgReq      Command = 0x12 // P_STATE_CHG_REQ
	CmdPing             Command = 0x13
	CmdPingAck          Command = 0x14
	CmdRecvAck          Command = 0x15
	CmdWriteAck         Command = 0x16
	CmdRSWriteAck       Command = 0x17
	CmdSuperseded       Command = 0x18
	CmdNegAck           Command = 0x19
	CmdNegDReply        Command = 0x1a // P_NEG_DREPLY: a read failed
	CmdNegRSDReply      Command = 0x1b // P_NEG_RS_DREPLY: a resync or verify read failed
	CmdBarrierAck       Command = 0x1c
	CmdStateChgReply    Command = 0x1d
	CmdOVRequest        Command = 0x1e // OV: online verify
	CmdOVReply          Command = 0x1f
	CmdOVResult         Command = 0x20
	CmdCsumRSRequest    Command = 0x21
	CmdRSIsInSync       Command = 0x22
	CmdSyncParam89      Command = 0x23
	CmdCompressedBitmap Command = 0x24
	CmdDelayProbe       Command = 0x27
	CmdOutOfSync        Command = 0x28
	CmdRSCancel         Command = 0x29
	CmdConnStChgReq     Command = 0x2a
	CmdConnStChgReply   Command = 0x2b
	CmdRetryWrite       Command = 0x2c
	CmdProtocolUpdate   Command = 0x2d
	CmdTrim             Command = 0x31
	CmdRSThinReq        Command = 0x32
	CmdRSDeallocated    Command = 0x33
	CmdWSame            Command = 0x34
	CmdZeroes           Command = 0x36

	// Cmd9x58 and Cmd9x59 are packets of DRBD 9 (ENABLE_REPLICATION_NEXT and
	// ENABLE_REPLICATION) which some of its releases send on the data stream
	// to a peer of any version without having agreed on them. They are read
	// and ignored. spec: drbd9 24.
	Cmd9x58 Command = 0x58
	Cmd9x59 Command = 0x59

	CmdInitialMeta        Command = 0xfff1
	CmdInitialData        Command = 0xfff2
	CmdConnectionFeatures Command = 0xfffe
)

// String returns DRBD's name of the command, for example "P_DATA", or
// "P_UNKNOWN(0x60)" for a number that is not one of the constants.
func (c Command) String() string {
	if r := lookup(c); r != nil {
		return r.name
	}
	return "P_UNKNOWN(" + hex(uint64(c)) + ")"
}

// PerVolume reports whether the volume number in the header of c means
// something. For the packets that concern a whole connection it is sent as 0
// and to be ignored on receipt. spec: wire 2.
func (c Command) PerVolume() bool {
	r := lookup(c)
	return r != nil && r.scope == volume
}

// Ignored reports whether a packet of command c is read and then dropped:
// P_DELAY_PROBE and the two DRBD 9 packets.
func (c Command) Ignored() bool {
	r := lookup(c)
	return r != nil && r.ignored
}

// Stream names one of the two TCP connections of a DRBD connection.
type Stream uint8

// The two streams. spec: wire 1.1.
const (
	// DataStream carries the handshake, writes, reads, resync and bitmaps.
	DataStream Stream = iota
	// MetaStream carries acknowledgements, pings and replies to state requests.
	MetaStream
)

// String returns "data" or "meta".
func (st Stream) String() string {
	switch st {
	case DataStream:
		return "data"
	case MetaStream:
		return "meta"
	}
	return "stream(" + hex(uint64(st)) + ")"
}

// hex formats v as "0x" and lower-case digits without leading zeros.
func hex(v uint64) string {
	const digits = "0123456789abcdef"
	var b [18]byte
	i := len(b)
	for {
		i--
		b[i] = digits[v&15]
		v >>= 4
		if v == 0 {
			break
		}
	}
	i -= 2
	b[i], b[i+1] = '0', 'x'
	return string(b[i:])
}
