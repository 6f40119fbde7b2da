// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// loopDevice returns the path of a block device of testSize bytes, with blocks of
// blockSize, and a function that changes its size. It needs root.
func loopDevice(t *testing.T, blockSize uint32) (path string, resize func(int64)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("block devices are tested with loop devices, which need root")
	}
	cannot := func(err error) {
		if os.Getenv("CI") != "" {
			t.Fatalf("no loop device although this is root in CI: %v", err)
		}
		t.Skipf("no loop devices here: %v", err)
	}
	store := filepath.Join(t.TempDir(), "store")
	require.NoError(t, os.WriteFile(store, nil, 0o600))
	require.NoError(t, os.Truncate(store, testSize))
	back, err := os.OpenFile(store, os.O_RDWR, 0)
	require.NoError(t, err)
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		cannot(err)
	}
	defer ctl.Close()
	cfg := unix.LoopConfig{Fd: uint32(back.Fd()), Size: blockSize}
	for {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			cannot(err)
		}
		path = fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			cannot(err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == unix.EBUSY {
			dev.Close() // somebody else took it
			continue
		}
		if err != nil {
			dev.Close()
			cannot(err)
		}
		t.Cleanup(func() {
			require.NoError(t, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0))
			dev.Close()
		})
		return path, func(size int64) {
			require.NoError(t, os.Truncate(store, size))
			require.NoError(t, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0))
		}
	}
}

func TestBlockDevices(t *testing.T) {
	for _, bs := range []uint32{512, 4096} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) {
			path, _ := loopDevice(t, bs)
			f, err := Open(path, Options{})
			require.NoError(t, err)
			require.True(t, f.Limits().Direct)
			require.EqualValues(t, bs, f.blkAlign)
			require.GreaterOrEqual(t, f.Limits().PhysicalBlockSize, int64(bs))
			testDevice(t, f)
		})
		t.Run(fmt.Sprint(bs, " buffered"), func(t *testing.T) {
			path, _ := loopDevice(t, bs)
			f, err := Open(path, Options{NoDirect: true})
			require.NoError(t, err)
			require.EqualValues(t, SectorSize, f.blkAlign)
			testDevice(t, f)
		})
	}
}

func TestBlockDeviceClaim(t *testing.T) {
	path, resize := loopDevice(t, 512)
	f, err := Open(path, Options{})
	require.NoError(t, err)
	_, err = Open(path, Options{})
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorContains(t, err, "stop that first")
	looker, err := Open(path, Options{ReadOnly: true, NoLock: true})
	require.NoError(t, err)
	require.NoError(t, looker.Close())

	// Grown under it.
	resize(2 * testSize)
	require.EqualValues(t, testSize, f.Size())
	n, err := f.RefreshSize()
	require.NoError(t, err)
	require.EqualValues(t, 2*testSize, n)
	_, err = f.WriteAt(fill(4096, 1), 2*testSize-4096)
	require.NoError(t, err)
	require.ErrorIs(t, f.Resize(testSize), ErrNotSupported)

	require.NoError(t, f.Close())
	f, err = Open(path, Options{})
	require.NoError(t, err, "free again")
	require.NoError(t, f.Close())
}

// TestSmallWritesOnLargeBlocks: writes that share a block of the disk do not undo
// each other, nor whole-block writes beside them.
func TestSmallWritesOnLargeBlocks(t *testing.T) {
	path, _ := loopDevice(t, 4096)
	f, err := Open(path, Options{})
	require.NoError(t, err)
	defer f.Close()
	var wg sync.WaitGroup
	for s := range 8 {
		wg.Go(func() {
			for v := range 20 {
				_, err := f.WriteAt(bytes.Repeat([]byte{byte(v)}, 512), int64(s)*512)
				require.NoError(t, err)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			_, err := f.WriteAt(fill(4096, 9), 4096)
			require.NoError(t, err)
		}
	})
	wg.Wait()
	got := AlignedBuffer(8192)
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{19}, 4096), got[:4096])
	require.Equal(t, fill(4096, 9), got[4096:])
}

func TestTmpfs(t *testing.T) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) != nil || st.Type != unix.TMPFS_MAGIC {
		t.Skip("no tmpfs at /dev/shm")
	}
	dir, err := os.MkdirTemp("/dev/shm", "blockdev")
	if err != nil {
		t.Skipf("cannot write to /dev/shm: %v", err)
	}
	defer os.RemoveAll(dir)
	f, err := Create(filepath.Join(dir, "disk"), testSize, Options{})
	require.NoError(t, err)
	require.False(t, f.prefersRing(), "memory is faster without a ring")
	testDevice(t, f)
}

func TestHolesGiveSpaceBack(t *testing.T) {
	f := create(t, Options{})
	if !f.Limits().DiscardSupported {
		t.Skip("this file system has no holes")
	}
	allocated := func() int64 {
		var st unix.Stat_t
		require.NoError(t, f.Flush())
		require.NoError(t, unix.Stat(f.Path(), &st))
		return int64(st.Blocks) * 512
	}
	_, err := f.WriteAt(fill(testSize, 1), 0)
	require.NoError(t, err)
	full := allocated()
	require.GreaterOrEqual(t, full, int64(testSize))
	require.NoError(t, f.Discard(512<<10, 512<<10))
	require.LessOrEqual(t, allocated(), full-512<<10)
	require.NoError(t, f.WriteZeroes(0, 512<<10, true))
	require.LessOrEqual(t, allocated(), full-1<<20)
	got := AlignedBuffer(1 << 20)
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 1<<20), got)
	require.EqualValues(t, testSize, f.Size())
}

func TestPreallocate(t *testing.T) {
	f := create(t, Options{Preallocate: true})
	var st unix.Stat_t
	require.NoError(t, unix.Stat(f.Path(), &st))
	require.GreaterOrEqual(t, int64(st.Blocks)*512, int64(testSize))
}
