// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// filePair is a pair on files, which can grow.
func filePair(t *testing.T, size int64) (p *pair, paths map[string]string) {
	dir := t.TempDir()
	paths = map[string]string{}
	p = newPair(t, pairOptions{disks: func(name string) blockdev.Device {
		paths[name] = filepath.Join(dir, name)
		f, err := os.Create(paths[name])
		require.NoError(t, err)
		require.NoError(t, f.Truncate(size))
		require.NoError(t, f.Close())
		dev, err := blockdev.Open(paths[name], blockdev.Options{})
		require.NoError(t, err)
		return dev
	}})
	return p, paths
}

// TestResizeFiles grows two files under a volume that is written to, then the volume.
func TestResizeFiles(t *testing.T) {
	const before, after = 8 << 20, 24 << 20
	p, paths := filePair(t, before)
	p.start(t)
	ctx := testContext(t)
	_, err := p.alpha.vol.WriteAt(randomBytes(4<<20, 1), 0)
	require.NoError(t, err)
	small := p.alpha.vol.Size()
	_, err = p.alpha.vol.WriteAt(make([]byte, 4096), small)
	require.ErrorIs(t, err, ErrRange)

	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := p.alpha.vol.WriteAt(randomBytes(4096, uint64(i)), i%1024*4096); err != nil {
				done <- err
				return
			}
		}
	}()
	for _, path := range paths {
		require.NoError(t, os.Truncate(path, after))
	}
	require.NoError(t, p.beta.vol.Resize(ctx, 0)) // on the Secondary
	l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), after, metadata.Geometry{})
	require.NoError(t, err)
	want := int64(l.UsableSectors) * metadata.SectorSize
	p.alpha.waitVolume(0, "the new size", func(st VolumeStatus) bool { return st.Size == want })
	require.Equal(t, want, p.beta.vol.Size())
	_, err = p.alpha.vol.WriteAt(randomBytes(4096, 3), want-4096)
	require.NoError(t, err)
	close(stop)
	require.NoError(t, <-done)
	require.NoError(t, p.alpha.res.WaitSync(ctx))
	require.NoError(t, p.beta.res.WaitSync(ctx))

	// Down and up by hand, and back to the maximum.
	require.NoError(t, p.alpha.vol.Resize(ctx, 6<<20))
	require.Equal(t, int64(6<<20), p.alpha.vol.Size())
	require.Equal(t, int64(6<<20), p.beta.vol.Size())
	require.ErrorIs(t, p.alpha.vol.Resize(ctx, want+4096), ErrConfig)
	require.ErrorIs(t, p.alpha.vol.Resize(ctx, 100), ErrAlignment)
	require.NoError(t, p.alpha.vol.Resize(ctx, 0, AssumeClean()))
	require.Equal(t, want, p.beta.vol.Size())
	require.Equal(t, protocol.Connected, p.alpha.res.Status().Volumes[0].State.Conn)
	p.stop(t)
	sb, _, err := metadata.Read(byteReader{p.alpha.disk}, metadata.Internal(), after)
	require.NoError(t, err)
	require.Equal(t, l.UsableSectors, sb.EffectiveSize)
	for _, n := range []*node{p.alpha, p.beta} {
		n.open()
		require.Equal(t, want, n.vol.Size())
	}
}

// TestMoveMetadata: files that grew while nothing was open.
func TestMoveMetadata(t *testing.T) {
	const before, after = 8 << 20, 16 << 20
	p, paths := filePair(t, before)
	p.start(t)
	data := randomBytes(4<<20, 1)
	_, err := p.alpha.vol.WriteAt(data, 0)
	require.NoError(t, err)
	size := p.alpha.vol.Size()
	p.stop(t)
	for name, n := range map[string]*node{"alpha": p.alpha, "beta": p.beta} {
		require.NoError(t, os.Truncate(paths[name], after))
		_, err := n.disk.(blockdev.Resizer).RefreshSize()
		require.NoError(t, err)
		_, err = Open(t.Context(), n.cfg)
		require.ErrorIs(t, err, metadata.ErrNoMetadata)
		require.NoError(t, MoveMetadata(Disk{Device: n.disk}, before))
		n.open()
		require.Equal(t, size, n.vol.Size(), "the size is the cluster's")
		require.Zero(t, n.res.Status().Volumes[0].OutOfSync)
	}
	require.ErrorIs(t, MoveMetadata(Disk{Device: p.alpha.disk, MetaDisk: metadata.FlexExternal(), MetaDevice: p.beta.disk}, before), ErrConfig)
	ctx := testContext(t)
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.beta.res.Connect(ctx))
	for _, n := range []*node{p.alpha, p.beta} { // they agree on what both disks take, and make it equal
		n.waitVolume(0, "the resync of what is new", func(st VolumeStatus) bool {
			return st.Size > size && st.State.Conn == protocol.Connected && st.OutOfSync == 0
		})
	}
	require.NoError(t, p.alpha.res.Promote(ctx))
	require.NoError(t, p.alpha.vol.Resize(ctx, 0))
	require.Greater(t, p.alpha.vol.Size(), size)
	got := make([]byte, len(data))
	_, err = p.alpha.vol.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, data, got)
	p.stop(t)
	p.requireSame(t)
}

// TestDisksOfDifferentSize: the volume is as large as the smaller one allows; a disk that is
// too small for data that exists is refused, and untouched.
func TestDisksOfDifferentSize(t *testing.T) {
	sizes := map[string]int64{"alpha": 16 << 20, "beta": 8 << 20}
	p := newPair(t, pairOptions{fresh: true, disks: func(name string) blockdev.Device { return blockdev.NewMemory(sizes[name]) }})
	ctx := testContext(t)
	p.connect(t)
	require.NoError(t, p.alpha.res.Promote(ctx, Force()))
	require.NoError(t, p.beta.res.WaitSync(ctx))
	require.Equal(t, p.beta.vol.Size(), p.alpha.vol.Size())
	p.stop(t)
	p.requireSame(t)

	p = newPair(t, pairOptions{disks: func(name string) blockdev.Device { return blockdev.NewMemory(sizes[name]) }})
	mark := randomBytes(1<<20, 2)
	_, err := p.beta.disk.WriteAt(mark, 0)
	require.NoError(t, err)
	require.NoError(t, p.alpha.res.Promote(ctx))
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.beta.res.Connect(ctx))
	err = p.alpha.res.WaitConnected(ctx)
	require.ErrorIs(t, err, ErrStandAlone)
	require.ErrorIs(t, err, ErrShrink)
	require.Greater(t, p.alpha.vol.Size(), p.beta.vol.Size())
	require.Equal(t, mark, p.beta.content(1<<20))
}
