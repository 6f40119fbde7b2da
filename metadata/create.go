// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"io"
)

// CreateOptions are the choices of [Create]. The zero value gives what
// drbdmeta's create-md gives without options (v09: one bitmap slot).
type CreateOptions struct {
	Geometry       Geometry // activity log, bits, peers
	PeerMaxBioSize uint32   // bytes, at most 1 MiB; not for v07

	// EffectiveSize is the agreed size in sectors, 0 = never agreed. With
	// it, and Flags and Current saying that the data is good, the first
	// attach does not mark everything out of sync (spec: on-disk 12, trap 11).
	EffectiveSize uint64

	Current UUID  // current UUID, 0 = UUIDJustCreated; not for v07
	Flags   Flags // set in addition to ALClean
	// DiskfulPeers is a mask of node ids whose records get PeerDeviceSeen (v09).
	DiskfulPeers uint32
}

// maxPeerMaxBioSize is the largest request size the tool takes.
const maxPeerMaxBioSize = 1 << 20

// NewSuperblock returns the superblock that [Create] writes for the layout (spec:
// on-disk 3, initial values). It returns ErrInvalidGeometry for an option out of
// its range, and ErrDeviceTooSmall if EffectiveSize is more than usable.
func NewSuperblock(l Layout, opt CreateOptions) (Superblock, error) {
	sb := Superblock{
		Version:       l.Version,
		EffectiveSize: opt.EffectiveSize,
		MDSizeSectors: l.MDSizeSectors, ALOffset: l.ALOffset, BMOffset: l.BMOffset,
		ALExtents:   DefaultALExtents,
		BytesPerBit: l.Geometry.BytesPerBit,
		ALStripes:   l.Geometry.ALStripes, ALStripeSize4k: l.Geometry.ALStripeSize4k,
		MaxPeers: l.Geometry.MaxPeers, NodeID: Unassigned,
	}
	if opt.EffectiveSize > l.UsableSectors {
		return Superblock{}, fmt.Errorf("%w: effective size of %d sectors, %d are usable", ErrDeviceTooSmall, opt.EffectiveSize, l.UsableSectors)
	}
	if opt.PeerMaxBioSize > maxPeerMaxBioSize {
		return Superblock{}, fmt.Errorf("%w: peer max bio size %d is above %d", ErrInvalidGeometry, opt.PeerMaxBioSize, maxPeerMaxBioSize)
	}
	if l.Version == V07 {
		sb.Counters = Counters{Human: 1, Timeout: 1, Connected: 1, Arbitrary: 1}
		sb.Flags = opt.Flags
		sb.EffectiveSize &^= 1 // stored in KiB
		return sb, nil
	}
	sb.Current = opt.Current
	if sb.Current == 0 {
		sb.Current = UUIDJustCreated
	}
	sb.PeerMaxBioSize = opt.PeerMaxBioSize
	sb.Flags = ALClean | opt.Flags
	if l.Version == V09 {
		for i := range sb.Peers {
			sb.Peers[i].BitmapIndex = Unassigned
			if opt.DiskfulPeers&(1<<i) != 0 {
				sb.Peers[i].Flags = PeerDeviceSeen
			}
		}
	}
	return sb, nil
}

// Create writes fresh metadata: an initialised activity log, a bitmap of zeroes
// over all of its area, and the superblock, which it returns. deviceBytes is the
// size of dev. Data, and what else lies outside these areas, is not touched, and
// nothing that dev holds is looked at: see [Read] and [DetectContent] for that.
// Errors are those of [NewLayout] and [NewSuperblock], with nothing written, and
// dev's own.
//
// Durability: the place of the superblock is zeroed and flushed first, and the
// new one is written only after activity log and bitmap have been flushed, so
// that an interrupted Create leaves no metadata instead of a superblock that
// vouches for a bitmap which is not there. It is flushed, too. Flushing calls
// dev's Sync or Flush method; a dev without either is taken as durable.
func Create(dev io.WriterAt, v Version, loc Location, deviceBytes int64, opt CreateOptions) (Superblock, error) {
	l, err := NewLayout(v, loc, deviceBytes, opt.Geometry)
	if err != nil {
		return Superblock{}, err
	}
	sb, err := NewSuperblock(l, opt)
	if err != nil {
		return Superblock{}, err
	}
	return sb, install(dev, l, &sb, func() error {
		return zeroRange(dev, l.BitmapOffset, l.BitmapSize)
	})
}

// install writes complete metadata: no superblock, activity log and bitmap, then
// the superblock, each step durable before the next.
func install(dev io.WriterAt, l Layout, sb *Superblock, writeBitmap func() error) error {
	if err := Wipe(dev, l); err != nil {
		return err
	}
	if err := writeBitmap(); err != nil {
		return err
	}
	if err := InitActivityLog(dev, l); err != nil { // flushes the bitmap, too
		return err
	}
	return WriteSuperblock(dev, l, sb)
}

// WriteSuperblock encodes sb to its place and flushes. Nothing else is flushed
// before it: a caller that changed activity log or bitmap does that itself.
func WriteSuperblock(dev io.WriterAt, l Layout, sb *Superblock) error {
	var block [BlockSize]byte
	sb.Encode(&block)
	if err := writeFull(dev, block[:], l.SuperblockOffset); err != nil {
		return err
	}
	return flush(dev)
}

// Wipe zeroes the superblock and flushes. Activity log and bitmap stay (spec:
// on-disk 6.2, wipe-md).
func Wipe(dev io.WriterAt, l Layout) error {
	var block [BlockSize]byte
	if err := writeFull(dev, block[:], l.SuperblockOffset); err != nil {
		return err
	}
	return flush(dev)
}
