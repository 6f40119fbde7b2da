// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// sessionFor draws what two nodes may have agreed on that use the packet of g.
func sessionFor(t *rapid.T, g gate) *protocol.Session {
	lowest, highest := max(86, int(g.since)), 101
	if g.until != 0 && !g.anyVersion {
		highest = int(g.until)
	}
	return &protocol.Session{
		Version:        protocol.Version(rapid.IntRange(lowest, highest).Draw(t, "version")),
		Features:       protocol.Features(rapid.IntRange(0, 15).Draw(t, "features")) | g.needs,
		PeerDigestSize: rapid.SampledFrom([]int{0, 4, 8, 16, 20, 64}).Draw(t, "digest"),
	}
}

// draw makes a random packet of command c as its sender may form it, and the number
// of bytes that follow it.
func draw(t *rapid.T, s *protocol.Session, c protocol.Command) (protocol.Packet, int) {
	sector := func() uint64 { return rapid.Uint64Range(0, 1<<53).Draw(t, "sector") }
	blocks := func(most int) uint32 { return uint32(rapid.IntRange(1, most/512).Draw(t, "sectors")) * 512 }
	id := protocol.BlockID(rapid.Uint64().Draw(t, "id"))
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	u64 := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	switch p := protocol.NewPacket(c).(type) {
	case *protocol.Data:
		return drawData(t, s, c, protocol.Data{Sector: sector(), ID: id, Seq: u32("seq")})
	case *protocol.BlockRequest:
		*p = protocol.BlockRequest{Sector: sector(), ID: id, Size: blocks(protocol.MaxBlockBytes)}
		if c == protocol.CmdOVReply || c == protocol.CmdCsumRSRequest {
			p.Digest = rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "digest")
		}
		return p, 0
	case *protocol.BlockAck:
		*p = protocol.BlockAck{Sector: sector(), ID: id, Size: blocks(128<<20) - 512, Seq: u32("seq")}
		return p, 0
	case *protocol.BlockDescription:
		*p = protocol.BlockDescription{Sector: sector(), Size: blocks(128 << 20)}
		return p, 0
	case *protocol.Barrier:
		p.Number = u32("number")
		return p, 0
	case *protocol.BarrierAck:
		*p = protocol.BarrierAck{Number: u32("number"), SetSize: u32("size")}
		return p, 0
	case *protocol.DelayProbe:
		*p = protocol.DelayProbe{Sequence: u32("sequence"), OffsetMicros: u32("offset")}
		return p, 0
	case *protocol.UUIDs:
		*p = protocol.UUIDs{
			Current: u64("current"), Bitmap: u64("bitmap"), History: [2]uint64{u64("h0"), u64("h1")},
			BitmapBits: u64("bits"), Flags: protocol.UUIDFlags(u64("flags")),
		}
		return p, 0
	case *protocol.SyncUUID:
		p.UUID = u64("uuid")
		return p, 0
	case *protocol.StateReply:
		p.Code = protocol.Code(int32(u32("code")))
		return p, 0
	case *protocol.Ignored:
		copy(p.Raw[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "raw"))
		return p, 0
	case *protocol.Empty:
		return p, 0
	default:
		return drawParameters(t, s, p), 0
	}
}

// drawData completes d for command c. In packets with data the digest and the data are
// the bytes that follow.
func drawData(t *rapid.T, s *protocol.Session, c protocol.Command, d protocol.Data) (protocol.Packet, int) {
	const ranged = protocol.DPDiscard | protocol.DPZeroes | protocol.DPWSame
	d.Flags = protocol.DataFlags(rapid.Uint32Range(0, 0x7ff).Draw(t, "flags")) &^ ranged
	if s.Features.Has(protocol.FeatureWSame) {
		d.Size = uint32(rapid.IntRange(1, 128<<11).Draw(t, "range")) * 512
	} else {
		d.Size = uint32(rapid.IntRange(1, 4<<11).Draw(t, "range")) * 512
	}
	payload := 0
	switch c {
	case protocol.CmdTrim:
		d.Flags |= protocol.DPDiscard
	case protocol.CmdZeroes:
		d.Flags |= protocol.DPZeroes
	case protocol.CmdWSame:
		d.Flags |= protocol.DPWSame
		payload = s.PeerDigestSize + 512
	default:
		d.Size = 0
		payload = s.PeerDigestSize + 512*rapid.IntRange(1, 2048).Draw(t, "data")
	}
	return &d, payload
}

func drawParameters(t *rapid.T, s *protocol.Session, p protocol.Packet) protocol.Packet {
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	name := func(what string) string { return rapid.StringMatching(`[a-z0-9-]{0,63}`).Draw(t, what) }
	state := func(what string) protocol.State {
		w := protocol.StateFromWord(rapid.Uint32Range(0, 1<<23-1).Draw(t, what))
		w.Role, w.Peer, w.Conn, w.Disk, w.PeerDisk = w.Role%3, w.Peer%3, w.Conn%24, w.Disk%9, w.PeerDisk%9
		return w
	}
	switch p := p.(type) {
	case *protocol.State:
		*p = state("state")
	case *protocol.StateRequest:
		all := func(what string) uint8 { return uint8(0) - uint8(rapid.IntRange(0, 1).Draw(t, what)) }
		p.Value, p.Mask = state("value"), state("mask")
		p.Mask.Role, p.Mask.Peer = protocol.Role(all("role"))&3, protocol.Role(all("peer"))&3
		p.Mask.Conn = protocol.ConnState(all("conn")) & 31
		p.Mask.Disk, p.Mask.PeerDisk = protocol.DiskState(all("disk"))&15, protocol.DiskState(all("pdsk"))&15
	case *protocol.Protocol:
		*p = protocol.Protocol{
			Replication: protocol.ReplicationProtocol(u32("protocol")),
			AfterSB0:    protocol.Policy(u32("0pri")), AfterSB1: protocol.Policy(u32("1pri")), AfterSB2: protocol.Policy(u32("2pri")),
			Flags: protocol.ProtocolFlags(u32("flags")), TwoPrimaries: rapid.Bool().Draw(t, "two"),
		}
		if s.Version >= 87 {
			p.IntegrityAlg = name("integrity")
		}
	case *protocol.SyncParam:
		p.Rate = u32("rate")
		if s.Version >= 88 {
			p.VerifyAlg = name("verify")
		}
		if s.Version >= 89 {
			p.CsumsAlg = name("csums")
		}
		if s.Version >= 95 {
			p.PlanAhead, p.DelayTarget, p.FillTarget, p.MaxRate = u32("plan"), u32("delay"), u32("fill"), u32("max")
		}
	case *protocol.Sizes:
		sectors := func(what string) uint64 { return rapid.Uint64Range(0, 1<<54).Draw(t, what) }
		*p = protocol.Sizes{
			DiskSize: sectors("d"), UserSize: sectors("u"), CurrentSize: sectors("c"),
			MaxBioBytes: rapid.Uint32Range(0, protocol.MaxDataBytes(s.Version)).Draw(t, "bio"),
			QueueOrder:  rapid.Uint16().Draw(t, "order"), Flags: protocol.SizesFlags(rapid.Uint16().Draw(t, "flags")),
		}
		if s.Features.Has(protocol.FeatureWSame) {
			p.Queue = protocol.QueueLimits{
				PhysicalBlock: u32("phys"), LogicalBlock: u32("log"), AlignmentOffset: u32("align"), MinIO: u32("min"),
				OptimalIO: u32("opt"), Discard: rapid.Bool().Draw(t, "discard"),
				DiscardZeroes: rapid.Bool().Draw(t, "zeroes"), WriteSame: rapid.Bool().Draw(t, "wsame"),
			}
		}
	default:
		return drawBytes(t, s, p)
	}
	return p
}

func drawBytes(t *rapid.T, s *protocol.Session, p protocol.Packet) protocol.Packet {
	switch p := p.(type) {
	case *protocol.Bitmap:
		n := 8 * rapid.IntRange(0, protocol.BitmapChunkBytes(s.Version)/8).Draw(t, "words")
		if n > 0 { // nil ends a transfer
			p.Bytes = bytes.Repeat([]byte{rapid.Byte().Draw(t, "bits")}, n)
		}
	case *protocol.CompressedBitmap:
		n := rapid.IntRange(1, protocol.MaxBitmapCodeBytes(s.Version)).Draw(t, "bytes")
		*p = protocol.CompressedBitmap{
			StartsSet: rapid.Bool().Draw(t, "set"), PadBits: uint8(rapid.IntRange(0, 7).Draw(t, "pad")),
			Code: bytes.Repeat([]byte{rapid.Byte().Draw(t, "code")}, n),
		}
	case *protocol.AuthChallenge:
		p.Challenge = rapid.SliceOfN(rapid.Byte(), 64, 128).Draw(t, "challenge")
	case *protocol.AuthResponse:
		p.Response = rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "response")
	case *protocol.ConnectionFeatures:
		*p = protocol.ConnectionFeatures{
			Min: protocol.Version(rapid.Uint16().Draw(t, "min")), Max: protocol.Version(rapid.Uint16().Draw(t, "max")),
			Features:   protocol.Features(rapid.Uint32().Draw(t, "features")),
			SenderNode: rapid.Uint32().Draw(t, "sender"), ReceiverNode: rapid.Uint32().Draw(t, "receiver"),
		}
	default:
		t.Fatalf("no generator for %T", p)
	}
	return p
}

// TestIdentity: what AppendPacket makes of any packet that may be sent is accepted by
// the receiver's steps and gives the same packet.
func TestIdentity(t *testing.T) {
	for _, g := range gates() {
		st := protocol.DataStream
		if !g.data {
			st = protocol.MetaStream
		}
		t.Run(g.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { identity(t, sessionFor(t, g), st, g.cmd) })
		})
	}
	for c, st := range map[protocol.Command]protocol.Stream{
		protocol.CmdConnectionFeatures: protocol.DataStream,
		protocol.CmdInitialData:        protocol.DataStream,
		protocol.CmdInitialMeta:        protocol.MetaStream,
	} {
		t.Run(c.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { identity(t, &protocol.Session{}, st, c) })
		})
	}
}

func identity(t *rapid.T, s *protocol.Session, st protocol.Stream, c protocol.Command) {
	p, payload := draw(t, s, c)
	volume := rapid.Uint16().Draw(t, "volume")
	b := protocol.AppendPacket(nil, s, c, volume, p, payload)
	if s.Version < 100 || !c.PerVolume() {
		volume = 0
	}
	n := protocol.HeaderSize(s.Version)
	h, err := protocol.DecodeHeader(b[:n], s.Version)
	require.NoError(t, err)
	require.Equal(t, protocol.Header{Command: c, Volume: volume, Length: uint32(len(b) - n + payload)}, h)
	require.NoError(t, s.CheckHeader(st, h))
	require.Equal(t, payload > 0, s.PayloadOffset(h) < int(h.Length))

	body := b[n:]
	got, err := protocol.DecodePacket(s, c, body)
	require.NoError(t, err)
	require.Equal(t, p, got)
	again := protocol.NewPacket(c)
	require.NoError(t, again.Decode(body, s), "flags tell the command")
	require.Equal(t, p, again)
	if payload > 0 {
		return
	}
	// A body that is torn or too long is never taken.
	_, err = protocol.DecodePacket(s, c, append(bytes.Clone(body), make([]byte, 4097)...))
	require.Error(t, err)
	if len(body) > 0 && !variable(c) {
		_, err = protocol.DecodePacket(s, c, body[:len(body)-1])
		require.ErrorIs(t, err, protocol.ErrLength)
	}
}

// variable reports whether a shorter body of c is a body too.
func variable(c protocol.Command) bool {
	switch c {
	case protocol.CmdAuthChallenge, protocol.CmdAuthResponse, protocol.CmdCompressedBitmap:
		return true
	case protocol.CmdProtocol, protocol.CmdProtocolUpdate, protocol.CmdSyncParam:
		return true // without its final zero it fails otherwise
	case protocol.CmdOVReply, protocol.CmdCsumRSRequest:
		return true
	}
	return false
}
