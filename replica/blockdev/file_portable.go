// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package blockdev

import (
	"fmt"
	"io/fs"
	"os"
)

// Block devices are supported on Linux only.
func isBlockDevice(fs.FileMode) bool { return false }

func (f *File) open(opt Options) error {
	flags := os.O_RDWR
	if opt.ReadOnly {
		flags = os.O_RDONLY
	}
	var err error
	if f.f, err = os.OpenFile(f.path, flags, 0); err != nil {
		return fmt.Errorf("blockdev: open: %w", err)
	}
	f.limits.Direct = !opt.NoDirect && bypassCache(f.f) == nil
	return nil
}

func (f *File) lock(opt Options) error { return flock(f.f, opt.ReadOnly) }

func (f *File) probe() error {
	f.limits.LogicalBlockSize = SectorSize
	f.limits.PhysicalBlockSize = 4096
	f.limits.MinIO = 4096
	return nil
}

func (f *File) querySize() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// flush is fsync, F_FULLFSYNC or FlushFileBuffers: os.File knows which.
func (f *File) flush() error { return f.f.Sync() }

func (f *File) writeFUA(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	if err != nil {
		return n, err
	}
	return n, f.flush()
}

func (f *File) punch(_ int, _, _ int64) error { return ErrNotSupported }

func (f *File) zeroRange(_ int, _, _ int64, _ bool) error { return ErrNotSupported }

func preallocate(*os.File, int64) error {
	return fmt.Errorf("preallocate: %w", ErrNotSupported)
}
