// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// alone is a Primary that has just lost its peer.
func alone() protocol.State {
	return protocol.State{Role: protocol.Primary, Conn: protocol.BrokenPipe, Disk: protocol.UpToDate, PeerDisk: protocol.DUnknown}
}

// TestSuspendRules: S8 and S9 set a flag when their condition begins to hold, and only
// then; each part of the condition counts.
func TestSuspendRules(t *testing.T) {
	stonith, arbiter, nod := suspendEnv{stonith: true}, suspendEnv{arbiter: true}, suspendEnv{noDataIO: true}
	change := func(set func(*protocol.State)) protocol.State { s := alone(); set(&s); return s }
	for _, c := range []struct {
		name     string
		old, new protocol.State
		env      suspendEnv
		fen, nod bool
	}{
		{"S8", good(), alone(), stonith, true, false},
		{"S8, another policy", good(), alone(), suspendEnv{}, false, false},
		{"S8, the peer is outdated", good(), change(func(s *protocol.State) { s.PeerDisk = protocol.Outdated }), stonith, false, false},
		{"S8, the peer is inconsistent", good(), change(func(s *protocol.State) { s.PeerDisk = protocol.Inconsistent }), stonith, false, false},
		{"S8, Secondary", good(), change(func(s *protocol.State) { s.Role = protocol.Secondary }), stonith, false, false},
		{"S8, connected", alone(), good(), stonith, false, false},
		{"S8, already so", change(func(s *protocol.State) { s.Conn = protocol.Unconnected }), alone(), stonith, false, false},
		{"arbiter", good(), alone(), arbiter, true, false},
		{"arbiter, nothing good to go on with", good(), change(func(s *protocol.State) { s.Disk = protocol.Inconsistent }), arbiter, false, false},
		{"arbiter, the peer is outdated", good(), change(func(s *protocol.State) { s.PeerDisk = protocol.Outdated }), arbiter, false, false},
		{"S9", good(), change(func(s *protocol.State) { s.Disk = protocol.Failed }), nod, false, true},
		{"S9, io-error", good(), change(func(s *protocol.State) { s.Disk = protocol.Failed }), suspendEnv{}, false, false},
		{"S9, the peer has it", alone(), change(func(s *protocol.State) {
			s.Conn, s.Disk, s.PeerDisk = protocol.Connected, protocol.Failed, protocol.UpToDate
		}), nod, false, false},
		{"S9, Secondary", good(), change(func(s *protocol.State) { s.Role, s.Disk = protocol.Secondary, protocol.Failed }), nod, false, false},
		{"S9, already so", change(func(s *protocol.State) { s.Disk = protocol.Failed }),
			change(func(s *protocol.State) { s.Disk = protocol.Diskless }), nod, false, false},
	} {
		got := suspendIfNew(c.old, c.new, &c.env)
		require.Equal(t, c.fen, got.SuspFencing, c.name)
		require.Equal(t, c.nod, got.SuspNoData, c.name)
		got.SuspFencing, got.SuspNoData = c.new.SuspFencing, c.new.SuspNoData
		require.Equal(t, c.new, got, "nothing else changes")
	}
}

// A flag that is set stays set: only the end of its reason clears it.
func TestSuspendRulesNeverClear(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) protocol.State {
			return protocol.State{
				Role: protocol.Role(rapid.IntRange(0, 2).Draw(t, name+" role")), Conn: protocol.ConnState(rapid.IntRange(0, 23).Draw(t, name+" conn")),
				Disk: protocol.DiskState(rapid.IntRange(0, 8).Draw(t, name+" disk")), PeerDisk: protocol.DiskState(rapid.IntRange(0, 8).Draw(t, name+" pdsk")),
				SuspFencing: rapid.Bool().Draw(t, name+" fen"), SuspNoData: rapid.Bool().Draw(t, name+" nod"),
			}
		}
		env := suspendEnv{stonith: rapid.Bool().Draw(t, "s"), arbiter: rapid.Bool().Draw(t, "a"), noDataIO: rapid.Bool().Draw(t, "n")}
		o, n := draw("old"), draw("new")
		got := suspendIfNew(o, n, &env)
		if n.SuspFencing && !got.SuspFencing || n.SuspNoData && !got.SuspNoData {
			t.Fatalf("%v became %v", n, got)
		}
		if again := suspendIfNew(got, got, &env); again != got {
			t.Fatalf("%v became %v without a change", got, again)
		}
	})
}

// TestAttachState is the table of spec: behaviour 7.3.
func TestAttachState(t *testing.T) {
	c, u, p := metadata.Consistent, metadata.WasUpToDate, metadata.PeerOutdated
	for _, tc := range []struct {
		flags   metadata.Flags
		fencing Fencing
		want    protocol.DiskState
	}{
		{0, FencingDontCare, protocol.Inconsistent},
		{u | p, FencingDontCare, protocol.Inconsistent},
		{c, FencingDontCare, protocol.Outdated},
		{c | p, FencingResourceOnly, protocol.Outdated},
		{c | u, FencingDontCare, protocol.UpToDate},
		{c | u, FencingResourceOnly, protocol.Consistent},
		{c | u, FencingResourceAndStonith, protocol.Consistent},
		{c | u | p, FencingResourceOnly, protocol.UpToDate},
		{c | u | p, FencingResourceAndStonith, protocol.UpToDate},
	} {
		require.Equal(t, tc.want, attachState(tc.flags, tc.fencing), "%v, fencing %d", tc.flags, tc.fencing)
	}
}

// TestRulesAreComplete: every rule of spec: behaviour 2.2 to 2.4 has its row, in its order.
func TestRulesAreComplete(t *testing.T) {
	names := func(prefix string, from, to int) (out []string) {
		for i := from; i <= to; i++ {
			out = append(out, fmt.Sprintf("%s%d", prefix, i))
		}
		return out
	}
	var v, h, x, s []string
	for _, r := range validityRules {
		v = append(v, r.name)
	}
	for _, r := range hardRules {
		h = append(h, r.name)
	}
	for _, r := range softRules {
		x = append(x, r.name)
	}
	for _, r := range suspendRules {
		s = append(s, r.name)
	}
	require.Equal(t, names("V", 1, 15), v)
	require.Equal(t, names("T", 2, 7), h, "T1 is: nothing to do")
	require.Equal(t, names("X", 1, 13), x)
	require.Equal(t, []string{"S8", "S8 arbiter", "S9"}, s)
}

// TestRefusalsInWords: a refusal says what the rule says (spec: behaviour 2.1).
func TestRefusalsInWords(t *testing.T) {
	for code, text := range map[protocol.Code]string{
		-1:  "Multiple primaries not allowed by config",
		-2:  "Need access to UpToDate data",
		-4:  "Can not resync without local disk",
		-5:  "Can not resync without remote disk",
		-6:  "Refusing to be Outdated while Connected",
		-7:  "Refusing to be Primary while peer is not outdated",
		-8:  "Can not start OV/resync since it is already active",
		-9:  "Can not disconnect a StandAlone device",
		-10: "State change was refused by peer node",
		-11: "Device is diskless, the requested operation requires a disk",
		-12: "Device is held open by someone",
		-13: "Have no net/connection configuration",
		-14: "Need a verify algorithm to start online verify",
		-15: "Need a connection to start verify or resync",
		-16: "Disk state is lower than outdated",
		-17: "Peer does not support protocol",
		-19: "Concurrent state changes detected and aborted",
		-20: "Other vol primary on peer not allowed by config",
		-21: "Need a connection for a graceful disconnect/outdate peer",
	} {
		for _, byPeer := range []bool{false, true} {
			err := refused("promote", code, byPeer)
			require.ErrorContains(t, err, text)
			require.ErrorContains(t, err, "promote: refused")
			require.ErrorIs(t, err, ErrRefused)
			require.ErrorIs(t, err, code)
		}
	}
	codes := map[protocol.Code]bool{}
	for _, r := range validityRules {
		codes[r.code] = true
	}
	for _, r := range append(append([]transitionRule(nil), hardRules...), softRules...) {
		codes[r.code] = true
	}
	for c := range codes {
		require.NotContains(t, c.String(), "Code(", "every rule's code has words")
	}
}
