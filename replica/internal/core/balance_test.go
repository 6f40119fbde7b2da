// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestReadBalancing is the table of spec: behaviour 5.7.
func TestReadBalancing(t *testing.T) {
	for _, test := range []struct {
		policy      ReadBalancing
		sector      uint64
		local, peer int // requests in progress
		want        bool
	}{
		{ReadLocal, 0, 1000, 0, false},
		{ReadRemote, 0, 0, 1000, true},
		{ReadLeastPending, 0, 1, 1, false},
		{ReadLeastPending, 0, 2, 1, true},
		{ReadCongestedRemote, 0, 63, 0, false},
		{ReadCongestedRemote, 0, 64, 1000, true},
		{ReadStriping32K, 63, 0, 0, false},
		{ReadStriping32K, 64, 0, 0, true},
		{ReadStriping32K, 128, 0, 0, false},
		{ReadStriping64K, 127, 0, 0, false},
		{ReadStriping64K, 128, 0, 0, true},
		{ReadStriping128K, 256, 0, 0, true},
		{ReadStriping256K, 511, 0, 0, false},
		{ReadStriping512K, 1024, 0, 0, true},
		{ReadStriping1M, 2047, 0, 0, false},
		{ReadStriping1M, 2048, 0, 0, true},
		{ReadStriping1M, 4096, 0, 0, false},
	} {
		t.Run(fmt.Sprintf("%d at %d", test.policy, test.sector), func(t *testing.T) {
			c := testCore(t, func(cfg *Config) { cfg.Volumes[0].ReadBalancing = test.policy })
			v := c.vols[0]
			v.localPending, v.pds[0].pending = test.local, test.peer
			r := &request{v: v, kind: IORead, sector: test.sector, size: 4096}
			require.Equal(t, test.want, r.goesToPeer())
		})
	}
	c := testCore(t, func(cfg *Config) { cfg.Volumes[0].ReadBalancing = ReadRoundRobin })
	r := &request{v: c.vols[0], kind: IORead, size: 4096}
	require.NotEqual(t, r.goesToPeer(), r.goesToPeer(), "they take turns")
	_, err := New(Config{Rand: func() uint64 { return 1 }, Volumes: []VolumeConfig{{ReadBalancing: readPolicies}}})
	require.ErrorIs(t, err, ErrConfig)
}

// TestOwnWritesAreReadHere: what the peer may not have on its disk is not read there.
func TestOwnWritesAreReadHere(t *testing.T) {
	c := testCore(t, func(cfg *Config) { cfg.Volumes[0].ReadBalancing = ReadRemote })
	v := c.vols[0]
	w := c.newRequest()
	w.v, w.kind, w.sector, w.size, w.issued = v, IOWrite, 8, 4096, true
	v.appPending = 1
	r := &request{v: v, kind: IORead, sector: 15, size: 512}
	require.False(t, r.goesToPeer())
	r.sector = 16
	require.True(t, r.goesToPeer())
}

func TestReadBalancingNeedsTwoGoodDisks(t *testing.T) {
	for _, test := range []struct {
		own, peer     protocol.DiskState
		conn          protocol.ConnState
		local, remote bool
	}{
		{protocol.UpToDate, protocol.UpToDate, protocol.Connected, true, true},
		{protocol.UpToDate, protocol.Inconsistent, protocol.SyncSource, true, false},
		{protocol.UpToDate, protocol.DUnknown, protocol.WFConnection, true, false},
		{protocol.Diskless, protocol.UpToDate, protocol.Connected, false, true},
		{protocol.Outdated, protocol.UpToDate, protocol.Connected, false, true},
	} {
		c := testCore(t, nil)
		v := c.vols[0]
		v.disk, v.pds[0].disk, v.pds[0].conn, v.pds[0].p.phase = test.own, test.peer, test.conn, phaseUp
		r := &request{v: v, kind: IORead, size: 4096}
		require.Equal(t, [2]bool{test.local, test.remote}, [2]bool{r.localCan(), r.remoteCan()}, "%+v", test)
		r.local, r.net = partFailed, partFailed
		require.False(t, r.localCan() || r.remoteCan(), "who failed is not asked again")
	}
}
