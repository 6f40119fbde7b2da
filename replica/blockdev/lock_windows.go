// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// flock locks one byte far behind any data, because a lock on Windows keeps
// others from the bytes that it covers.
func flock(f *os.File, shared bool) error {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if !shared {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	at := windows.Overlapped{OffsetHigh: 1 << 30}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return fmt.Errorf("open %s: %w: another program has it open and locked; stop that first", f.Name(), ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("blockdev: lock %s: %w", f.Name(), err)
	}
	return nil
}

// syncDir has nothing to do: NTFS journals its directories.
func syncDir(string) error { return nil }
