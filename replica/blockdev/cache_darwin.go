// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"os"

	"golang.org/x/sys/unix"
)

// bypassCache asks macOS to keep the file's data out of the page cache. It has no
// alignment rules.
func bypassCache(f *os.File) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_NOCACHE, 1)
	return err
}
