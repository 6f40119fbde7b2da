// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import "context"

// Backend is the device behind an export. All methods are called from many goroutines
// at once, with ranges that lie inside the device and are not empty, and with no buffer
// that is used after the call has returned. Their context ends when the server is
// closed; one that ends later than that delays Server.Close.
//
// Two writes that overlap and run at one time may end in either order.
type Backend interface {
	// Size returns the size in bytes. It may grow; a client learns that when it
	// connects again. 0 stands for not known: clients are refused.
	Size() int64
	// ReadAt fills p from offset off, or returns an error.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// WriteAt writes p at offset off. With fua the data is durable when it returns.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
	// Flush returns when every write, trim and write of zeroes that had returned
	// before it was called is durable, whichever client sent it.
	Flush(ctx context.Context) error
}

// Trimmer is a Backend that can be told what is not needed any more.
type Trimmer interface {
	// Trim tells that n bytes at off are not needed. They may read as anything.
	Trim(ctx context.Context, off, n int64) error
}

// ZeroWriter is a Backend that can write zeroes without being sent them. n can be up
// to 4 GiB, whatever the largest block.
type ZeroWriter interface {
	// WriteZeroes makes n bytes at off read as zeroes.
	WriteZeroes(ctx context.Context, off, n int64, how ZeroFlags) error
}

// FastZeroWriter is a ZeroWriter that obeys ZeroFlags.Fast.
type FastZeroWriter interface {
	ZeroWriter
	// FastZeroes reports whether it does; it is asked once for each client.
	FastZeroes() bool
}

// ZeroFlags says how zeroes are to be written.
type ZeroFlags struct {
	// NoHole: the range must be allocated afterwards; without it, it may be
	// deallocated if it reads as zeroes then.
	NoHole bool
	// Fast: return an error that wraps ENOTSUP, at once, if it were not faster than
	// writing the zeroes. Only a FastZeroWriter sees it.
	Fast bool
}

// ExtentLister is a Backend that knows where it has data. Of any other all is said to
// be data.
type ExtentLister interface {
	// Extents describes n bytes from off on: at least one extent, at most max, none
	// of them empty, each beginning where the one before it ends. They may end
	// before off+n or behind it.
	Extents(ctx context.Context, off, n int64, max int) ([]Extent, error)
}

// Extent is a range of a device all of one kind.
type Extent struct {
	// Length in bytes.
	Length int64
	// Hole: not allocated; a write to it may find no space.
	Hole bool
	// Zero: reads as zeroes.
	Zero bool
}
