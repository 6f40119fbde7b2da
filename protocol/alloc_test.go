// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// noAllocs fails if f allocates.
func noAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	require.Zero(t, testing.AllocsPerRun(100, f), what)
}

// TestNoAllocations: sending and receiving any packet but the few with names in them
// allocates nothing.
func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 0, protocol.MaxHeaderBytes+protocol.MaxFrontBytes)
	code, digest := make([]byte, 4079), make([]byte, 32)
	n := uint64(0)
	for _, v := range []protocol.Version{86, 96, 101} {
		s := &protocol.Session{Version: v, Features: protocol.AllFeatures, PeerDigestSize: 4}
		send := func(what string, f func()) { noAllocs(t, "send "+what, func() { n++; f() }) }
		send("P_DATA", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdData, 1, protocol.Data{Sector: n, ID: 9, Seq: uint32(n), Flags: protocol.DPRWSync}, 4100)
		})
		send("P_TRIM", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdTrim, 1, protocol.Data{Sector: n, Flags: protocol.DPDiscard, Size: 512}, 0)
		})
		send("P_RS_DATA_REQUEST", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdRSDataRequest, 1, protocol.BlockRequest{Sector: n, ID: protocol.IDSyncer, Size: 4096}, 0)
		})
		send("P_OV_REPLY", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdOVReply, 1, protocol.BlockRequest{Sector: n, Size: 4096, Digest: digest}, 0)
		})
		send("P_OUT_OF_SYNC", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdOutOfSync, 1, protocol.BlockDescription{Sector: n, Size: 4096}, 0)
		})
		send("P_WRITE_ACK", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdWriteAck, 1, protocol.BlockAck{Sector: n, Size: 4096, Seq: uint32(n)}, 0)
		})
		send("P_BARRIER", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdBarrier, 0, protocol.Barrier{Number: uint32(n)}, 0)
		})
		send("P_BARRIER_ACK", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdBarrierAck, 0, protocol.BarrierAck{Number: uint32(n), SetSize: 3}, 0)
		})
		send("P_PING", func() { buf = protocol.AppendEmpty(buf[:0], s, protocol.CmdPing, 0) })
		send("P_STATE", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdState, 0, protocol.State{Role: protocol.Role(n & 1)}, 0)
		})
		send("P_STATE_CHG_REQ", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdStateChgReq, 0, protocol.StateRequest{}.WithRole(protocol.Primary), 0)
		})
		send("P_UUIDS", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdUUIDs, 0, protocol.UUIDs{Current: n}, 0)
		})
		send("P_SIZES", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdSizes, 0, protocol.Sizes{DiskSize: n}, 0)
		})
		send("P_SYNC_PARAM", func() {
			buf = protocol.AppendPacket(buf[:0], s, s.SyncParamCommand(), 0, protocol.SyncParam{Rate: uint32(n), VerifyAlg: "md5"}, 0)
		})
		send("P_PROTOCOL", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdProtocol, 0, protocol.Protocol{Replication: protocol.C, IntegrityAlg: "md5"}, 0)
		})
		send("P_COMPRESSED_BITMAP", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdCompressedBitmap, 0, protocol.CompressedBitmap{Code: code}, 0)
		})
		send("P_BITMAP", func() {
			buf = protocol.AppendPacket(buf[:0], s, protocol.CmdBitmap, 0, protocol.Bitmap{Bytes: code[:4072]}, 0)
		})
	}
}

// receiver holds one value of each type, as a reader of a stream does.
type receiver struct {
	s     *protocol.Session
	data  protocol.Data
	req   protocol.BlockRequest
	desc  protocol.BlockDescription
	ack   protocol.BlockAck
	bar   protocol.Barrier
	bara  protocol.BarrierAck
	state protocol.State
	ask   protocol.StateRequest
	reply protocol.StateReply
	uuids protocol.UUIDs
	sizes protocol.Sizes
	bm    protocol.Bitmap
	rle   protocol.CompressedBitmap
}

// receive does all a reader does with packet, whose data is not looked at.
func (r *receiver) receive(st protocol.Stream, packet []byte) (h protocol.Header, err error) {
	n := protocol.HeaderSize(r.s.Version)
	if h, err = protocol.DecodeHeader(packet[:n], r.s.Version); err != nil {
		return h, err
	}
	if err = r.s.CheckHeader(st, h); err != nil {
		return h, err
	}
	front := packet[n:min(len(packet), n+r.s.PayloadOffset(h))]
	switch h.Command {
	case protocol.CmdData, protocol.CmdTrim:
		err = r.data.DecodeAs(h.Command, front, r.s)
	case protocol.CmdRSDataRequest, protocol.CmdCsumRSRequest:
		err = r.req.Decode(front, r.s)
	case protocol.CmdOutOfSync:
		err = r.desc.Decode(front, r.s)
	case protocol.CmdWriteAck:
		err = r.ack.Decode(front, r.s)
	case protocol.CmdBarrier:
		err = r.bar.Decode(front, r.s)
	case protocol.CmdBarrierAck:
		err = r.bara.Decode(front, r.s)
	case protocol.CmdState:
		err = r.state.Decode(front, r.s)
	case protocol.CmdStateChgReq:
		err = r.ask.Decode(front, r.s)
	case protocol.CmdStateChgReply:
		err = r.reply.Decode(front, r.s)
	case protocol.CmdUUIDs:
		err = r.uuids.Decode(front, r.s)
	case protocol.CmdSizes:
		err = r.sizes.Decode(front, r.s)
	case protocol.CmdBitmap:
		err = r.bm.Decode(front, r.s)
	case protocol.CmdCompressedBitmap:
		err = r.rle.Decode(front, r.s)
	}
	return h, err
}

func TestNoAllocationsReceiving(t *testing.T) {
	type sample struct {
		c       protocol.Command
		st      protocol.Stream
		p       protocol.Packet
		payload int
	}
	const D, M = protocol.DataStream, protocol.MetaStream
	for _, v := range []protocol.Version{96, 101} {
		r := &receiver{s: &protocol.Session{Version: v, Features: protocol.AllFeatures, PeerDigestSize: 4}}
		for _, p := range []sample{
			{protocol.CmdData, D, &protocol.Data{Sector: 8}, 4100},
			{protocol.CmdTrim, D, &protocol.Data{Sector: 8, Flags: protocol.DPDiscard, Size: 512}, 0},
			{protocol.CmdRSDataRequest, D, &protocol.BlockRequest{Size: 4096}, 0},
			{protocol.CmdCsumRSRequest, D, &protocol.BlockRequest{Size: 4096, Digest: make([]byte, 20)}, 0},
			{protocol.CmdOutOfSync, D, &protocol.BlockDescription{Size: 4096}, 0},
			{protocol.CmdBarrier, D, &protocol.Barrier{}, 0},
			{protocol.CmdState, D, &protocol.State{}, 0},
			{protocol.CmdStateChgReq, D, &protocol.StateRequest{}, 0},
			{protocol.CmdUUIDs, D, &protocol.UUIDs{}, 0},
			{protocol.CmdSizes, D, &protocol.Sizes{}, 0},
			{protocol.CmdBitmap, D, &protocol.Bitmap{Bytes: make([]byte, 4080)}, 0},
			{protocol.CmdCompressedBitmap, D, &protocol.CompressedBitmap{Code: make([]byte, 4)}, 0},
			{protocol.CmdUnplugRemote, D, &protocol.Empty{}, 0},
			{protocol.CmdWriteAck, M, &protocol.BlockAck{Size: 4096}, 0},
			{protocol.CmdBarrierAck, M, &protocol.BarrierAck{}, 0},
			{protocol.CmdStateChgReply, M, &protocol.StateReply{}, 0},
			{protocol.CmdPing, M, &protocol.Empty{}, 0},
		} {
			packet := protocol.AppendPacket(nil, r.s, p.c, 0, p.p, p.payload)
			packet = append(packet, make([]byte, p.payload)...)
			_, err := r.receive(p.st, packet)
			require.NoError(t, err, "%v", p.c)
			noAllocs(t, "receive "+p.c.String(), func() { _, _ = r.receive(p.st, packet) })
		}
	}
}

func TestNoAllocationsInDigests(t *testing.T) {
	data, dst := make([]byte, 4096), make([]byte, 0, protocol.MaxDigestBytes)
	for _, name := range []string{"", "crc32c", "xxhash64", "md5", "sha1", "sha224", "sha256", "sha384", "sha512"} {
		d, err := protocol.LookupDigest(name)
		require.NoError(t, err)
		noAllocs(t, name, func() { dst = d.Sum(dst[:0], data) })
		noAllocs(t, name, func() { _ = d.Verify(data, dst) })
	}
}

func BenchmarkSendData(b *testing.B) {
	s := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	buf := make([]byte, 0, 64)
	for i := 0; b.Loop(); i++ {
		buf = protocol.AppendPacket(buf[:0], s, protocol.CmdData, 1, protocol.Data{Sector: uint64(i), ID: 9, Seq: uint32(i)}, 4096)
	}
}

func BenchmarkReceiveData(b *testing.B) {
	r := &receiver{s: &protocol.Session{Version: 101, Features: protocol.AllFeatures}}
	packet := protocol.AppendPacket(nil, r.s, protocol.CmdData, 1, protocol.Data{Sector: 8}, 4096)
	for b.Loop() {
		if _, err := r.receive(protocol.DataStream, packet); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	data, dst := make([]byte, 4096), make([]byte, 0, protocol.MaxDigestBytes)
	for _, name := range []string{"crc32c", "xxhash64", "md5", "sha1", "sha256"} {
		d, err := protocol.LookupDigest(name)
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				dst = d.Sum(dst[:0], data)
			}
		})
	}
}
