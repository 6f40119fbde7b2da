// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestStateWord holds words seen on the wire. spec: wire 3.3.
func TestStateWord(t *testing.T) {
	for _, tt := range []struct {
		word uint32
		want protocol.State
		text string
	}{
		{
			0x00c882,
			protocol.State{
				Role: protocol.Secondary, Peer: protocol.RoleUnknown, Conn: protocol.WFConnection,
				Disk: protocol.Inconsistent, PeerDisk: protocol.DUnknown,
			},
			"role=Secondary peer=Unknown conn=WFConnection disk=Inconsistent pdsk=DUnknown",
		},
		{
			0x0110a9,
			protocol.State{
				Role: protocol.Primary, Peer: protocol.Secondary, Conn: protocol.Connected,
				Disk: protocol.UpToDate, PeerDisk: protocol.UpToDate,
			},
			"role=Primary peer=Secondary conn=Connected disk=UpToDate pdsk=UpToDate",
		},
		{
			0x110956,
			protocol.State{
				Role: protocol.Secondary, Peer: protocol.Primary, Conn: protocol.PausedSyncT,
				Disk: protocol.Inconsistent, PeerDisk: protocol.UpToDate, UserISP: true,
			},
			"role=Secondary peer=Primary conn=PausedSyncT disk=Inconsistent pdsk=UpToDate user_isp=1",
		},
	} {
		require.Equal(t, tt.word, tt.want.Word())
		require.Equal(t, tt.want, protocol.StateFromWord(tt.word))
		require.Equal(t, tt.text, tt.want.String())
	}
	// Each flag has its own bit. spec: wire 3.3.
	for bit, s := range map[int]protocol.State{
		17: {Susp: true}, 18: {AftrISP: true}, 19: {PeerISP: true},
		20: {UserISP: true}, 21: {SuspNoData: true}, 22: {SuspFencing: true},
	} {
		require.Equal(t, uint32(1)<<bit, s.Word())
		require.Equal(t, s, protocol.StateFromWord(1<<bit))
	}
	// A DRBD 9 peer sets bit 23: it has quorum.
	require.Equal(t, protocol.StateFromWord(0x0110a9), protocol.StateFromWord(0xff8110a9))
}

func TestStateWordIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.Uint32Range(0, 1<<23-1).Draw(t, "word")
		s := protocol.StateFromWord(w)
		require.Equal(t, w, s.Word())
		var d protocol.State
		err := d.Decode(s.AppendTo(nil, nil), nil)
		if !s.Valid() {
			require.ErrorIs(t, err, protocol.ErrField)
			return
		}
		require.NoError(t, err)
		require.Equal(t, s, d)
	})
}

func TestStateNames(t *testing.T) {
	for want, got := range map[string]any{
		"Unknown": protocol.RoleUnknown, "Primary": protocol.Primary, "Secondary": protocol.Secondary,
		"StandAlone": protocol.ConnState(0), "WFReportParams": protocol.ConnState(9),
		"Connected": protocol.ConnState(10), "WFSyncUUID": protocol.ConnState(15), "PausedSyncT": protocol.ConnState(21),
		"Behind": protocol.ConnState(23), "Diskless": protocol.DiskState(0), "DUnknown": protocol.DiskState(6),
		"UpToDate": protocol.DiskState(8), "conn(24)": protocol.ConnState(24), "disk(9)": protocol.DiskState(9),
		"role(3)": protocol.RoleMask,
	} {
		require.Equal(t, want, got.(interface{ String() string }).String())
	}
}

// TestSwapped: requests as two nodes see them. spec: wire 3.4, behaviour 1.5.
func TestSwapped(t *testing.T) {
	q := protocol.StateRequest{}
	for _, tt := range []struct {
		name       string
		sent, seen protocol.StateRequest
	}{
		{"nothing", q, q},
		{"promotion", q.WithRole(protocol.Primary), q.WithPeer(protocol.Primary)},
		{
			"forced promotion",
			q.WithRole(protocol.Primary).WithDisk(protocol.UpToDate),
			q.WithPeer(protocol.Primary).WithPeerDisk(protocol.UpToDate),
		},
		{
			"disconnect, outdating the peer",
			q.WithConn(protocol.Disconnecting).WithPeerDisk(protocol.Outdated),
			q.WithConn(protocol.TearDown).WithDisk(protocol.Outdated),
		},
		{"verify", q.WithConn(protocol.VerifyS), q.WithConn(protocol.VerifyT)},
		{"verify by the other", q.WithConn(protocol.VerifyT), q.WithConn(protocol.VerifyS)},
		{"invalidate", q.WithConn(protocol.StartingSyncT), q.WithConn(protocol.StartingSyncS)},
		{"invalidate-remote", q.WithConn(protocol.StartingSyncS), q.WithConn(protocol.StartingSyncT)},
		{"connected", q.WithConn(protocol.Connected), q.WithConn(protocol.Connected)},
		{"minor deleted", q.WithConn(protocol.WFReportParams), q.WithConn(protocol.WFReportParams)},
		{"not for a request", q.WithConn(protocol.SyncSource), q.WithConn(protocol.StandAlone)},
		{"pause", q.WithUserISP(true), q.WithPeerISP(true)},
		{"pause by dependency", q.WithAftrISP(true), q.WithPeerISP(true)},
		{"resume", q.WithUserISP(false), q.WithPeerISP(false)},
		{"own affairs", q.WithSusp(true).WithSuspNoData(true).WithSuspFencing(true).WithPeerISP(true), q},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.seen, tt.sent.Swapped())
			require.True(t, tt.sent.Valid())
		})
	}
}

func TestApply(t *testing.T) {
	old := protocol.StateFromWord(0x0110a9)
	got := protocol.StateRequest{}.WithConn(protocol.SyncSource).WithPeerDisk(protocol.Inconsistent).WithSusp(true).Apply(old)
	want := old
	want.Conn, want.PeerDisk, want.Susp = protocol.SyncSource, protocol.Inconsistent, true
	require.Equal(t, want, got)
	require.Equal(t, old, protocol.StateRequest{}.Apply(old))
	half := protocol.StateRequest{Mask: protocol.State{Role: 1, Conn: 30, Disk: 7}, Value: protocol.State{Role: 1, Conn: 2, Disk: 1}}
	require.False(t, half.Valid())
	require.Equal(t, old, half.Apply(old), "half a mask changes nothing")
}

// TestApplyIdentity: what Apply does is what bits do.
func TestApplyIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) protocol.State {
			return protocol.StateFromWord(rapid.Uint32Range(0, 1<<23-1).Draw(t, name))
		}
		field := func(name string, all uint8) uint8 { return all * uint8(rapid.IntRange(0, 1).Draw(t, name)) }
		q := protocol.StateRequest{Value: draw("value"), Mask: draw("mask")}
		q.Mask.Role = protocol.Role(field("role", 3))
		q.Mask.Peer = protocol.Role(field("peer", 3))
		q.Mask.Conn = protocol.ConnState(field("conn", 31))
		q.Mask.Disk = protocol.DiskState(field("disk", 15))
		q.Mask.PeerDisk = protocol.DiskState(field("pdsk", 15))
		old := draw("old")
		want := old.Word()&^q.Mask.Word() | q.Value.Word()&q.Mask.Word()
		require.Equal(t, want, q.Apply(old).Word())
	})
}

func TestStateRequestDecode(t *testing.T) {
	var q protocol.StateRequest
	require.NoError(t, q.Decode(unhex(t, "0001e1f0 0000a010"), nil))
	require.Equal(t, protocol.StateRequest{}.WithConn(protocol.Disconnecting).WithPeerDisk(protocol.Outdated), q)
	require.Equal(t, "{conn=Disconnecting pdsk=Outdated}", q.String())
	require.Equal(t, "{susp=1 user_isp=0}", protocol.StateRequest{}.WithSusp(true).WithUserISP(false).String())
	for name, body := range map[string]string{
		"half a mask":    "00000001 00000001",
		"no such role":   "00000003 00000003",
		"no such state":  "000001f0 00000180",
		"no such disk":   "00001e00 00001200",
		"no such p.disk": "0001e000 0001e000",
	} {
		require.ErrorIs(t, q.Decode(unhex(t, body), nil), protocol.ErrField, name)
	}
	require.ErrorIs(t, q.Decode(make([]byte, 7), nil), protocol.ErrLength)
	// What lies outside the mask means nothing.
	require.NoError(t, q.Decode(unhex(t, "00000003 ff7ffffd"), nil))
	require.Equal(t, protocol.State{Role: protocol.Primary}, q.Apply(protocol.State{}))
}

func TestCode(t *testing.T) {
	require.True(t, protocol.CodeSuccess.Success())
	require.True(t, protocol.CodeNoNeedForClusterWide.Success())
	require.False(t, protocol.CodeKeepWaiting.Success())
	require.False(t, protocol.CodeTwoPrimaries.Success())
	texts := map[string]protocol.Code{}
	for c := protocol.Code(-21); c <= 4; c++ {
		if c == -3 {
			require.Equal(t, "state change result -3", c.String())
			continue
		}
		require.NotContains(t, c.String(), "result", "%d has a text", c)
		require.NotContains(t, texts, c.String())
		texts[c.String()] = c
	}
	var err error = protocol.CodeNoUpToDateDisk
	require.ErrorIs(t, err, protocol.CodeNoUpToDateDisk)
	require.EqualError(t, err, "Need access to UpToDate data")

	var r protocol.StateReply
	require.NoError(t, r.Decode(unhex(t, "ffffffed"), nil))
	require.Equal(t, protocol.CodeConcurrentStateChange, r.Code)
	require.Equal(t, unhex(t, "ffffffed"), r.AppendTo(nil, nil))
}
