// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

func TestNegotiate(t *testing.T) {
	own := protocol.DefaultConnectionFeatures()
	offer := func(lowest, highest protocol.Version, f protocol.Features) protocol.ConnectionFeatures {
		return protocol.ConnectionFeatures{Min: lowest, Max: highest, Features: f}
	}
	for _, tt := range []struct {
		name      string
		own, peer protocol.ConnectionFeatures
		version   protocol.Version
		features  protocol.Features
		fails     bool
	}{
		{name: "equal", own: own, peer: own, version: 101, features: 0xf},
		{name: "older peer", own: own, peer: offer(86, 95, 3), version: 95, features: 3},
		{name: "oldest peer", own: own, peer: offer(86, 86, 0xf), version: 86, features: 0xf},
		{name: "peer too old", own: own, peer: offer(50, 80, 0), fails: true},
		{name: "peer reaches down", own: own, peer: offer(50, 86, 0), version: 86},
		{name: "DRBD 9 that reaches down", own: own, peer: offer(86, 124, 0x1ff), version: 101, features: 0xf},
		{name: "DRBD 9 that does not", own: own, peer: offer(110, 124, 0x1ff), fails: true},
		{name: "highest is zero", own: own, peer: offer(100, 0, 1), version: 100, features: 1},
		{name: "both zero", own: own, peer: offer(0, 0, 1), fails: true},
		{name: "upside down", own: own, peer: offer(101, 90, 1), fails: true},
		{name: "own range is one version", own: offer(100, 100, 0xf), peer: own, version: 100, features: 0xf},
		{name: "own lowest above the peer's highest", own: offer(100, 101, 0xf), peer: offer(86, 99, 0xf), fails: true},
		{name: "not a version spoken here", own: offer(86, 120, 0), peer: offer(86, 120, 0), fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, pair := range [][2]protocol.ConnectionFeatures{{tt.own, tt.peer}, {tt.peer, tt.own}} {
				v, f, err := protocol.Negotiate(pair[0], pair[1])
				if tt.fails {
					require.ErrorIs(t, err, protocol.ErrIncompatible)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, tt.version, v)
				require.Equal(t, tt.features, f)
			}
		})
	}
}

func TestConnectionFeaturesDecode(t *testing.T) {
	s := &protocol.Session{}
	var p protocol.ConnectionFeatures
	body := make([]byte, 72)
	body[0], body[3], body[11], body[15], body[19], body[71] = 1, 5, 124, 2, 3, 99
	require.NoError(t, p.Decode(body, s))
	require.Equal(t, protocol.ConnectionFeatures{Min: 0xffff, Max: 124, SenderNode: 2, ReceiverNode: 3}, p)
	for _, n := range []int{0, 71, 73, 80} {
		require.ErrorIs(t, p.Decode(make([]byte, n), s), protocol.ErrLength)
		h := protocol.Header{Command: protocol.CmdConnectionFeatures, Length: uint32(n)}
		err := s.CheckHeader(protocol.DataStream, h)
		require.ErrorIs(t, err, protocol.ErrLength)
		require.ErrorIs(t, err, protocol.ErrIncompatible)
	}
}

func TestInitial(t *testing.T) {
	for _, st := range []protocol.Stream{protocol.DataStream, protocol.MetaStream} {
		got, err := protocol.DecodeInitial(protocol.AppendInitial(nil, st))
		require.NoError(t, err)
		require.Equal(t, st, got)
	}
	for _, tt := range []struct {
		name, bytes string
		want        error
	}{
		{"h95 form", "835a fff2 00000000", nil},
		{"ping", "83740267 0013 0000", protocol.ErrUnknownCommand},
		{"features at once", "83740267 fffe 0048", protocol.ErrUnknownCommand},
		{"a body", "83740267 fff2 0001", protocol.ErrLength},
		{"h100", "8620ec20 0000 fff2", protocol.ErrBadMagic},
		{"HTTP", "474554202f204854", protocol.ErrBadMagic},
		{"short", "83740267 fff2 00", protocol.ErrHeaderSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := protocol.DecodeInitial(unhex(t, tt.bytes))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

func TestProtocolCompatible(t *testing.T) {
	s := &protocol.Session{Version: 101}
	own := protocol.Protocol{
		Replication: protocol.C, IntegrityAlg: "crc32c", AfterSB0: protocol.PolicyDiscardLocal,
		AfterSB1: protocol.PolicyDiscardRemote, AfterSB2: protocol.PolicyDiscardLocal,
	}
	fitting := own
	fitting.AfterSB0, fitting.AfterSB1 = protocol.PolicyDiscardRemote, protocol.PolicyDiscardLocal
	fitting.AfterSB2 = protocol.PolicyDiscardRemote
	require.NoError(t, own.Compatible(fitting, s))
	require.NoError(t, fitting.Compatible(own, s))
	for option, change := range map[string]func(p *protocol.Protocol){
		"protocol":            func(p *protocol.Protocol) { p.Replication = protocol.B },
		"after-sb-0pri":       func(p *protocol.Protocol) { p.AfterSB0 = protocol.PolicyDiscardLocal },
		"after-sb-1pri":       func(p *protocol.Protocol) { p.AfterSB1 = protocol.PolicyConsensus },
		"after-sb-2pri":       func(p *protocol.Protocol) { p.AfterSB2 = protocol.PolicyViolently },
		"allow-two-primaries": func(p *protocol.Protocol) { p.TwoPrimaries = true },
		"data-integrity-alg":  func(p *protocol.Protocol) { p.IntegrityAlg = "" },
	} {
		peer := fitting
		change(&peer)
		err := own.Compatible(peer, s)
		require.ErrorIs(t, err, protocol.ErrMismatch)
		require.ErrorContains(t, err, option)
	}

	// One node may want to lose, but not both; the dry run is nobody's business.
	own.Flags = protocol.ProtocolDiscardMyData
	require.NoError(t, own.Compatible(fitting, s))
	fitting.Flags = protocol.ProtocolDiscardMyData | protocol.ProtocolDryRun
	require.ErrorIs(t, own.Compatible(fitting, s), protocol.ErrMismatch)
	fitting.Flags = protocol.ProtocolDryRun
	require.NoError(t, own.Compatible(fitting, s))

	// Version 86 does not tell the integrity algorithm.
	fitting.IntegrityAlg = ""
	require.NoError(t, own.Compatible(fitting, &protocol.Session{Version: 86}))
}

func TestProtocolValid(t *testing.T) {
	require.True(t, protocol.Protocol{Replication: protocol.A, AfterSB2: protocol.PolicyViolently}.Valid())
	require.False(t, protocol.Protocol{}.Valid())
	require.False(t, protocol.Protocol{Replication: 4}.Valid())
	require.False(t, protocol.Protocol{Replication: protocol.C, AfterSB0: 11}.Valid())
	require.False(t, protocol.Protocol{Replication: protocol.C, AfterSB1: 11}.Valid())
	require.False(t, protocol.Protocol{Replication: protocol.C, AfterSB2: 11}.Valid())
}

func TestSyncParamCompatible(t *testing.T) {
	own := protocol.DefaultSyncParam()
	own.VerifyAlg, own.CsumsAlg = "md5", "sha1"
	peer := own
	peer.Rate, peer.MaxRate = 1, 2
	require.NoError(t, own.Compatible(peer, &protocol.Session{Version: 101}))
	peer.CsumsAlg = ""
	require.ErrorIs(t, own.Compatible(peer, &protocol.Session{Version: 89}), protocol.ErrMismatch)
	require.NoError(t, own.Compatible(peer, &protocol.Session{Version: 88}))
	peer.VerifyAlg = ""
	require.ErrorIs(t, own.Compatible(peer, &protocol.Session{Version: 88}), protocol.ErrMismatch)
	require.NoError(t, own.Compatible(peer, &protocol.Session{Version: 87}))
}

func TestPolicies(t *testing.T) {
	for p := protocol.PolicyDisconnect; p <= protocol.PolicyViolently; p++ {
		got, err := protocol.ParsePolicy(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
		require.Equal(t, p, p.Mirrored().Mirrored())
	}
	require.Equal(t, protocol.PolicyDiscardRemote, protocol.PolicyDiscardLocal.Mirrored())
	require.Equal(t, protocol.PolicyConsensus, protocol.PolicyConsensus.Mirrored())
	require.Equal(t, "policy(11)", protocol.Policy(11).String())
	_, err := protocol.ParsePolicy("policy(11)")
	require.ErrorIs(t, err, protocol.ErrField)
	require.Equal(t, "A", protocol.A.String())
	require.Equal(t, "C", protocol.ProtocolC.String())
	require.Equal(t, "protocol(0)", protocol.ReplicationProtocol(0).String())
}

func TestOfferableFeatures(t *testing.T) {
	require.Equal(t, protocol.FeatureThinResync, protocol.OfferableFeatures(94))
	require.Equal(t, protocol.AllFeatures, protocol.OfferableFeatures(95))
	require.Equal(t, "TRIM|THIN_RESYNC|WSAME|WZEROES", protocol.AllFeatures.String())
	require.Equal(t, "0", protocol.Features(0).String())
	require.Equal(t, "TRIM|0x110", protocol.Features(0x111).String())
}
