// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"fmt"
	"io"
)

// ReadTail reads the last len(p) bytes of dev, where internal metadata lies
// (spec: on-disk 2). len(p) may be any number up to dev.Size().
func ReadTail(dev Device, p []byte) error {
	if int64(len(p)) > dev.Size() {
		return fmt.Errorf("read the last %d bytes of %d: %w", len(p), dev.Size(), ErrRange)
	}
	return ReadAt(dev, p, dev.Size()-int64(len(p)))
}

// ReadAt reads len(p) bytes at off, both of any value inside the device. It is
// for tools and metadata, not for the data path: what is not aligned is copied.
func ReadAt(dev Device, p []byte, off int64) error {
	lo, hi := span(off, len(p))
	if off == lo && off+int64(len(p)) == hi {
		_, err := dev.ReadAt(p, off)
		return err
	}
	buf := AlignedBuffer(int(hi - lo))
	if _, err := dev.ReadAt(buf, lo); err != nil {
		return err
	}
	copy(p, buf[off-lo:])
	return nil
}

// WriteAt writes p at off, both of any value inside the device. Sectors that p
// covers in part are read first, so nothing else may write to them meanwhile.
// It is for tools and metadata, not for the data path.
func WriteAt(dev Device, p []byte, off int64) error {
	lo, hi := span(off, len(p))
	if off == lo && off+int64(len(p)) == hi {
		_, err := dev.WriteAt(p, off)
		return err
	}
	buf := AlignedBuffer(int(hi - lo))
	if err := readEdges(dev, buf, lo, off, off+int64(len(p))); err != nil {
		return err
	}
	copy(buf[off-lo:], p)
	_, err := dev.WriteAt(buf, lo)
	return err
}

// readEdges fills the first sector of buf, which lies at lo, if from lies inside
// it, and the last one if to does.
func readEdges(r io.ReaderAt, buf []byte, lo, from, to int64) error {
	last := len(buf) - SectorSize
	if from != lo {
		if _, err := r.ReadAt(buf[:SectorSize], lo); err != nil {
			return err
		}
	}
	if to != lo+int64(len(buf)) && (from == lo || last > 0) {
		if _, err := r.ReadAt(buf[last:], lo+int64(last)); err != nil {
			return err
		}
	}
	return nil
}

// span widens n bytes at off to whole sectors.
func span(off int64, n int) (lo, hi int64) {
	const mask = SectorSize - 1
	return off &^ mask, (off + int64(n) + mask) &^ mask
}
