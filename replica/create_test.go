// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"testing"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// TestInitialSyncModes: a pair that was declared identical, or made so, copies nothing
// when it connects, also with disks of different size; any other one copies all.
func TestInitialSyncModes(t *testing.T) {
	const size = 8 << 20
	generation := NewGeneration()
	layout, err := metadata.NewLayout(metadata.V08, metadata.Internal(), size, metadata.Geometry{})
	require.NoError(t, err)
	for _, tc := range []struct {
		name  string
		opts  []CreateOption
		beta  []CreateOption // if they are others
		bytes [2]int64       // of the disks
		md    metadata.CreateOptions
		zero  bool
		full  bool
	}{
		{name: "full", full: true},
		{name: "identical", opts: []CreateOption{AssumeIdentical(generation)}},
		{name: "identical, over old metadata", opts: []CreateOption{AssumeIdentical(generation), Force()}},
		{name: "zeroed", opts: []CreateOption{AssumeZeroed(generation), Force()}, zero: true},
		{name: "of different size", opts: []CreateOption{AssumeZeroed(generation)}, zero: true, bytes: [2]int64{size, size + 1<<20},
			md: metadata.CreateOptions{EffectiveSize: layout.UsableSectors}},
		{name: "against a fresh disk", opts: []CreateOption{AssumeIdentical(generation)}, beta: []CreateOption{Force()}, full: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, pairOptions{size: size})
			p.stop(t)
			before := randomBytes(size-1<<20, 5)
			for i, n := range []*node{p.alpha, p.beta} {
				if tc.bytes[i] != 0 || len(tc.opts) < 2 { // a disk without metadata
					n.disk = blockdev.NewMemory(max(size, tc.bytes[i]))
				}
				_, err := n.disk.WriteAt(before, 0)
				require.NoError(t, err)
				opts, md := tc.opts, tc.md
				if i == 1 && tc.beta != nil {
					opts, md = tc.beta, metadata.CreateOptions{}
				}
				require.NoError(t, CreateMetadata(Disk{Device: n.disk}, md, opts...))
				n.cfg.Volumes[0].Disk = n.disk
				n.open()
			}
			ctx := testContext(t)
			p.connect(t)
			if tc.full && tc.beta == nil {
				require.NoError(t, p.alpha.res.Promote(ctx, Force()))
			}
			require.NoError(t, p.alpha.res.WaitSync(ctx))
			require.NoError(t, p.beta.res.WaitSync(ctx))
			st := p.beta.res.Status().Volumes[0]
			require.Equal(t, protocol.UpToDate, st.State.Disk)
			require.Zero(t, st.OutOfSync)
			if tc.full {
				require.GreaterOrEqual(t, st.Received, int64(len(before)))
			} else {
				require.Zero(t, st.Received)
				require.True(t, st.IDs.Current.Equal(generation))
				require.Zero(t, st.IDs.Bitmap)
			}
			want := before
			if tc.zero {
				want = make([]byte, len(before))
			}
			require.True(t, bytes.Equal(want, p.beta.content(int64(len(want)))))
			p.stop(t)
			p.requireSame(t)
		})
	}
}

func TestAssumeIdenticalRefused(t *testing.T) {
	for name, f := range map[string]func(Disk) error{
		"no generation": func(d Disk) error { return CreateMetadata(d, metadata.CreateOptions{}, AssumeZeroed(0)) },
		"primary bit":   func(d Disk) error { return CreateMetadata(d, metadata.CreateOptions{}, AssumeIdentical(1)) },
		"just created":  func(d Disk) error { return CreateMetadata(d, metadata.CreateOptions{}, AssumeIdentical(5)) },
		"too large": func(d Disk) error {
			return CreateMetadata(d, metadata.CreateOptions{EffectiveSize: 1 << 20}, AssumeZeroed(6))
		},
		"two identifiers": func(d Disk) error { return CreateMetadata(d, metadata.CreateOptions{Current: 8}, AssumeIdentical(6)) },
		"flags": func(d Disk) error {
			return CreateMetadata(d, metadata.CreateOptions{Flags: metadata.FullSync}, AssumeIdentical(6))
		},
	} {
		d := Disk{Device: blockdev.NewMemory(1 << 20)}
		before := randomBytes(1<<20, 1)
		_, err := d.Device.WriteAt(before, 0)
		require.NoError(t, err)
		require.ErrorIs(t, f(d), ErrConfig, name)
		after := make([]byte, 1<<20)
		_, err = d.Device.ReadAt(after, 0)
		require.NoError(t, err)
		require.Equal(t, before, after, name)
	}
}
