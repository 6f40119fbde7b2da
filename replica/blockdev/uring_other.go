// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package blockdev

import "fmt"

func (f *File) prefersRing() bool { return false }

// NewRing returns ErrNotSupported: io_uring is Linux's.
func NewRing(*File, int) (Queue, error) {
	return nil, fmt.Errorf("io_uring: %w", ErrNotSupported)
}
