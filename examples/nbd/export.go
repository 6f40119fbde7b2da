// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"fmt"
	"math/bits"
)

// Export is a device with a name, as clients see it.
type Export struct {
	// Name is how clients ask for it, at most 4096 bytes of UTF-8. A client that
	// gives no name gets the export whose name is empty.
	Name string
	// Description is for people; LIST shows it. At most 4096 bytes.
	Description string
	// Backend is the device.
	Backend Backend
	// ReadOnly refuses everything that changes the device.
	ReadOnly bool

	// MinBlock is what every offset and length is a multiple of: a power of two up
	// to 64 KiB; 0 stands for 1. A client that sends others gets EINVAL.
	MinBlock int
	// PreferredBlock is what is fast: a power of two, at least MinBlock and 512; 0
	// stands for 4096, or MinBlock if that is larger.
	PreferredBlock int

	// Open is called before a client uses the export that nobody uses so far, and
	// its error refuses the client, who sees the message; the next one calls it
	// again. Its context ends when the server or the export goes. nil for nothing
	// to do.
	Open func(ctx context.Context) error
	// Close is called when the last client has gone and its requests have ended,
	// once for each Open that returned nil. Open and Close are never called at the
	// same time. An error is logged. nil for nothing to do.
	Close func() error
}

// export is an Export in service.
type export struct {
	Export
	lock  chan struct{} // holds one token while hooks run or users changes
	users int

	conns map[*conn]struct{} // guarded by Server.mu
}

// newExport checks an Export and fills in defaults.
func newExport(e Export) (*export, error) {
	if e.Backend == nil {
		return nil, fmt.Errorf("%w %q: Backend is nil", ErrExport, e.Name)
	}
	if len(e.Name) > maxString || len(e.Description) > maxString {
		return nil, fmt.Errorf("%w: Name and Description have at most %d bytes", ErrExport, maxString)
	}
	if e.MinBlock == 0 {
		e.MinBlock = 1
	}
	if e.PreferredBlock == 0 {
		e.PreferredBlock = max(4096, e.MinBlock)
	}
	if !isPower(e.MinBlock) || e.MinBlock > 64<<10 {
		return nil, fmt.Errorf("%w %q: MinBlock %d: want a power of two up to 64 KiB", ErrExport, e.Name, e.MinBlock)
	}
	if !isPower(e.PreferredBlock) || e.PreferredBlock < max(512, e.MinBlock) || e.PreferredBlock > maxBlock {
		return nil, fmt.Errorf("%w %q: PreferredBlock %d: want a power of two, %d to %d", ErrExport, e.Name, e.PreferredBlock, max(512, e.MinBlock), maxBlock)
	}
	return &export{Export: e, lock: make(chan struct{}, 1), conns: map[*conn]struct{}{}}, nil
}

func isPower(n int) bool { return n > 0 && bits.OnesCount(uint(n)) == 1 }

// acquire makes the caller a user: the first one calls Open.
func (e *export) acquire(ctx context.Context) error {
	select {
	case e.lock <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ESHUTDOWN, ctx.Err())
	}
	defer func() { <-e.lock }()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ESHUTDOWN, err)
	}
	if e.users == 0 && e.Open != nil {
		if err := e.Open(ctx); err != nil {
			return err
		}
	}
	e.users++
	return nil
}

// release ends what acquire began: the last one calls Close.
func (e *export) release() error {
	e.lock <- struct{}{}
	defer func() { <-e.lock }()
	e.users--
	if e.users == 0 && e.Close != nil {
		return e.Close()
	}
	return nil
}

// flags returns the transmission flags.
func (e *export) flags(structured bool) uint16 {
	f := uint16(txHasFlags | txSendFlush | txSendFUA | txCanMultiConn)
	if structured {
		f |= txSendDF
	}
	if e.ReadOnly {
		return f | txReadOnly
	}
	if _, ok := e.Backend.(Trimmer); ok {
		f |= txSendTrim
	}
	if _, ok := e.Backend.(ZeroWriter); ok {
		f |= txSendZeroes
	}
	if z, ok := e.Backend.(FastZeroWriter); ok && z.FastZeroes() {
		f |= txSendFastZeroes
	}
	return f
}
