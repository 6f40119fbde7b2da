// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// gate is what the specification says of one packet (spec: wire 4, 5, 10), written
// down a second time so that a slip in the package's table is noticed.
type gate struct {
	cmd          protocol.Command
	name         string
	data, meta   bool
	connection   bool // volume means nothing
	since, until protocol.Version
	anyVersion   bool // accepted outside since..until
	needs        protocol.Features
	// good and bad are lengths at version v with features f and a digest of
	// d bytes.
	good, bad func(v protocol.Version, f protocol.Features, d int64) []int64
}

func exactly(n int64) func(protocol.Version, protocol.Features, int64) []int64 {
	return func(protocol.Version, protocol.Features, int64) []int64 { return []int64{n} }
}

func around(n int64) func(protocol.Version, protocol.Features, int64) []int64 {
	return func(protocol.Version, protocol.Features, int64) []int64 {
		bad := []int64{n + 1, n + 4, n + 512, 1 << 20, 1<<32 - 1}
		if n > 0 {
			bad = append(bad, 0, n-1)
		}
		return bad
	}
}

func fixed(cmd protocol.Command, name string, n int64) gate {
	return gate{cmd: cmd, name: name, good: exactly(n), bad: around(n)}
}

func onData(g gate) gate { g.data = true; return g }
func onMeta(g gate) gate { g.meta = true; return g }
func whole(g gate) gate  { g.connection = true; return g }

func since(v protocol.Version, g gate) gate { g.since = v; return g }

func needs(f protocol.Features, g gate) gate { g.needs = f; return g }

const mib = 1 << 20

// bulk: lengths of a packet with a digest and data behind a body of n bytes.
func bulk(cmd protocol.Command, name string, n int64) gate {
	return onData(gate{
		cmd: cmd, name: name,
		good: func(_ protocol.Version, _ protocol.Features, d int64) []int64 {
			return []int64{n + d + 512, n + d + 4096, n + d + 33*512, n + d + mib}
		},
		bad: func(_ protocol.Version, _ protocol.Features, d int64) []int64 {
			return []int64{0, n - 1, n + 1, n + d + 511, n + d + 513, n + d + mib + 1, n + d + mib + 512, 1<<32 - 1}
		},
	})
}

func parameter(cmd protocol.Command, name string) gate {
	return onData(gate{
		cmd: cmd, name: name,
		good: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			switch {
			case v <= 87:
				return []int64{4}
			case v == 88:
				return []int64{5, 12, 4 + 64}
			case v <= 94:
				return []int64{132}
			}
			return []int64{148}
		},
		bad: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			switch {
			case v <= 87:
				return []int64{0, 3, 5, 132, 148}
			case v == 88:
				return []int64{3, 4, 4 + 65, 132, 148}
			case v <= 94:
				return []int64{4, 131, 133, 148}
			}
			return []int64{4, 132, 147, 149}
		},
	})
}

func settings(cmd protocol.Command, name string) gate {
	return whole(onData(gate{
		cmd: cmd, name: name,
		good: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			if v == 86 {
				return []int64{24}
			}
			return []int64{25, 31, 24 + 64}
		},
		bad: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			if v == 86 {
				return []int64{23, 25}
			}
			return []int64{0, 23, 24, 24 + 65}
		},
	}))
}

func digested(cmd protocol.Command, name string) gate {
	return onData(gate{
		cmd: cmd, name: name,
		good: func(protocol.Version, protocol.Features, int64) []int64 { return []int64{25, 28, 32, 24 + 64} },
		bad:  func(protocol.Version, protocol.Features, int64) []int64 { return []int64{0, 23, 24, 24 + 65} },
	})
}

func between(cmd protocol.Command, name string, least, most int64) gate {
	return onData(gate{
		cmd: cmd, name: name,
		good: func(protocol.Version, protocol.Features, int64) []int64 {
			return []int64{least, (least + most) / 2, most}
		},
		bad: func(protocol.Version, protocol.Features, int64) []int64 { return []int64{most + 1, 1 << 30} },
	})
}

// gates lists every packet there is once a version is agreed.
func gates() []gate {
	return append(append(variedGates(), dataGates()...), metaGates()...)
}

// variedGates are the packets whose lengths depend on the session in a way of their own.
func variedGates() []gate {
	data := bulk(protocol.CmdData, "P_DATA", 24)
	largerThanDigest := data.good
	data.good = func(v protocol.Version, f protocol.Features, d int64) []int64 {
		return append(largerThanDigest(v, f, d), 24) // a bare flush has no digest
	}
	plain := onData(gate{
		cmd: protocol.CmdBitmap, name: "P_BITMAP",
		good: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			if v >= 100 {
				return []int64{0, 8, 136, 4080}
			}
			return []int64{0, 8, 136, 4088}
		},
		bad: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			if v >= 100 {
				return []int64{1, 12, 4079, 4081, 4088}
			}
			return []int64{1, 12, 4087, 4089, 4096}
		},
	})
	compressed := onData(gate{
		cmd: protocol.CmdCompressedBitmap, name: "P_COMPRESSED_BITMAP", since: 90,
		good: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			if v >= 100 {
				return []int64{2, 4080}
			}
			return []int64{2, 4088}
		},
		bad: func(v protocol.Version, _ protocol.Features, _ int64) []int64 {
			if v >= 100 {
				return []int64{0, 1, 4081}
			}
			return []int64{0, 1, 4089}
		},
	})
	sizes := onData(gate{
		cmd: protocol.CmdSizes, name: "P_SIZES",
		good: func(_ protocol.Version, f protocol.Features, _ int64) []int64 {
			if f&protocol.FeatureWSame != 0 {
				return []int64{56}
			}
			return []int64{32}
		},
		bad: func(_ protocol.Version, f protocol.Features, _ int64) []int64 {
			if f&protocol.FeatureWSame != 0 {
				return []int64{0, 32, 55, 57}
			}
			return []int64{0, 31, 33, 56}
		},
	})
	syncParam := parameter(protocol.CmdSyncParam, "P_SYNC_PARAM")
	syncParam.until, syncParam.anyVersion = 88, true
	probe := since(93, fixed(protocol.CmdDelayProbe, "P_DELAY_PROBE", 8))
	probe.data, probe.meta = true, true
	return []gate{
		data, plain, compressed, sizes, syncParam, probe,
	}
}

func dataGates() []gate {
	return []gate{
		bulk(protocol.CmdDataReply, "P_DATA_REPLY", 24),
		bulk(protocol.CmdRSDataReply, "P_RS_DATA_REPLY", 24),
		needs(4, bulk(protocol.CmdWSame, "P_WSAME", 28)),
		needs(1, onData(fixed(protocol.CmdTrim, "P_TRIM", 28))),
		needs(8, onData(fixed(protocol.CmdZeroes, "P_ZEROES", 28))),
		whole(onData(fixed(protocol.CmdBarrier, "P_BARRIER", 8))),
		onData(fixed(protocol.CmdUnplugRemote, "P_UNPLUG_REMOTE", 0)),
		onData(fixed(protocol.CmdDataRequest, "P_DATA_REQUEST", 24)),
		onData(fixed(protocol.CmdRSDataRequest, "P_RS_DATA_REQUEST", 24)),
		settings(protocol.CmdProtocol, "P_PROTOCOL"),
		since(100, settings(protocol.CmdProtocolUpdate, "P_PROTOCOL_UPDATE")),
		onData(fixed(protocol.CmdUUIDs, "P_UUIDS", 48)),
		onData(fixed(protocol.CmdState, "P_STATE", 4)),
		onData(fixed(protocol.CmdSyncUUID, "P_SYNC_UUID", 8)),
		whole(between(protocol.CmdAuthChallenge, "P_AUTH_CHALLENGE", 64, 128)),
		whole(between(protocol.CmdAuthResponse, "P_AUTH_RESPONSE", 16, 64)),
		onData(fixed(protocol.CmdStateChgReq, "P_STATE_CHG_REQ", 8)),
		since(88, onData(fixed(protocol.CmdOVRequest, "P_OV_REQUEST", 24))),
		since(88, digested(protocol.CmdOVReply, "P_OV_REPLY")),
		since(89, digested(protocol.CmdCsumRSRequest, "P_CSUM_RS_REQUEST")),
		since(89, parameter(protocol.CmdSyncParam89, "P_SYNC_PARAM89")),
		since(96, onData(fixed(protocol.CmdOutOfSync, "P_OUT_OF_SYNC", 16))),
		since(100, whole(onData(fixed(protocol.CmdConnStChgReq, "P_CONN_ST_CHG_REQ", 8)))),
		needs(2, onData(fixed(protocol.CmdRSThinReq, "P_RS_THIN_REQ", 24))),
		needs(2, onData(fixed(protocol.CmdRSDeallocated, "P_RS_DEALLOCATED", 16))),
		onData(fixed(protocol.Cmd9x58, "P_ENABLE_REPLICATION_NEXT", 4)),
		onData(fixed(protocol.Cmd9x59, "P_ENABLE_REPLICATION", 4)),
	}
}

func metaGates() []gate {
	return []gate{
		whole(onMeta(fixed(protocol.CmdPing, "P_PING", 0))),
		whole(onMeta(fixed(protocol.CmdPingAck, "P_PING_ACK", 0))),
		onMeta(fixed(protocol.CmdRecvAck, "P_RECV_ACK", 24)),
		onMeta(fixed(protocol.CmdWriteAck, "P_WRITE_ACK", 24)),
		onMeta(fixed(protocol.CmdRSWriteAck, "P_RS_WRITE_ACK", 24)),
		onMeta(fixed(protocol.CmdSuperseded, "P_SUPERSEDED", 24)),
		onMeta(fixed(protocol.CmdNegAck, "P_NEG_ACK", 24)),
		onMeta(fixed(protocol.CmdNegDReply, "P_NEG_DREPLY", 24)),
		onMeta(fixed(protocol.CmdNegRSDReply, "P_NEG_RS_DREPLY", 24)),
		whole(onMeta(fixed(protocol.CmdBarrierAck, "P_BARRIER_ACK", 8))),
		onMeta(fixed(protocol.CmdStateChgReply, "P_STATE_CHG_REPLY", 4)),
		since(88, onMeta(fixed(protocol.CmdOVResult, "P_OV_RESULT", 24))),
		since(89, onMeta(fixed(protocol.CmdRSIsInSync, "P_RS_IS_IN_SYNC", 24))),
		since(96, onMeta(fixed(protocol.CmdRSCancel, "P_RS_CANCEL", 24))),
		since(100, whole(onMeta(fixed(protocol.CmdConnStChgReply, "P_CONN_ST_CHG_REPLY", 4)))),
		since(100, onMeta(fixed(protocol.CmdRetryWrite, "P_RETRY_WRITE", 24))),
	}
}

// TestGates tries every packet in every version with every set of features.
func TestGates(t *testing.T) {
	for _, g := range gates() {
		require.Equal(t, g.name, g.cmd.String())
		require.Equal(t, !g.connection, g.cmd.PerVolume(), g.name)
		for v := protocol.MinVersion; v <= protocol.MaxVersion; v++ {
			for f := protocol.Features(0); f <= protocol.AllFeatures; f++ {
				for _, d := range []int{0, 20} {
					checkGate(t, g, &protocol.Session{Version: v, Features: f, PeerDigestSize: d})
				}
			}
		}
	}
}

func checkGate(t *testing.T, g gate, s *protocol.Session) {
	t.Helper()
	inRange := s.Version >= g.since && (g.until == 0 || s.Version <= g.until)
	featured := s.Features&g.needs == g.needs
	accepted := featured && (inRange || g.anyVersion)
	ignored := g.cmd == protocol.Cmd9x58 || g.cmd == protocol.Cmd9x59 || g.cmd == protocol.CmdDelayProbe
	require.Equal(t, ignored, g.cmd.Ignored())
	if want := featured && inRange && !ignored; want != s.CanSend(g.cmd) {
		t.Fatalf("CanSend(%s) is %v with %+v", g.name, !want, s)
	}
	for _, st := range []protocol.Stream{protocol.DataStream, protocol.MetaStream} {
		for _, n := range g.good(s.Version, s.Features, int64(s.PeerDigestSize)) {
			h := protocol.Header{Command: g.cmd, Volume: 5, Length: uint32(n)}
			err := s.CheckHeader(st, h)
			switch {
			case st == protocol.DataStream && !g.data, st == protocol.MetaStream && !g.meta:
				require.ErrorIs(t, err, protocol.ErrWrongStream, "%s %+v", g.name, s)
			case !accepted:
				require.ErrorIs(t, err, protocol.ErrNotNegotiated, "%s %+v", g.name, s)
				require.ErrorIs(t, err, protocol.ErrUnknownCommand, "%s %+v", g.name, s)
			case err != nil:
				t.Fatalf("%s of %d bytes with %+v: %v", g.name, n, s, err)
			default:
				checkPayloadOffset(t, s, h, st)
			}
		}
		if accepted && (st == protocol.DataStream && g.data || st == protocol.MetaStream && g.meta) {
			for _, n := range g.bad(s.Version, s.Features, int64(s.PeerDigestSize)) {
				err := s.CheckHeader(st, protocol.Header{Command: g.cmd, Length: uint32(n)})
				require.ErrorIs(t, err, protocol.ErrLength, "%s of %d bytes with %+v", g.name, n, s)
			}
		}
	}
}

func checkPayloadOffset(t *testing.T, s *protocol.Session, h protocol.Header, st protocol.Stream) {
	t.Helper()
	if int(h.Length) > protocol.MaxPacketBytes(st) {
		t.Fatalf("%v is longer than MaxPacketBytes", h)
	}
	want := int(h.Length)
	switch h.Command {
	case protocol.CmdData, protocol.CmdDataReply, protocol.CmdRSDataReply:
		if h.Length > 24 {
			want = 24 + s.PeerDigestSize
		}
	case protocol.CmdWSame:
		want = 28 + s.PeerDigestSize
	}
	got := s.PayloadOffset(h)
	if got != want || got > protocol.MaxFrontBytes {
		t.Fatalf("PayloadOffset(%v) with %+v is %d, want %d", h, s, got, want)
	}
}

// TestUnknownCommands: every number that is not a packet, on both streams.
func TestUnknownCommands(t *testing.T) {
	known := map[protocol.Command]bool{
		protocol.CmdInitialData: true, protocol.CmdInitialMeta: true, protocol.CmdConnectionFeatures: true,
	}
	for _, g := range gates() {
		known[g.cmd] = true
	}
	require.Len(t, known, 49+3)
	s := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	for c := 0; c <= 0xffff; c++ {
		cmd := protocol.Command(c)
		if known[cmd] {
			require.NotNil(t, protocol.NewPacket(cmd))
			continue
		}
		for _, st := range []protocol.Stream{protocol.DataStream, protocol.MetaStream} {
			err := s.CheckHeader(st, protocol.Header{Command: cmd})
			if err == nil || s.CanSend(cmd) || cmd.PerVolume() || protocol.NewPacket(cmd) != nil {
				t.Fatalf("%v is known", cmd)
			}
			require.ErrorIs(t, err, protocol.ErrUnknownCommand)
		}
	}
	require.Equal(t, "P_UNKNOWN(0x105)", protocol.Command(0x105).String())
	require.ErrorIs(t, s.CheckHeader(protocol.Stream(2), protocol.Header{Command: protocol.CmdPing}), protocol.ErrWrongStream)
}

// TestOpeningPackets come before the agreement, and only then.
func TestOpeningPackets(t *testing.T) {
	before, after := &protocol.Session{}, &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	for _, tt := range []struct {
		cmd    protocol.Command
		st     protocol.Stream
		length uint32
	}{
		{protocol.CmdInitialData, protocol.DataStream, 0},
		{protocol.CmdInitialMeta, protocol.MetaStream, 0},
		{protocol.CmdConnectionFeatures, protocol.DataStream, 72},
	} {
		h := protocol.Header{Command: tt.cmd, Length: tt.length}
		require.NoError(t, before.CheckHeader(tt.st, h))
		require.True(t, before.CanSend(tt.cmd))
		require.False(t, tt.cmd.PerVolume())
		require.ErrorIs(t, after.CheckHeader(tt.st, h), protocol.ErrNotNegotiated)
		require.False(t, after.CanSend(tt.cmd))
		require.ErrorIs(t, before.CheckHeader(1-tt.st, h), protocol.ErrWrongStream)
	}
	for _, g := range gates() {
		st := protocol.DataStream
		if !g.data {
			st = protocol.MetaStream
		}
		for _, n := range g.good(101, protocol.AllFeatures, 0) {
			err := before.CheckHeader(st, protocol.Header{Command: g.cmd, Length: uint32(n)})
			require.ErrorIs(t, err, protocol.ErrNotNegotiated, g.name)
		}
		require.False(t, before.CanSend(g.cmd), g.name)
	}
}

func TestLengthErrorsOfAuthentication(t *testing.T) {
	s := &protocol.Session{Version: 101}
	err := s.CheckHeader(protocol.DataStream, protocol.Header{Command: protocol.CmdAuthChallenge, Length: 129})
	require.ErrorIs(t, err, protocol.ErrChallenge)
	require.ErrorIs(t, err, protocol.ErrLength)
	err = s.CheckHeader(protocol.DataStream, protocol.Header{Command: protocol.CmdAuthResponse, Length: 65})
	require.ErrorIs(t, err, protocol.ErrResponseLength)
	// A challenge that is too short passes, and fails where it is decoded.
	h := protocol.Header{Command: protocol.CmdAuthChallenge, Length: 63}
	require.NoError(t, s.CheckHeader(protocol.DataStream, h))
	require.ErrorIs(t, new(protocol.AuthChallenge).Decode(make([]byte, 63), s), protocol.ErrChallenge)
}

func TestSyncParamCommand(t *testing.T) {
	for v := protocol.MinVersion; v <= protocol.MaxVersion; v++ {
		want := protocol.CmdSyncParam89
		if v <= 88 {
			want = protocol.CmdSyncParam
		}
		require.Equal(t, want, (&protocol.Session{Version: v}).SyncParamCommand())
	}
}

// TestSizeLimits: spec: wire 9.3 and 6.
func TestSizeLimits(t *testing.T) {
	for v := protocol.MinVersion; v <= protocol.MaxVersion; v++ {
		want, chunk, code := uint32(32<<10), 4088, 4087
		if v >= 95 {
			want = 128 << 10
		}
		if v >= 100 {
			want, chunk, code = 1<<20, 4080, 4079
		}
		require.Equal(t, want, protocol.MaxDataBytes(v))
		require.Equal(t, chunk, protocol.BitmapChunkBytes(v))
		require.Equal(t, code, protocol.MaxBitmapCodeBytes(v))
	}
	require.Equal(t, uint32(4<<20), protocol.MaxDiscardBytes(^protocol.FeatureWSame))
	require.Equal(t, uint32(128<<20), protocol.MaxDiscardBytes(protocol.FeatureWSame))
}

func TestUsableFlags(t *testing.T) {
	all := protocol.DataFlags(0x7ff)
	require.Equal(t, protocol.DPRWSync|protocol.DPMaySetInSync, all.Usable(94))
	require.Equal(t, all&^(protocol.DPSendReceiveAck|protocol.DPSendWriteAck), all.Usable(99))
	require.Equal(t, all, all.Usable(100))
	require.Equal(t, "HARDBARRIER|RW_SYNC|MAY_SET_IN_SYNC|UNPLUG|FUA|FLUSH|DISCARD|SEND_RECEIVE_ACK|SEND_WRITE_ACK|WSAME|ZEROES", all.String())
}
