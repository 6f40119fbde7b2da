// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"strings"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/stretchr/testify/require"
)

const kiB = int64(1024)

func connected(role, peer protocol.Role, conn protocol.ConnState, disk, pdsk protocol.DiskState) protocol.State {
	return protocol.State{Role: role, Peer: peer, Conn: conn, Disk: disk, PeerDisk: pdsk}
}

// The sample of spec: behaviour 9.1, character by character but for the build's name.
func TestProcDRBDSample(t *testing.T) {
	up := VolumeStatus{
		ID: 0, Minor: 0, Protocol: protocol.C, WriteOrdering: 'f', Epochs: 1,
		State: connected(protocol.Primary, protocol.Secondary, protocol.Connected, protocol.UpToDate, protocol.UpToDate),
		Sent:  32 * kiB, Written: 32 * kiB, Read: 32 * kiB, ALWrites: 9,
	}
	alone := VolumeStatus{
		ID: 0, Minor: 1, Protocol: protocol.C, WriteOrdering: 'f', Epochs: 1, ALWrites: 8,
		State: connected(protocol.Secondary, protocol.RoleUnknown, protocol.StandAlone, protocol.UpToDate, protocol.DUnknown),
	}
	none := VolumeStatus{Minor: 3, State: connected(protocol.Secondary, protocol.RoleUnknown, protocol.StandAlone, protocol.Diskless, protocol.DUnknown)}
	got := ProcDRBD(Status{Volumes: []VolumeStatus{none, up}}, Status{Volumes: []VolumeStatus{alone}})
	require.Equal(t, `version: 8.4.11 (api:1/proto:86-101)
srcversion: blockmirror
 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:32 nr:0 dw:32 dr:32 al:9 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
 1: cs:StandAlone ro:Secondary/Unknown ds:UpToDate/DUnknown   r-----
    ns:0 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0

 3: cs:Unconfigured
`, got)
}

func TestProcDRBDGaps(t *testing.T) {
	at := func(minor int) VolumeStatus {
		return VolumeStatus{Minor: minor, State: connected(protocol.Secondary, protocol.RoleUnknown, protocol.StandAlone, protocol.Diskless, protocol.DUnknown)}
	}
	got := ProcDRBD(Status{Volumes: []VolumeStatus{at(2), at(3), at(10)}})
	_, body, _ := strings.Cut(got, "blockmirror\n")
	require.Equal(t, "\n 2: cs:Unconfigured\n 3: cs:Unconfigured\n\n10: cs:Unconfigured\n", body)
}

func TestProcFlags(t *testing.T) {
	for _, tc := range []struct {
		name string
		v    VolumeStatus
		want string
	}{
		{"running", VolumeStatus{}, "r-----"},
		{"suspended", VolumeStatus{State: protocol.State{Susp: true}}, "s-----"},
		{"no data", VolumeStatus{State: protocol.State{SuspNoData: true}}, "s-----"},
		{"fencing", VolumeStatus{State: protocol.State{SuspFencing: true}}, "s-----"},
		{"dependency", VolumeStatus{State: protocol.State{AftrISP: true}}, "ra----"},
		{"peer", VolumeStatus{State: protocol.State{PeerISP: true}}, "r-p---"},
		{"user", VolumeStatus{State: protocol.State{UserISP: true}}, "r--u--"},
		{"slow disk", VolumeStatus{DiskCongested: true}, "r---b-"},
		{"slow line", VolumeStatus{NetCongested: true}, "r---n-"},
		{"both", VolumeStatus{DiskCongested: true, NetCongested: true}, "r---a-"},
		{"activity log", VolumeStatus{ActivityLogSuspended: true}, "r----s"},
	} {
		require.Equal(t, tc.want, tc.v.procFlags(), tc.name)
	}
}

func TestProcProgress(t *testing.T) {
	for _, tc := range []struct {
		name string
		conn protocol.ConnState
		s    ResyncStatus
		want string
	}{
		{
			"sample of spec: behaviour 9.1", protocol.SyncTarget,
			ResyncStatus{Total: 6952 * kiB, Left: 5544 * kiB, Rate: 352 * kiB, Average: 352 * kiB, Wanted: 400 * kiB, Finish: 13 * time.Second},
			"\t[=========>..........] sync'ed: 50.0% (5544/6952)K\n\tfinish: 0:00:13 speed: 352 (352) want: 400 K/sec\n",
		},
		{
			"a source has no want", protocol.SyncSource,
			ResyncStatus{Total: 6952 * kiB, Left: 5544 * kiB, Rate: 352 * kiB, Average: 352 * kiB, Wanted: 400 * kiB, Finish: 13 * time.Second},
			"\t[=========>..........] sync'ed: 50.0% (5544/6952)K\n\tfinish: 0:00:13 speed: 352 (352) K/sec\n",
		},
		{
			"small totals are coarse", protocol.SyncSource,
			ResyncStatus{Total: 1024 * 4 * kiB, Left: 744 * 4 * kiB},
			"\t[===================>] sync'ed:100.0% (2976/4096)K\n\tfinish: 0:00:00 speed: 0 (0) K/sec\n",
		},
		{
			"megabytes above 4 GiB, thousands", protocol.SyncSource,
			ResyncStatus{Total: 9540 << 20, Left: 9288 << 20, Rate: 42900 * kiB, Average: 121324 * kiB, Finish: 9*time.Hour + 40*time.Minute + 13*time.Second},
			"\t[>....................] sync'ed:  2.7% (9288/9540)M\n\tfinish: 9:40:13 speed: 42,900 (121,324) K/sec\n",
		},
		{
			"left by 0.7's numbers", protocol.SyncSource,
			ResyncStatus{Total: 522112 * kiB, Left: 472972 * kiB, Rate: 7020 * kiB, Average: 7020 * kiB, Finish: 67 * time.Second},
			"\t[=>..................] sync'ed: 10.2% (472972/522112)K\n\tfinish: 0:01:07 speed: 7,020 (7,020) K/sec\n",
		},
		{
			"more left than total", protocol.SyncSource,
			ResyncStatus{Total: 4096 * kiB, Left: 8192 * kiB, Stalled: true},
			"\t[>....................] sync'ed:  0.0% (4096/4096)K\n\tfinish: 0:00:00 speed: 0 (0) K/sec (stalled)\n",
		},
		{
			"verify", protocol.VerifyS,
			ResyncStatus{Total: 8 << 20, Left: 4 << 20, Wanted: 1234567 * kiB},
			"\t[============>.......] verified: 66.7% (4096/8192)K\n\tfinish: 0:00:00 speed: 0 (0) want: 1,234,567 K/sec\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			tc.s.writeProc(&b, tc.conn, tc.conn == protocol.SyncTarget || tc.conn == protocol.VerifyS)
			require.Equal(t, tc.want, b.String())
		})
	}
}

func TestProcProgressNumbers(t *testing.T) {
	for _, tc := range []struct{ left, total, wantLeft, perMille uint64 }{
		{0, 0, 0, 1000},
		{1, 0, 0, 1000},
		{2, 1, 1, 0},
		{0, 1 << 20, 0, 1000},
		{1 << 20, 1 << 20, 1 << 20, 1000 - 1024*1000/1025},
		{1 << 32, 1 << 32, 1 << 32, 1000 - (1<<16)*1000/(1<<16+1)},
		{1 << 31, 1 << 32, 1 << 31, 1000 - (1<<15)*1000/(1<<16+1)},
	} {
		left, p := procProgress(tc.left, tc.total)
		require.Equal(t, tc.wantLeft, left, "%+v", tc)
		require.Equal(t, tc.perMille, p, "%+v", tc)
	}
}

// The progress lines appear in the states in which DRBD prints them.
func TestProcProgressStates(t *testing.T) {
	v := VolumeStatus{Protocol: protocol.C, Resync: &ResyncStatus{Total: 8 << 20, Left: 4 << 20}}
	for c := protocol.StandAlone; c <= protocol.Behind; c++ {
		v.State = connected(protocol.Primary, protocol.Secondary, c, protocol.UpToDate, protocol.UpToDate)
		want := c == protocol.SyncSource || c == protocol.SyncTarget || c == protocol.VerifyS || c == protocol.VerifyT
		require.Equal(t, want, strings.Contains(Status{Volumes: []VolumeStatus{v}}.String(), "finish:"), c)
	}
}

func TestCommas(t *testing.T) {
	for n, want := range map[int64]string{
		-5: "0", 0: "0", 7: "7", 999: "999", 1000: "1,000", 42900: "42,900", 1234567: "1,234,567", 1000000000: "1,000,000,000",
	} {
		require.Equal(t, want, commas(n))
	}
}

func TestPercent(t *testing.T) {
	require.Equal(t, 100.0, (&ResyncStatus{}).Percent())
	require.Equal(t, 25.0, (&ResyncStatus{Total: 400, Left: 300}).Percent())
	require.Equal(t, 0.0, (&ResyncStatus{Total: 400, Left: 900}).Percent())
}
