// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Every decoder is fuzzed: whatever comes, it gives a value or one of the sentinel
// errors. A value must survive being sent: encoded and decoded again it is the same.

// fuzzSession makes a session out of three bytes.
func fuzzSession(version, features, digest byte) *protocol.Session {
	return &protocol.Session{
		Version:        protocol.MinVersion + protocol.Version(version%16),
		Features:       protocol.Features(features & 15),
		PeerDigestSize: []int{0, 4, 8, 16, 20, 28, 32, 48, 64}[digest%9],
	}
}

// survive decodes body as c and, if it is one, sends it round.
func survive(t *testing.T, s *protocol.Session, c protocol.Command, body []byte) {
	t.Helper()
	original := bytes.Clone(body)
	p, err := protocol.DecodePacket(s, c, body)
	require.Equal(t, original, body, "the decoder wrote into its input")
	if err != nil {
		requireSentinel(t, err)
		return
	}
	if sizes, ok := p.(*protocol.Sizes); ok { // the sender lowers it
		sizes.MaxBioBytes = min(sizes.MaxBioBytes, protocol.MaxDataBytes(s.Version))
	}
	sent := p.AppendTo(nil, s)
	again, err := protocol.DecodePacket(s, c, sent)
	require.NoError(t, err, "%v %x", c, sent)
	if !reflect.DeepEqual(p, again) {
		t.Fatalf("%v: %+v became %+v", c, p, again)
	}
}

func requireSentinel(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{
		protocol.ErrLength, protocol.ErrField, protocol.ErrChallenge, protocol.ErrResponseLength, protocol.ErrUnknownCommand,
	} {
		if errors.Is(err, known) {
			return
		}
	}
	t.Fatalf("not a sentinel: %v", err)
}

// seed gives a fuzz target one valid body of each command.
func seed(f *testing.F, commands ...protocol.Command) {
	samples := map[protocol.Command]protocol.Body{
		protocol.CmdData:       protocol.Data{Sector: 8, ID: 1, Seq: 2, Flags: protocol.DPRWSync},
		protocol.CmdTrim:       protocol.Data{Sector: 8, Flags: protocol.DPDiscard, Size: 4096},
		protocol.CmdZeroes:     protocol.Data{Sector: 8, Flags: protocol.DPZeroes | protocol.DPDiscard, Size: 4096},
		protocol.CmdWSame:      protocol.Data{Sector: 8, Flags: protocol.DPWSame, Size: 4096},
		protocol.CmdOVReply:    protocol.BlockRequest{Sector: 8, ID: protocol.IDSyncer, Size: 4096, Digest: []byte{1, 2, 3, 4}},
		protocol.CmdOVRequest:  protocol.BlockRequest{Sector: 8, ID: protocol.IDSyncer, Size: 4096},
		protocol.CmdOutOfSync:  protocol.BlockDescription{Sector: 8, Size: 4096},
		protocol.CmdWriteAck:   protocol.BlockAck{Sector: 8, ID: 1, Size: 4096, Seq: 2},
		protocol.CmdBarrier:    protocol.Barrier{Number: 1},
		protocol.CmdBarrierAck: protocol.BarrierAck{Number: 1, SetSize: 2},
		protocol.CmdState:      protocol.StateFromWord(0x0110a9),
		protocol.CmdStateChgReq: protocol.StateRequest{}.WithConn(protocol.Disconnecting).
			WithPeerDisk(protocol.Outdated),
		protocol.CmdStateChgReply:      protocol.StateReply{Code: protocol.CodeRefusedByPeer},
		protocol.CmdUUIDs:              protocol.UUIDs{Current: 4, Flags: protocol.UUIDSkipInitialSync},
		protocol.CmdSyncUUID:           protocol.SyncUUID{UUID: 5},
		protocol.CmdSizes:              protocol.Sizes{DiskSize: 8368, CurrentSize: 8368, MaxBioBytes: 1 << 20},
		protocol.CmdProtocol:           protocol.Protocol{Replication: protocol.C, IntegrityAlg: "crc32c"},
		protocol.CmdSyncParam89:        protocol.SyncParam{Rate: 250, VerifyAlg: "md5", CsumsAlg: "sha1", MaxRate: 102400},
		protocol.CmdBitmap:             protocol.Bitmap{Bytes: make([]byte, 136)},
		protocol.CmdCompressedBitmap:   protocol.CompressedBitmap{StartsSet: true, PadBits: 3, Code: []byte{0x3f, 0xe5, 0x0e}},
		protocol.CmdConnectionFeatures: protocol.DefaultConnectionFeatures(),
		protocol.CmdAuthChallenge:      protocol.AuthChallenge{Challenge: make([]byte, 64)},
		protocol.CmdAuthResponse:       protocol.AuthResponse{Response: make([]byte, 20)},
		protocol.CmdDelayProbe:         protocol.DelayProbe{Sequence: 1},
	}
	for i, c := range commands {
		for _, version := range []byte{0, 2, 9, 15} {
			s := fuzzSession(version, 15, version)
			if p, ok := samples[c]; ok {
				f.Add(byte(i), version, byte(15), version, p.AppendTo(nil, s))
			} else {
				f.Add(byte(i), version, byte(0), version, []byte(nil))
			}
		}
	}
}

// fuzzFamily fuzzes the decoders of some commands.
func fuzzFamily(f *testing.F, commands ...protocol.Command) {
	seed(f, commands...)
	f.Fuzz(func(t *testing.T, which, version, features, digest byte, body []byte) {
		survive(t, fuzzSession(version, features, digest), commands[int(which)%len(commands)], body)
	})
}

func FuzzData(f *testing.F) {
	fuzzFamily(f, protocol.CmdData, protocol.CmdDataReply, protocol.CmdRSDataReply,
		protocol.CmdTrim, protocol.CmdZeroes, protocol.CmdWSame)
}

func FuzzBlocks(f *testing.F) {
	fuzzFamily(f, protocol.CmdDataRequest, protocol.CmdRSDataRequest, protocol.CmdRSThinReq, protocol.CmdOVRequest,
		protocol.CmdOVReply, protocol.CmdCsumRSRequest, protocol.CmdOutOfSync, protocol.CmdRSDeallocated)
}

func FuzzAcks(f *testing.F) {
	fuzzFamily(f, protocol.CmdWriteAck, protocol.CmdOVResult, protocol.CmdBarrier, protocol.CmdBarrierAck,
		protocol.CmdDelayProbe, protocol.CmdPing, protocol.Cmd9x59)
}

func FuzzState(f *testing.F) {
	fuzzFamily(f, protocol.CmdState, protocol.CmdStateChgReq, protocol.CmdConnStChgReq,
		protocol.CmdStateChgReply, protocol.CmdConnStChgReply)
}

func FuzzParameters(f *testing.F) {
	fuzzFamily(f, protocol.CmdProtocol, protocol.CmdProtocolUpdate, protocol.CmdSyncParam, protocol.CmdSyncParam89,
		protocol.CmdSizes, protocol.CmdUUIDs, protocol.CmdSyncUUID)
}

func FuzzBitmap(f *testing.F) {
	fuzzFamily(f, protocol.CmdBitmap, protocol.CmdCompressedBitmap)
}

func FuzzHandshake(f *testing.F) {
	commands := []protocol.Command{protocol.CmdConnectionFeatures, protocol.CmdAuthChallenge, protocol.CmdAuthResponse}
	seed(f, commands...)
	own := protocol.DefaultConnectionFeatures()
	f.Fuzz(func(t *testing.T, which, version, features, digest byte, body []byte) {
		s := fuzzSession(version, features, digest)
		survive(t, s, commands[int(which)%len(commands)], body)
		var peer protocol.ConnectionFeatures
		if peer.Decode(body, s) == nil {
			v, agreed, err := protocol.Negotiate(own, peer)
			if err == nil && (v < protocol.MinVersion || v > protocol.MaxVersion || agreed&^protocol.AllFeatures != 0) {
				t.Fatalf("agreed on %d with %v", v, agreed)
			}
		}
		if len(body) >= 8 {
			if st, err := protocol.DecodeInitial(body[:8]); err == nil {
				again, err := protocol.DecodeInitial(protocol.AppendInitial(nil, st))
				require.NoError(t, err)
				require.Equal(t, st, again)
			}
		}
		_ = protocol.CheckChallenge(make([]byte, 64), body)
		_ = protocol.VerifyResponse("sha256", []byte("secret"), make([]byte, 64), body)
	})
}

func FuzzHeader(f *testing.F) {
	for _, h := range []string{
		"83740267fff20000", "83740267fffe0048", "835a000000020018", "8620ec20000000130000000000000000",
		"8620ec20000700000010101800000000", "8620ec200000000e0000000400000001",
	} {
		src, err := hex.DecodeString(h)
		require.NoError(f, err)
		for _, version := range []byte{0, 9, 15} {
			f.Add(version, byte(15), byte(1), src)
		}
	}
	f.Fuzz(func(t *testing.T, version, features, digest byte, src []byte) {
		s := fuzzSession(version, features, digest)
		h, err := protocol.DecodeHeader(src, s.Version)
		if err != nil {
			return
		}
		again, err := protocol.DecodeHeader(protocol.AppendHeader(nil, s.Version, h), s.Version)
		require.NoError(t, err)
		require.Equal(t, h, again)
		for _, st := range []protocol.Stream{protocol.DataStream, protocol.MetaStream} {
			offset := s.PayloadOffset(h)
			if uint32(offset) > h.Length {
				t.Fatalf("PayloadOffset %d of %+v", offset, h)
			}
			if s.CheckHeader(st, h) != nil {
				continue
			}
			if int(h.Length) > protocol.MaxPacketBytes(st) || offset > protocol.MaxFrontBytes {
				t.Fatalf("%+v passed on %v", h, st)
			}
		}
	})
}

// FuzzStream reads a stream as a node does, packet after packet.
func FuzzStream(f *testing.F) {
	for _, path := range captures(f)[1:4] {
		for _, c := range readCapture(f, path+".pcap.gz") {
			b := c.sent[c.accepter]
			if len(b) > 80 {
				f.Add(byte(15), byte(15), byte(0), c.number%2 == 0, b[80:min(len(b), 1200)])
				f.Add(byte(15), byte(15), byte(0), c.number%2 == 0, b[:min(len(b), 400)])
			}
		}
	}
	f.Fuzz(func(t *testing.T, version, features, digest byte, meta bool, rest []byte) {
		s := fuzzSession(version, features, digest)
		st := protocol.DataStream
		if meta {
			st = protocol.MetaStream
		}
		n := protocol.HeaderSize(s.Version)
		for len(rest) >= n {
			h, err := protocol.DecodeHeader(rest[:n], s.Version)
			if err != nil || s.CheckHeader(st, h) != nil {
				return
			}
			rest = rest[n:]
			offset := s.PayloadOffset(h)
			if len(rest) < int(h.Length) {
				return
			}
			survive(t, s, h.Command, rest[:offset])
			if d := s.DigestIn(h, rest[:offset]); len(d) != 0 && len(d) != s.PeerDigestSize {
				t.Fatalf("digest of %d bytes", len(d))
			}
			rest = rest[h.Length:]
		}
	})
}
