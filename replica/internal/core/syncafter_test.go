// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

func TestMustWait(t *testing.T) {
	idle := protocol.State{Conn: protocol.Connected, Disk: protocol.UpToDate}
	with := func(set func(*protocol.State)) protocol.State {
		s := idle
		set(&s)
		return s
	}
	syncing := with(func(s *protocol.State) { s.Conn = protocol.SyncTarget })
	for _, tc := range []struct {
		name string
		list []OrderedVolume // the first one asks
		wait bool
	}{
		{"no dependency", []OrderedVolume{{-1, syncing}}, false},
		{"idle", []OrderedVolume{{1, syncing}, {-1, idle}}, false},
		{"source", []OrderedVolume{{1, syncing}, {-1, with(func(s *protocol.State) { s.Conn = protocol.SyncSource })}}, true},
		{"target", []OrderedVolume{{1, syncing}, {-1, syncing}}, true},
		{"verify", []OrderedVolume{{1, syncing}, {-1, with(func(s *protocol.State) { s.Conn = protocol.VerifyS })}}, true},
		{"bitmap exchange", []OrderedVolume{{1, syncing}, {-1, with(func(s *protocol.State) { s.Conn = protocol.WFBitMapS })}}, false},
		{"paused", []OrderedVolume{{1, syncing}, {-1, with(func(s *protocol.State) { s.UserISP = true })}}, true},
		{"paused by its peer", []OrderedVolume{{1, syncing}, {-1, with(func(s *protocol.State) { s.PeerISP = true })}}, true},
		{"through another", []OrderedVolume{{1, syncing}, {2, idle}, {-1, syncing}}, true},
		{"through a diskless one", []OrderedVolume{{1, syncing}, {2, with(func(s *protocol.State) { s.Disk = protocol.Diskless })}, {-1, syncing}}, false},
		{"missing", []OrderedVolume{{7, syncing}}, false},
		{"loop", []OrderedVolume{{1, syncing}, {0, idle}}, true},
		{"idle loop of others", []OrderedVolume{{1, syncing}, {2, idle}, {1, idle}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.wait, MustWait(tc.list, 0)) })
	}
}

func TestInLoop(t *testing.T) {
	for _, tc := range []struct {
		after []int
		loop  bool
	}{
		{[]int{-1}, false}, {[]int{0}, true}, {[]int{1, -1}, false}, {[]int{1, 0}, true},
		{[]int{1, 2, 0}, true}, {[]int{1, 2, 3}, false}, {[]int{1, 2, 1}, true},
	} {
		var list []OrderedVolume
		for _, a := range tc.after {
			list = append(list, OrderedVolume{After: a})
		}
		require.Equal(t, tc.loop, InLoop(list, 0), "%v", tc.after)
	}
}
