// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestFieldRanges: bodies of the right length that a decoder must refuse, or not.
func TestFieldRanges(t *testing.T) {
	const far = 1 << 54
	wide := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	narrow := &protocol.Session{Version: 101, Features: protocol.FeatureTrim}
	for _, tt := range []struct {
		name string
		s    *protocol.Session
		c    protocol.Command
		p    protocol.Body
		want error
	}{
		{"last sector", wide, protocol.CmdData, protocol.Data{Sector: far - 2048}, nil},
		{"data beyond 8 EiB", wide, protocol.CmdData, protocol.Data{Sector: far - 2047}, protocol.ErrField},
		{"all ones", wide, protocol.CmdData, protocol.Data{Sector: 1<<64 - 1}, protocol.ErrField},
		{"unknown flag", wide, protocol.CmdData, protocol.Data{Flags: 1 << 30}, nil},
		{"range flag in P_DATA", wide, protocol.CmdData, protocol.Data{Flags: protocol.DPDiscard, Size: 512}, protocol.ErrField},
		{"range flag in a reply", wide, protocol.CmdRSDataReply, protocol.Data{Flags: protocol.DPZeroes, Size: 512}, protocol.ErrField},
		{"trim of nothing", wide, protocol.CmdTrim, protocol.Data{Flags: protocol.DPDiscard}, protocol.ErrField},
		{"trim of half a sector", wide, protocol.CmdTrim, protocol.Data{Flags: protocol.DPDiscard, Size: 256}, protocol.ErrField},
		{"trim of 128 MiB", wide, protocol.CmdTrim, protocol.Data{Flags: protocol.DPDiscard, Size: 128 << 20}, nil},
		{"trim of more", wide, protocol.CmdTrim, protocol.Data{Flags: protocol.DPDiscard, Size: 128<<20 + 512}, protocol.ErrField},
		{"trim of 4 MiB", narrow, protocol.CmdTrim, protocol.Data{Flags: protocol.DPDiscard, Size: 4 << 20}, nil},
		{"trim of more, without WSAME", narrow, protocol.CmdTrim, protocol.Data{Flags: protocol.DPDiscard, Size: 4<<20 + 512}, protocol.ErrField},
		{"request for 1 MiB", wide, protocol.CmdDataRequest, protocol.BlockRequest{Size: 1 << 20}, nil},
		{"request for more", wide, protocol.CmdDataRequest, protocol.BlockRequest{Size: 1<<20 + 512}, protocol.ErrField},
		{"request for nothing", wide, protocol.CmdDataRequest, protocol.BlockRequest{}, protocol.ErrField},
		{"request for half a sector", wide, protocol.CmdRSDataRequest, protocol.BlockRequest{Size: 4097}, protocol.ErrField},
		{"request far away", wide, protocol.CmdOVRequest, protocol.BlockRequest{Sector: far, Size: 512}, protocol.ErrField},
		{"ack of a flush", wide, protocol.CmdWriteAck, protocol.BlockAck{}, nil},
		{"ack of half a sector", wide, protocol.CmdWriteAck, protocol.BlockAck{Size: 1}, protocol.ErrField},
		{"ack far away", wide, protocol.CmdWriteAck, protocol.BlockAck{Sector: far}, protocol.ErrField},
		{"nothing out of sync", wide, protocol.CmdOutOfSync, protocol.BlockDescription{}, protocol.ErrField},
		{"much out of sync", wide, protocol.CmdOutOfSync, protocol.BlockDescription{Size: 1<<32 - 512}, nil},
		{"8 EiB disk", wide, protocol.CmdSizes, protocol.Sizes{DiskSize: far}, nil},
		{"larger disk", wide, protocol.CmdSizes, protocol.Sizes{DiskSize: far + 1}, protocol.ErrField},
		{"larger user size", wide, protocol.CmdSizes, protocol.Sizes{UserSize: 1 << 63}, protocol.ErrField},
		{"larger current size", wide, protocol.CmdSizes, protocol.Sizes{CurrentSize: 1 << 63}, protocol.ErrField},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := tt.p.AppendTo(nil, tt.s)
			_, err := protocol.DecodePacket(tt.s, tt.c, body)
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// TestRangeFlagIsImplied: a peer that forgot the flag of its command is understood, and
// the command decides between packets of the same size.
func TestRangeFlagIsImplied(t *testing.T) {
	s := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	body := protocol.Data{Sector: 8, Flags: protocol.DPDiscard | protocol.DPFUA, Size: 4096}.AppendTo(nil, s)
	binary.BigEndian.PutUint32(body[20:], uint32(protocol.DPFUA))
	for c, flag := range map[protocol.Command]protocol.DataFlags{
		protocol.CmdTrim: protocol.DPDiscard, protocol.CmdZeroes: protocol.DPZeroes, protocol.CmdWSame: protocol.DPWSame,
	} {
		var d protocol.Data
		require.NoError(t, d.DecodeAs(c, body, s))
		require.Equal(t, protocol.Data{Sector: 8, Flags: flag | protocol.DPFUA, Size: 4096}, d)
		require.ErrorIs(t, d.DecodeAs(c, body[:27], s), protocol.ErrLength)
	}
	// P_DATA with a digest of four bytes is as long, and has no size.
	var d protocol.Data
	require.NoError(t, d.DecodeAs(protocol.CmdData, body, s))
	require.Zero(t, d.Size)
}

// TestFailedDecodeLeavesTheValue alone.
func TestFailedDecodeLeavesTheValue(t *testing.T) {
	s := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	old := protocol.Data{Sector: 1, ID: 2, Seq: 3}
	d := old
	require.Error(t, d.DecodeAs(protocol.CmdTrim, make([]byte, 28), s))
	require.Equal(t, old, d)
	p := protocol.Protocol{Replication: protocol.B}
	require.Error(t, p.Decode(append(make([]byte, 24), 'x'), s))
	require.Equal(t, protocol.Protocol{Replication: protocol.B}, p)
}

// TestNames: algorithm names on the wire end with a zero. spec: wire 4.3, 4.4.
func TestNames(t *testing.T) {
	v88, v101 := &protocol.Session{Version: 88}, &protocol.Session{Version: 101}
	long := strings.Repeat("x", 100)
	body := protocol.Protocol{Replication: protocol.C, IntegrityAlg: long}.AppendTo(nil, v101)
	require.Len(t, body, 24+64)
	var p protocol.Protocol
	require.NoError(t, p.Decode(body, v101))
	require.Equal(t, long[:protocol.MaxAlgorithmName], p.IntegrityAlg)
	body[len(body)-1] = 'x'
	require.ErrorIs(t, p.Decode(body, v101), protocol.ErrField)

	require.Len(t, protocol.Protocol{IntegrityAlg: "a\x00b"}.AppendTo(nil, v101), 24+2)
	require.Len(t, protocol.SyncParam{VerifyAlg: long}.AppendTo(nil, v88), 4+64)

	body = protocol.SyncParam{VerifyAlg: long, CsumsAlg: "md5"}.AppendTo(nil, v101)
	require.Len(t, body, 148)
	var sp protocol.SyncParam
	require.NoError(t, sp.Decode(body, v101))
	require.Equal(t, "md5", sp.CsumsAlg)
	body[67] = 'x'
	require.ErrorIs(t, sp.Decode(body, v101), protocol.ErrField, "verify-alg runs into csums-alg")
	for i := 68; i < 132; i++ {
		body[i] = 'y'
	}
	body[67] = 0
	require.ErrorIs(t, sp.Decode(body, v101), protocol.ErrField)
}

// TestSizesIsCapped: a node never announces more than its version can carry.
// spec: wire 4.5.
func TestSizesIsCapped(t *testing.T) {
	for v, want := range map[protocol.Version]uint32{86: 32 << 10, 94: 32 << 10, 95: 128 << 10, 99: 128 << 10, 100: 1 << 20} {
		s := &protocol.Session{Version: v}
		var got protocol.Sizes
		require.NoError(t, got.Decode(protocol.Sizes{MaxBioBytes: 4 << 20}.AppendTo(nil, s), s))
		require.Equal(t, want, got.MaxBioBytes)
	}
}

// TestPaddingIsIgnored: what a kernel leaves uninitialised changes nothing.
func TestPaddingIsIgnored(t *testing.T) {
	s := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	for _, tt := range []struct {
		c    protocol.Command
		p    protocol.Body
		from int
	}{
		{protocol.CmdDataRequest, protocol.BlockRequest{Sector: 8, Size: 512}, 20},
		{protocol.CmdOutOfSync, protocol.BlockDescription{Sector: 8, Size: 512}, 12},
		{protocol.CmdBarrier, protocol.Barrier{Number: 1}, 4},
		{protocol.CmdSizes, protocol.Sizes{}, 55},
		{protocol.CmdConnectionFeatures, protocol.DefaultConnectionFeatures(), 20},
	} {
		body := tt.p.AppendTo(nil, s)
		want, err := protocol.DecodePacket(s, tt.c, body)
		require.NoError(t, err)
		for i := tt.from; i < len(body); i++ {
			require.Zero(t, body[i], "sent as zero")
			body[i] = 0xa5
		}
		got, err := protocol.DecodePacket(s, tt.c, body)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestBitmapEncodings(t *testing.T) {
	s := &protocol.Session{Version: 101}
	var p protocol.CompressedBitmap
	for enc := byte(0); enc < 16; enc++ {
		err := p.Decode([]byte{enc | 0x90, 1}, s)
		if enc == 2 {
			require.NoError(t, err)
			require.Equal(t, protocol.CompressedBitmap{StartsSet: true, PadBits: 1, Code: []byte{1}}, p)
		} else {
			require.ErrorIs(t, err, protocol.ErrField)
		}
	}
}
