// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/stretchr/testify/require"
)

func TestConfigRefused(t *testing.T) {
	disk := blockdev.NewMemory(1 << 20)
	for _, tc := range []struct {
		name, says string
		spoil      func(*Config)
	}{
		{"no volume", "Volumes is empty", func(c *Config) { c.Volumes = nil }},
		{"same ID", "two volumes have the ID 0", func(c *Config) { c.Volumes = append(c.Volumes, VolumeConfig{}) }},
		{"two peers", "2 Peers", func(c *Config) { c.Peers = append(c.Peers, PeerConfig{}) }},
		{"negative size", "Size is -1", func(c *Config) { c.Volumes[0].Size = -1 }},
		{"few extents", "ALExtents is 7, want 67 to 65534", func(c *Config) { c.Volumes[0].ALExtents = 7 }},
		{"external without device", "MetaDevice is nil", func(c *Config) { c.Volumes[0].MetaDisk = metadata.FlexExternal() }},
		{"internal with device", "MetaDevice is set", func(c *Config) { c.Volumes[0].MetaDevice = disk }},
		{"slow resync", "Resync.Rate is 1", func(c *Config) { c.Volumes[0].Resync.Rate = 1 }},
		{"protocol", "Protocol 9", func(c *Config) { c.Peers[0].Protocol = 9 }},
		{"two primaries", "needs protocol.C", func(c *Config) { c.Peers[0].AllowTwoPrimaries, c.Peers[0].Protocol = true, protocol.A }},
		{"unknown CRAMAlg", "CRAMAlg", func(c *Config) { c.Peers[0].CRAMAlg, c.Peers[0].Secret = "nosuch", "x" }},
		{"secret alone", "go together", func(c *Config) { c.Peers[0].Secret = "x" }},
		{"timeout", "Timeout is 1", func(c *Config) { c.Peers[0].Timeout = 1 }},
		{"version", "MaxVersion is 85", func(c *Config) { c.Peers[0].MaxVersion = 85 }},
		{"policy", "after-sb-0pri", func(c *Config) { c.Peers[0].AfterSB0Pri = protocol.PolicyConsensus }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := Config{Name: "r0", Volumes: []VolumeConfig{{Disk: disk}}, Peers: []PeerConfig{{Name: "beta"}}}
			require.NoError(t, cfg.validate())
			tc.spoil(&cfg)
			_, err := Open(t.Context(), cfg)
			require.ErrorIs(t, err, ErrConfig)
			require.ErrorContains(t, err, tc.says)
			require.ErrorContains(t, err, "replica: open r0: ")
		})
	}
}

// The zero values are DRBD's defaults (spec: behaviour 10), but for the speed of a resync.
func TestConfigDefaults(t *testing.T) {
	v := coreVolume(&VolumeConfig{ID: 7})
	require.Equal(t, core.VolumeConfig{
		Number: 7, Minor: 7, DiskFlushes: true,
		ResyncRate: 102400, CPlanAhead: 20, CDelay: 10, CFill: 2048, CMaxRate: 102400, CMinRate: 10240,
	}, v)
	n := coreNet(&PeerConfig{})
	require.Equal(t, protocol.C, n.Protocol)
	require.Equal(t, 6*time.Second, n.Timeout)
	require.Equal(t, 500*time.Millisecond, n.PingTimeout)
	require.Equal(t, 10*time.Second, n.PingInterval)
	require.Equal(t, 7, n.KoCount)
	require.Equal(t, 2048, n.MaxEpochSize)
	require.Equal(t, 2048, n.MaxBuffers)
	require.True(t, n.UseRLE)
	require.Equal(t, 42*time.Second, dataTimeout(&PeerConfig{}))
	require.Equal(t, int64(8<<20), maxBuffersOf(&Config{}))
}

// Negative values are "off" where zero means the default.
func TestConfigOff(t *testing.T) {
	v := coreVolume(&VolumeConfig{Minor: 3, Resync: ResyncConfig{Rate: 10 << 20, PlanAhead: -1, FillTarget: -1, MinRate: -1}})
	require.Equal(t, 3, v.Minor)
	require.Equal(t, uint32(10<<10), v.ResyncRate)
	require.Zero(t, v.CPlanAhead)
	require.Zero(t, v.CFill)
	require.Zero(t, v.CMinRate)
	require.Equal(t, uint32(20<<10), coreVolume(&VolumeConfig{Resync: ResyncConfig{PlanAhead: -1, MaxRate: 20 << 20}}).ResyncRate)
	n := coreNet(&PeerConfig{KoCount: -1, DisableRLE: true})
	require.Zero(t, n.KoCount)
	require.False(t, n.UseRLE)
	require.Zero(t, dataTimeout(&PeerConfig{KoCount: -1}))
	require.Equal(t, uint32(200), coreVolume(&VolumeConfig{Resync: ResyncConfig{FillTarget: 100 << 10}}).CFill)
}

func TestPieceLen(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct{ off, n, want int64 }{
		{0, 3 * mib, mib},
		{512, 3 * mib, mib - 512},
		{mib, 100, 100},
		{5*mib - 512, 2 * mib, 512},
	} {
		require.Equal(t, tc.want, pieceLen(tc.off, tc.n, mib), "%+v", tc)
	}
}

func TestRefusedError(t *testing.T) {
	var err error = &RefusedError{Doing: "promote", Code: protocol.CodeNoUpToDateDisk, ByPeer: true}
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorIs(t, err, ErrNoUpToDateData)
	require.ErrorIs(t, err, protocol.CodeNoUpToDateDisk)
	require.NotErrorIs(t, err, ErrDiskless)
	require.ErrorContains(t, err, "refused by the peer (-2)")
}
