// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// create makes a File of testSize bytes in a folder that the test removes.
func create(t testing.TB, opt Options) *File {
	t.Helper()
	f, err := Create(filepath.Join(t.TempDir(), "disk"), testSize, opt)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFileDevices(t *testing.T) {
	t.Run("direct", func(t *testing.T) { testDevice(t, create(t, Options{})) })
	t.Run("buffered", func(t *testing.T) {
		f := create(t, Options{NoDirect: true})
		require.False(t, f.Limits().Direct)
		testDevice(t, f)
	})
}

func TestFileLock(t *testing.T) {
	f := create(t, Options{})
	_, err := Open(f.Path(), Options{})
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorContains(t, err, f.Path())
	_, err = Open(f.Path(), Options{ReadOnly: true})
	require.ErrorIs(t, err, ErrBusy)
	looker, err := Open(f.Path(), Options{ReadOnly: true, NoLock: true})
	require.NoError(t, err)
	require.NoError(t, looker.Close())
	require.NoError(t, f.Close())

	// Readers share.
	r1, err := Open(f.Path(), Options{ReadOnly: true})
	require.NoError(t, err)
	defer r1.Close()
	r2, err := Open(f.Path(), Options{ReadOnly: true})
	require.NoError(t, err)
	defer r2.Close()
	_, err = Open(f.Path(), Options{})
	require.ErrorIs(t, err, ErrBusy)
	_, err = r1.WriteAt(AlignedBuffer(512), 0)
	require.Error(t, err)
	_, err = r1.ReadAt(AlignedBuffer(512), 0)
	require.NoError(t, err)
}

func TestFileOpenErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "missing"), Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrNotSupported)
	_, err = Open(os.DevNull, Options{})
	require.ErrorIs(t, err, ErrNotSupported)

	path := filepath.Join(dir, "disk")
	for _, size := range []int64{-512, 0, 100} {
		_, err = Create(path, size, Options{})
		require.ErrorIs(t, err, ErrAlignment)
	}
	_, err = Create(path, 512, Options{ReadOnly: true})
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoFileExists(t, path)
	f, err := Create(path, 4096, Options{})
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = Create(path, 4096, Options{})
	require.ErrorIs(t, err, fs.ErrExist, "an existing disk is never overwritten")
}

func TestFilePersists(t *testing.T) {
	f := create(t, Options{})
	data := fill(testSize, 1)
	_, err := f.WriteAt(data, 0)
	require.NoError(t, err)
	require.NoError(t, f.Flush())
	require.NoError(t, f.Close())
	link := filepath.Join(t.TempDir(), "link")
	if os.Symlink(f.Path(), link) != nil {
		link = f.Path() // no such thing here
	}
	f, err = Open(link, Options{NoDirect: true})
	require.NoError(t, err)
	requireContents(t, data, f)
	require.NoError(t, f.Close())
}

func TestFileSizes(t *testing.T) {
	f := create(t, Options{})
	// Grown by somebody else: noticed when asked.
	require.NoError(t, os.Truncate(f.Path(), testSize+4096))
	require.EqualValues(t, testSize, f.Size())
	n, err := f.RefreshSize()
	require.NoError(t, err)
	require.EqualValues(t, testSize+4096, n)
	_, err = f.WriteAt(fill(4096, 1), testSize)
	require.NoError(t, err)

	require.ErrorIs(t, f.Resize(1000), ErrAlignment)
	require.NoError(t, f.Resize(8192))
	require.EqualValues(t, 8192, f.Size())

	// Truncated by somebody else: an error, not wrong data.
	require.NoError(t, os.Truncate(f.Path(), 4096))
	_, err = f.ReadAt(AlignedBuffer(8192), 0)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, f.Close())

	// A last half sector does not count.
	require.NoError(t, os.Truncate(f.Path(), 4096+512+100))
	f, err = Open(f.Path(), Options{})
	require.NoError(t, err)
	defer f.Close()
	require.EqualValues(t, 4096+512, f.Size())
	tail := make([]byte, 512)
	require.NoError(t, ReadTail(f, tail))
}

func TestFlushFailureSticks(t *testing.T) {
	f := create(t, Options{})
	// A pipe cannot be synchronised, which stands for a disk that fails to.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	real := f.f
	defer real.Close()
	f.f = r
	err = f.Flush()
	if err == nil {
		t.Skip("this system synchronises pipes")
	}
	require.NotErrorIs(t, err, ErrFlushFailed)
	f.f = real
	require.ErrorIs(t, f.Flush(), ErrFlushFailed, "although the disk is well again")
	require.NoError(t, r.Close())
}

// TestFileCloseRaces closes a device while it is used: every request ends well or
// with ErrClosed.
func TestFileCloseRaces(t *testing.T) {
	f := create(t, Options{})
	var wg sync.WaitGroup
	started := make(chan struct{}, 6)
	for i := range 6 {
		wg.Go(func() {
			buf := AlignedBuffer(4096)
			for n := 0; ; n++ {
				var err error
				switch i {
				case 0:
					_, err = f.ReadAt(buf, 0)
				case 1:
					_, err = f.WriteAt(buf, 4096)
				case 2:
					_, err = f.WriteAtFUA(buf, 8192)
				case 3:
					err = f.Flush()
				case 4:
					err = f.WriteZeroes(12288, 4096, true)
				case 5:
					_, err = f.WriteAt(misaligned(4096), 16384)
				}
				if err != nil {
					require.ErrorIs(t, err, ErrClosed)
					return
				}
				if n == 3 {
					started <- struct{}{}
				}
			}
		})
	}
	for range 6 {
		<-started
	}
	require.NoError(t, f.Close())
	wg.Wait()
}

func TestFileAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := create(t, Options{})
	good, bad := fill(64<<10, 1), misaligned(64<<10)
	round := func() {
		for _, err := range []error{
			second(f.WriteAt(good, 0)),
			second(f.WriteAt(bad, 512<<10)),
			second(f.WriteAtFUA(good, 0)),
			second(f.ReadAt(good, 0)),
			second(f.ReadAt(bad, 0)),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	round()
	require.Zero(t, testing.AllocsPerRun(20, round))
}

func second(_ int, err error) error { return err }
