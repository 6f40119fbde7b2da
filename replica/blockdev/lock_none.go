// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd || windows)

package blockdev

import (
	"fmt"
	"os"
)

// flock fails: without a lock two programs could open one disk.
func flock(f *os.File, _ bool) error {
	return fmt.Errorf("lock %s: %w: no file locks here, set Options.NoLock and take care yourself", f.Name(), ErrNotSupported)
}

func syncDir(string) error { return nil }
