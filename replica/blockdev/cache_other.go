// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux && !darwin

package blockdev

import "os"

// bypassCache does nothing: requests go through the page cache here.
func bypassCache(*os.File) error { return ErrNotSupported }
