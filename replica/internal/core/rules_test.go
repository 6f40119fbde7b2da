// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// good is a state that no rule objects to: a connected, UpToDate Primary.
func good() protocol.State {
	return protocol.State{Role: protocol.Primary, Peer: protocol.Secondary, Conn: protocol.Connected,
		Disk: protocol.UpToDate, PeerDisk: protocol.UpToDate}
}

// TestValidityRules breaks each V-rule on its own.
func TestValidityRules(t *testing.T) {
	cases := map[string]struct {
		set func(*protocol.State)
		env ruleEnv
	}{
		"V1": {set: func(s *protocol.State) { s.Peer = protocol.Primary }},
		"V2": {set: func(*protocol.State) {}, env: ruleEnv{otherPrimary: true}},
		"V3": {set: func(s *protocol.State) { s.Role = protocol.Secondary }, env: ruleEnv{open: true}},
		"V4": {set: func(s *protocol.State) { s.Conn, s.Disk = protocol.WFConnection, protocol.Outdated }},
		"V5": {set: func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.WFConnection, protocol.DUnknown }, env: ruleEnv{fencing: true}},
		"V6": {set: func(s *protocol.State) { s.Disk, s.PeerDisk = protocol.Inconsistent, protocol.Diskless }},
		"V7": {set: func(s *protocol.State) { s.Conn, s.Disk = protocol.SyncSource, protocol.Failed }},
		"V8": {set: func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.SyncSource, protocol.Failed }},
		"V9": {set: func(s *protocol.State) {
			s.Conn, s.Disk, s.PeerDisk = protocol.SyncSource, protocol.Outdated, protocol.Inconsistent
		}},
		"V10": {set: func(s *protocol.State) { s.Disk = protocol.Outdated }},
		"V11": {set: func(s *protocol.State) { s.Conn = protocol.VerifyS }, env: ruleEnv{version: 101}},
		"V12": {set: func(s *protocol.State) { s.Conn = protocol.VerifyT }, env: ruleEnv{version: 87, verifyAlg: true}},
		"V13": {set: func(s *protocol.State) {
			s.Disk, s.PeerDisk = protocol.Outdated, protocol.Outdated
			s.Conn = protocol.WFReportParams
		}},
		"V14": {set: func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.StartingSyncS, protocol.DUnknown }},
		"V15": {set: func(s *protocol.State) { s.PeerDisk = protocol.DUnknown }},
	}
	// Rows that an earlier row shadows for a Primary: "V13" is V4 below Connected.
	shadowed := map[string]string{"V13": "V4"}
	for _, r := range validityRules {
		c, ok := cases[r.name]
		require.True(t, ok, "no case for %s", r.name)
		s := good()
		c.set(&s)
		require.True(t, r.bad(s, &c.env), r.name)
		require.False(t, r.bad(good(), &ruleEnv{verifyAlg: true, version: 101}), r.name)
		rule, _, bad := invalid(s, &c.env)
		want := r.name
		if first, ok := shadowed[r.name]; ok {
			want = first
		}
		require.True(t, bad)
		require.Equal(t, want, rule)
	}
	_, _, bad := invalid(good(), &ruleEnv{})
	require.False(t, bad)
}

// TestTransitionRules breaks each T- and X-rule on its own.
func TestTransitionRules(t *testing.T) {
	conn := func(c protocol.ConnState) func(*protocol.State) {
		return func(s *protocol.State) { s.Conn = c }
	}
	disk := func(d protocol.DiskState) func(*protocol.State) {
		return func(s *protocol.State) { s.Disk = d }
	}
	type change struct {
		from, to func(*protocol.State)
		env      ruleEnv
	}
	cases := map[string]change{
		"T2": {conn(protocol.StandAlone), conn(protocol.Disconnecting), ruleEnv{}},
		"T3": {conn(protocol.StandAlone), conn(protocol.WFConnection), ruleEnv{}},
		"T4": {conn(protocol.WFConnection), conn(protocol.Connected), ruleEnv{}},
		"T5": {conn(protocol.BrokenPipe), conn(protocol.WFConnection), ruleEnv{}},
		"T6": {conn(protocol.Disconnecting), conn(protocol.Unconnected), ruleEnv{}},
		"T7": {disk(protocol.Diskless), disk(protocol.Failed), ruleEnv{}},
		"X1": {conn(protocol.SyncSource), conn(protocol.StartingSyncS), ruleEnv{}},
		"X2": {conn(protocol.StandAlone), conn(protocol.Disconnecting), ruleEnv{}},
		"X3": {disk(protocol.Diskless), disk(protocol.UpToDate), ruleEnv{}},
		"X4": {conn(protocol.Disconnecting), conn(protocol.WFConnection), ruleEnv{}},
		"X5": {disk(protocol.Inconsistent), disk(protocol.Outdated), ruleEnv{}},
		"X6": {conn(protocol.Unconnected), conn(protocol.Disconnecting), ruleEnv{}},
		"X7": {conn(protocol.Connected), func(s *protocol.State) { s.Role = protocol.Secondary }, ruleEnv{handshaking: true}},
		"X8": {func(s *protocol.State) {
			s.Role, s.Conn, s.Disk = protocol.Secondary, protocol.WFBitMapT, protocol.Outdated
		},
			func(s *protocol.State) { s.Conn, s.Disk = protocol.WFBitMapT, protocol.Outdated }, ruleEnv{}},
		"X9":  {conn(protocol.WFReportParams), conn(protocol.VerifyS), ruleEnv{}},
		"X10": {conn(protocol.SyncTarget), conn(protocol.VerifyS), ruleEnv{}},
		"X11": {conn(protocol.WFReportParams), conn(protocol.StartingSyncT), ruleEnv{}},
		"X12": {conn(protocol.WFConnection), conn(protocol.SyncSource), ruleEnv{}},
		"X13": {func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.WFConnection, protocol.DUnknown },
			func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.Disconnecting, protocol.Outdated }, ruleEnv{}},
	}
	for _, r := range append(append([]transitionRule(nil), hardRules...), softRules...) {
		c, ok := cases[r.name]
		require.True(t, ok, "no case for %s", r.name)
		from, to := good(), good()
		c.from(&from)
		c.to(&to)
		require.True(t, r.bad(from, to, &c.env), r.name)
		require.False(t, r.bad(good(), good(), &ruleEnv{}), "%s must not object to no change", r.name)
	}
	// The handshake itself is not held up by X7.
	from, to := good(), good()
	from.Conn = protocol.WFReportParams
	_, _, bad := refusedSoft(from, to, &ruleEnv{handshaking: true})
	require.False(t, bad)
	// The last matching soft rule wins.
	from, to = good(), good()
	from.Conn, to.Conn = protocol.StandAlone, protocol.SyncSource
	from.Disk = protocol.Diskless
	rule, _, _ := refusedSoft(from, to, &ruleEnv{})
	require.Equal(t, "X12", rule)
}

func TestSanitize(t *testing.T) {
	cases := []struct {
		rule     string
		in, want func(*protocol.State)
	}{
		{"S1", func(s *protocol.State) { s.Conn, s.PeerISP = protocol.BrokenPipe, true },
			func(s *protocol.State) {
				s.Conn, s.Peer, s.PeerDisk = protocol.BrokenPipe, protocol.RoleUnknown, protocol.DUnknown
			}},
		{"S1 keeps Outdated", func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.WFConnection, protocol.Outdated },
			func(s *protocol.State) {
				s.Conn, s.Peer, s.PeerDisk = protocol.WFConnection, protocol.RoleUnknown, protocol.Outdated
			}},
		{"S2", func(s *protocol.State) {
			s.Conn, s.Disk, s.Role, s.AftrISP = protocol.StandAlone, protocol.Diskless, protocol.Secondary, true
		}, func(s *protocol.State) {
			s.Conn, s.Disk, s.Role, s.Peer, s.PeerDisk = protocol.StandAlone, protocol.Diskless, protocol.Secondary, protocol.RoleUnknown, protocol.DUnknown
		}},
		{"S3", func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.SyncSource, protocol.Failed },
			func(s *protocol.State) { s.PeerDisk = protocol.Failed }},
		{"S3 leaves a target's data what it is", func(s *protocol.State) {
			s.Conn, s.Disk, s.PeerDisk = protocol.WFSyncUUID, protocol.Outdated, protocol.Failed
		}, func(s *protocol.State) { s.Disk, s.PeerDisk = protocol.Inconsistent, protocol.Failed }},
		{"S3 leaves the peer's data what it is", func(s *protocol.State) {
			s.Conn, s.Disk, s.PeerDisk = protocol.WFBitMapS, protocol.Failed, protocol.Consistent
		}, func(s *protocol.State) { s.Disk, s.PeerDisk = protocol.Failed, protocol.Inconsistent }},
		{"S5", func(s *protocol.State) { s.Disk, s.PeerDisk = protocol.Outdated, protocol.Consistent }, func(*protocol.State) {}},
		{"S7 target", func(s *protocol.State) { s.Conn = protocol.WFBitMapT },
			func(s *protocol.State) { s.Conn, s.Disk = protocol.WFBitMapT, protocol.Outdated }},
		{"S7 source", func(s *protocol.State) { s.Conn = protocol.SyncSource },
			func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.SyncSource, protocol.Inconsistent }},
		{"S10", func(s *protocol.State) { s.Conn, s.UserISP = protocol.SyncTarget, true },
			func(s *protocol.State) {
				s.Conn, s.UserISP, s.Disk = protocol.PausedSyncT, true, protocol.Inconsistent
			}},
		{"S11", func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.PausedSyncS, protocol.Inconsistent },
			func(s *protocol.State) { s.Conn, s.PeerDisk = protocol.SyncSource, protocol.Inconsistent }},
	}
	for _, c := range cases {
		in, want := good(), good()
		c.in(&in)
		c.want(&want)
		got, _ := sanitize(in)
		require.Equal(t, want, got, c.rule)
	}
}

// TestSanitizeSettles: what sanitize makes of a state it leaves alone.
func TestSanitizeSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := protocol.State{
			Role: protocol.Role(rapid.IntRange(0, 2).Draw(t, "role")), Peer: protocol.Role(rapid.IntRange(0, 2).Draw(t, "peer")),
			Conn: protocol.ConnState(rapid.IntRange(0, 23).Draw(t, "conn")),
			Disk: protocol.DiskState(rapid.IntRange(0, 8).Draw(t, "disk")), PeerDisk: protocol.DiskState(rapid.IntRange(0, 8).Draw(t, "pdsk")),
			AftrISP: rapid.Bool().Draw(t, "a"), PeerISP: rapid.Bool().Draw(t, "p"), UserISP: rapid.Bool().Draw(t, "u"),
		}
		once, _ := sanitize(s)
		twice, _ := sanitize(once)
		if once != twice {
			t.Fatalf("%v becomes %v and then %v", s, once, twice)
		}
	})
}
