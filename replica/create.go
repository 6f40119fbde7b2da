// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// How a new pair becomes equal is chosen when its metadata is created:
//
//	full (the default)   Promote with Force on one node, and everything is copied
//	AssumeIdentical      both disks hold the same already: nothing is copied
//	AssumeZeroed         both disks are emptied, and then hold the same
//
// Both nodes need the same choice with the same identifier.

type createOptions struct {
	force     bool
	identical metadata.UUID // 0 for a full sync
	zero      bool
}

type createOption func(*createOptions)

func (f createOption) create(o *createOptions) { f(o) }

// AssumeIdentical declares that the disks of both nodes hold the same data already,
// byte for byte: a copy was restored on both, or both are new and read as zeroes.
// Nothing is copied when they connect. If it is not true, the nodes differ and nothing
// notices but a verify.
//
// generation names the data; it must be the same on both nodes, random, and not used
// before: [NewGeneration] makes one. Both disks start out UpToDate, with the bitmap
// identifier 0, and the agreed size is written, because a disk without one marks everything at
// its first attach (spec: on-disk 12, trap 11). The size is what the disk offers; for
// disks that differ, set metadata.CreateOptions.EffectiveSize (sectors) on both to what
// the smaller one offers.
func AssumeIdentical(generation metadata.UUID) CreateOption {
	return createOption(func(o *createOptions) { o.identical, o.zero = generation, false })
}

// AssumeZeroed is AssumeIdentical for disks that need not be empty: first the data area
// is deallocated, or zeroed where the disk cannot promise that it then reads as
// zeroes, and flushed. Everything on it is lost.
func AssumeZeroed(generation metadata.UUID) CreateOption {
	return createOption(func(o *createOptions) { o.identical, o.zero = generation, true })
}

// NewGeneration returns an identifier for AssumeIdentical and AssumeZeroed. Give the
// same one to both nodes.
func NewGeneration() metadata.UUID {
	for {
		if u := metadata.UUID(random()).Identity(); usableGeneration(u) {
			return u
		}
	}
}

// usableGeneration refuses the identifiers that have a meaning of their own.
func usableGeneration(u metadata.UUID) bool {
	return u.Identity() != metadata.UUIDNone && !u.Equal(metadata.UUIDJustCreated)
}

// CreateMetadata writes fresh metadata of format v08 to a disk, as drbdmeta's
// create-md does: the bitmap is clear, the identifiers say "just created", and
// nothing is known of the peer. What the disk holds outside the metadata area
// stays. The zero options are right for a new pair whose data is copied from one node to
// the other; see AssumeIdentical and AssumeZeroed for one that needs no copying.
//
// If there is metadata already it returns ErrMetadataExists, unless Force is
// given: a disk that loses its metadata is resynced in full. Other errors: ErrConfig,
// those of metadata.Create and of the device.
func CreateMetadata(d Disk, md metadata.CreateOptions, opts ...CreateOption) error {
	if err := createMetadata(d, md, opts); err != nil {
		return fmt.Errorf("replica: create metadata: %w", err)
	}
	return nil
}

func createMetadata(d Disk, md metadata.CreateOptions, opts []CreateOption) error {
	var o createOptions
	for _, opt := range opts {
		opt.create(&o)
	}
	if d.Device == nil {
		return fmt.Errorf("%w: Disk.Device is nil", ErrConfig)
	}
	if err := checkDisk(d.MetaDisk, d.MetaDevice); err != nil {
		return err
	}
	dev := d.metaDevice()
	found, old, err := metadata.Read(dev, d.MetaDisk, dev.Size())
	exists := err == nil
	switch {
	case exists && !o.force:
		return fmt.Errorf("%w (%v)", ErrMetadataExists, found.Version)
	case !exists && !o.force && !errors.Is(err, metadata.ErrNoMetadata) && !errors.Is(err, metadata.ErrCorrupt):
		return err
	}
	if o.identical != 0 || o.zero {
		l, err := metadata.NewLayout(metadata.V08, d.MetaDisk, dev.Size(), md.Geometry)
		if err != nil {
			return err
		}
		if md, err = identical(d, l, md, o.identical); err != nil {
			return err
		}
		if o.zero {
			if exists { // it would vouch for what is being destroyed
				if err := metadata.Wipe(dev, old); err != nil {
					return err
				}
			}
			if err := empty(d.Device, int64(md.EffectiveSize)*metadata.SectorSize); err != nil {
				return err
			}
		}
	}
	_, err = metadata.Create(dev, metadata.V08, d.MetaDisk, dev.Size(), md)
	return err
}

// identical completes the options for a disk that is equal to the peer's.
func identical(d Disk, l metadata.Layout, md metadata.CreateOptions, generation metadata.UUID) (metadata.CreateOptions, error) {
	if !usableGeneration(generation) {
		return md, fmt.Errorf("%w: generation %v means something else; use NewGeneration, and the same one on both nodes", ErrConfig, generation)
	}
	if md.Current != 0 || md.Flags&^(metadata.Consistent|metadata.WasUpToDate) != 0 {
		return md, fmt.Errorf("%w: Current and Flags are set by AssumeIdentical and AssumeZeroed", ErrConfig)
	}
	offers := l.UsableWith(d.Device.Size())
	if md.EffectiveSize == 0 {
		md.EffectiveSize = offers
	}
	if md.EffectiveSize == 0 || md.EffectiveSize > offers {
		return md, fmt.Errorf("%w: EffectiveSize is %d sectors, the disk offers %d", ErrConfig, md.EffectiveSize, offers)
	}
	md.Current = generation.Identity()
	md.Flags = metadata.Consistent | metadata.WasUpToDate
	return md, nil
}

// empty makes the first n bytes of a device read as zeroes, durably.
func empty(dev blockdev.Device, n int64) error {
	if err := blockdev.WriteZeroes(dev, 0, n, true); err != nil {
		return fmt.Errorf("empty the disk: %w", err)
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("empty the disk: %w", err)
	}
	return nil
}
