// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCheckAttach goes through the checks of spec: on-disk 10.1 and 11.
func TestCheckAttach(t *testing.T) {
	const meta, data = 256 << 20, 300 << 20
	type change func(sb *Superblock, t *AttachTarget)
	for _, c := range []struct {
		name   string
		v      Version
		loc    Location
		change change
		want   int
	}{
		{"v08 internal", V08, Internal(), func(*Superblock, *AttachTarget) {}, 0},
		{"v08 indexed", V08, Indexed(1), func(*Superblock, *AttachTarget) {}, 0},
		{"v08 flex-external", V08, FlexExternal(), func(*Superblock, *AttachTarget) {}, 0},
		{"v09 internal", V09, Internal(), func(*Superblock, *AttachTarget) {}, 0},
		{"v09 own node id", V09, Internal(), func(sb *Superblock, at *AttachTarget) { sb.NodeID, at.NodeID = 3, 3 }, 0},
		{"no such place", V08, InternalFixed(), func(*Superblock, *AttachTarget) {}, AttachInvalidIndex},
		{"no such slot", V08, Indexed(300), func(*Superblock, *AttachTarget) {}, AttachInvalidIndex},
		{"v07", V07, Internal(), func(*Superblock, *AttachTarget) {}, AttachInvalidMeta},
		{"unclean magic", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.Unclean = true }, AttachUnclean},
		{"unclean flag", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.Flags = 0 }, AttachUnclean},
		{"unclean v09", V09, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.Flags = 0 }, AttachUnclean},
		{"bytes per bit", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.BytesPerBit = 8192 }, AttachInvalidMeta},
		{"log geometry", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.ALStripeSize4k = 7 }, AttachInvalidMeta},
		{"bitmap behind log", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.BMOffset = -56 }, AttachInvalidMeta},
		{"log not at 8", V08, FlexExternal(), func(sb *Superblock, _ *AttachTarget) { sb.ALOffset, sb.BMOffset = 16, 80 }, AttachInvalidMeta},
		{"bitmap over log", V08, FlexExternal(), func(sb *Superblock, _ *AttachTarget) { sb.BMOffset = 64 }, AttachInvalidMeta},
		{"slot size", V08, Indexed(1), func(sb *Superblock, _ *AttachTarget) { sb.MDSizeSectors-- }, AttachInvalidMeta},
		{"device too small for itself", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.MDSizeSectors = 1 << 30 }, AttachInvalidMeta},
		{"device shorter than offsets", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.MDSizeSectors += 8000 }, AttachInvalidMeta},
		{"log gap", V08, FlexExternal(), func(sb *Superblock, _ *AttachTarget) { sb.BMOffset += 8 }, AttachInvalidMeta},
		{"log size", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.ALOffset = -63 }, AttachInvalidMeta},
		{"crooked bitmap", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.BMOffset-- }, AttachInvalidMeta},
		{"bitmap too small", V08, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.EffectiveSize = 1 << 33 }, AttachInvalidMeta},
		{"agreed size absurd", V09, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.EffectiveSize = 1 << 63 }, AttachInvalidMeta},
		{"configured too large", V08, Internal(), func(_ *Superblock, at *AttachTarget) { at.Configured = meta / 512 }, AttachDiskTooSmall},
		{"running device larger", V08, FlexExternal(), func(_ *Superblock, at *AttachTarget) { at.Running = data/512 + 1 }, AttachDiskTooSmall},
		{"running device as large", V08, FlexExternal(), func(_ *Superblock, at *AttachTarget) { at.Running = data / 512 }, 0},
		{"slot cut off", V08, Indexed(1), func(_ *Superblock, at *AttachTarget) { at.MetaBytes -= SectorSize }, AttachInvalidMeta},
		{"shrunk", V08, FlexExternal(), func(sb *Superblock, at *AttachTarget) {
			sb.Flags |= Consistent
			sb.EffectiveSize, at.DataBytes = data/512, data-SectorSize
		}, AttachImplicitShrink},
		{"shrunk on request", V08, FlexExternal(), func(sb *Superblock, at *AttachTarget) {
			sb.Flags |= Consistent
			sb.EffectiveSize, at.DataBytes, at.Configured = data/512, data-SectorSize, 1000
		}, 0},
		{"shrunk but inconsistent", V08, FlexExternal(), func(sb *Superblock, at *AttachTarget) {
			sb.EffectiveSize, at.DataBytes = data/512, data-SectorSize
		}, 0},
		{"v09 other node", V09, Internal(), func(sb *Superblock, at *AttachTarget) { sb.NodeID, at.NodeID = 3, 4 }, AttachInvalidMeta},
		{"v09 own slot", V09, Internal(), func(sb *Superblock, at *AttachTarget) { at.NodeID, sb.Peers[4].BitmapIndex = 4, 0 }, AttachInvalidMeta},
		{"v09 no such slot", V09, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.Peers[31].BitmapIndex = 3 }, AttachInvalidMeta},
		{"v09 last slot", V09, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.Peers[31].BitmapIndex = 2 }, 0},
		{"v09 slots", V09, Internal(), func(sb *Superblock, _ *AttachTarget) { sb.MaxPeers = 32 }, AttachInvalidMeta},
	} {
		t.Run(c.name, func(t *testing.T) {
			loc := c.loc
			if loc.check(c.v) != nil {
				loc = FlexExternal()
			}
			var g Geometry
			if c.v == V09 {
				g.MaxPeers = 3
			}
			l, err := NewLayout(c.v, loc, meta, g)
			require.NoError(t, err)
			sb, err := NewSuperblock(l, CreateOptions{Geometry: g})
			require.NoError(t, err)
			at := AttachTarget{Location: c.loc, MetaBytes: meta, DataBytes: data}
			c.change(&sb, &at)
			err = sb.CheckAttach(at)
			if c.want == 0 {
				require.NoError(t, err)
				return
			}
			var refused *AttachError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, c.want, refused.Number, err)
			require.ErrorIs(t, err, map[int]error{
				AttachUnclean: ErrUnclean, AttachInvalidMeta: ErrCorrupt, AttachInvalidIndex: ErrInvalidLocation,
				AttachDiskTooSmall: ErrDeviceTooSmall, AttachImplicitShrink: err,
			}[c.want])
			require.NotErrorIs(t, err, ErrNoMetadata)
		})
	}
}

func TestCheckAttachSmallMetaDevice(t *testing.T) {
	l, err := NewLayout(V08, FlexExternal(), 1<<20-SectorSize, Geometry{})
	require.NoError(t, err)
	sb, err := NewSuperblock(l, CreateOptions{})
	require.NoError(t, err)
	err = sb.CheckAttach(AttachTarget{Location: FlexExternal(), MetaBytes: l.DeviceBytes, DataBytes: 1 << 30})
	var refused *AttachError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, AttachMetaTooSmall, refused.Number)
	require.True(t, errors.Is(err, ErrDeviceTooSmall))
}

// TestGoldenAttach: what the kernel wrote is unclean until apply-al.
func TestGoldenAttach(t *testing.T) {
	for _, g := range goldens(t) {
		if g.ApplyExit == nil {
			continue
		}
		d := g.device(t, "")
		sb, _, err := Read(d, g.location(t), g.DeviceBytes)
		require.NoError(t, err)
		at := AttachTarget{Location: g.location(t), MetaBytes: g.DeviceBytes, DataBytes: 500 << 20}
		if g.Name == "v08-flexext-last-extent" {
			at.DataBytes = 1 << 30
		}
		require.ErrorIs(t, sb.CheckAttach(at), ErrUnclean, g.Name)
		sb, _, err = Read(g.device(t, ".applied"), g.location(t), g.DeviceBytes)
		require.NoError(t, err)
		require.NoError(t, sb.CheckAttach(at), g.Name)
	}
}
