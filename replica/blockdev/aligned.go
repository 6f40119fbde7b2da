// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import "unsafe"

// Alignment is what AlignedBuffer guarantees: 4096 bytes, enough for direct I/O
// on any disk and file system in use.
const Alignment = 4096

// AlignedBuffer returns n zero bytes whose first byte lies at a multiple of
// Alignment. Its capacity is n. A negative n counts as 0.
func AlignedBuffer(n int) []byte {
	if n <= 0 {
		return []byte{}
	}
	b := make([]byte, n+Alignment-1)
	skip := -int(addressOf(b)) & (Alignment - 1)
	return b[skip : skip+n : skip+n]
}

// IsAligned tells whether the memory of p begins at a multiple of align, a power
// of two. Empty memory is aligned.
func IsAligned(p []byte, align int) bool {
	return align <= 1 || addressOf(p)&uintptr(align-1) == 0
}

// addressOf is where p lies. Go does not move heap memory, and a slice handed to
// a system call is on the heap.
func addressOf(p []byte) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))
}
