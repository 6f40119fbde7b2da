// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-blockmirror/blockmirror/examples/nbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Backend is a volume as nbd.Backend, nbd.Trimmer and nbd.ZeroWriter. It is safe for
// concurrent use.
type Backend struct{ vol *replica.Volume }

// NewBackend returns vol as a backend. It does not close it, nor does it change the
// resource's role.
func NewBackend(vol *replica.Volume) *Backend { return &Backend{vol} }

// Export returns an export of a volume. Its Open lets nobody in while the resource is
// Secondary; set Open and Close to those of a [Promotion] to have it promoted.
func Export(name string, vol *replica.Volume) nbd.Export {
	return nbd.Export{
		Name:        name,
		Description: fmt.Sprintf("blockmirror %s, volume %d", vol.Resource().Name(), vol.ID()),
		Backend:     NewBackend(vol), MinBlock: metadata.SectorSize,
		Open: func(context.Context) error {
			if role := vol.Resource().Status().Role(); role != protocol.Primary {
				return fmt.Errorf("%w: %s is %v here: use the other node, or promote this one", nbd.EPERM, vol.Resource().Name(), role)
			}
			return nil
		},
	}
}

// Size implements nbd.Backend.
func (b *Backend) Size() int64 { return b.vol.Size() }

// ReadAt implements nbd.Backend.
func (b *Backend) ReadAt(ctx context.Context, p []byte, off int64) error {
	_, err := b.vol.ReadAtContext(ctx, p, off)
	return translate(err)
}

// WriteAt implements nbd.Backend.
func (b *Backend) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	var err error
	if fua {
		_, err = b.vol.WriteFUA(ctx, p, off)
	} else {
		_, err = b.vol.WriteAtContext(ctx, p, off)
	}
	return translate(err)
}

// Flush implements nbd.Backend.
func (b *Backend) Flush(ctx context.Context) error { return translate(b.vol.Flush(ctx)) }

// Trim implements nbd.Trimmer.
func (b *Backend) Trim(ctx context.Context, off, n int64) error {
	return translate(b.vol.Discard(ctx, off, n))
}

// WriteZeroes implements nbd.ZeroWriter.
func (b *Backend) WriteZeroes(ctx context.Context, off, n int64, how nbd.ZeroFlags) error {
	if how.NoHole {
		return translate(b.vol.WriteZeroes(ctx, off, n))
	}
	return translate(b.vol.WriteZeroes(ctx, off, n, replica.MayUnmap()))
}

// translate puts in front of a volume's error the number that a client is to see. What
// is not here is EIO.
func translate(err error) error {
	for _, t := range []struct {
		is    error
		errno nbd.Errno
	}{
		{replica.ErrNotPrimary, nbd.EPERM},
		{replica.ErrClosed, nbd.ESHUTDOWN},
		{replica.ErrAlignment, nbd.EINVAL},
		{replica.ErrRange, nbd.EINVAL},
		{io.EOF, nbd.EINVAL}, // the volume has become smaller meanwhile
	} {
		if errors.Is(err, t.is) {
			return fmt.Errorf("%w: %w", t.errno, err)
		}
	}
	return err
}
