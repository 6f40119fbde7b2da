// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// zeroChunk is how much is zeroed or copied at once.
const zeroChunk = 1 << 20

// flush makes what was written to dev durable if dev can do that: it calls
// Sync, which *os.File has, or Flush. Other devices are taken as durable.
func flush(dev io.WriterAt) error {
	var err error
	switch d := dev.(type) {
	case interface{ Sync() error }:
		err = d.Sync()
	case interface{ Flush() error }:
		err = d.Flush()
	}
	if err != nil {
		return fmt.Errorf("metadata: flush: %w", err)
	}
	return nil
}

// readFull fills p from dev at off. What lies behind the end is an error.
func readFull(dev io.ReaderAt, p []byte, off int64) error {
	n, err := dev.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("metadata: read %d bytes at %d: %w", len(p), off, err)
}

func writeFull(dev io.WriterAt, p []byte, off int64) error {
	if _, err := dev.WriteAt(p, off); err != nil {
		return fmt.Errorf("metadata: write %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// zeroRange makes size bytes at off read as zero. If dev can be read, chunks that
// are zero already are not written, so that sparse files and thin volumes stay so.
func zeroRange(dev io.WriterAt, off, size int64) error {
	zeroes := make([]byte, min(size, zeroChunk))
	reader, _ := dev.(io.ReaderAt)
	var old []byte
	if reader != nil {
		old = make([]byte, len(zeroes))
	}
	for size > 0 {
		n := min(size, zeroChunk)
		// A failed read decides nothing: the write does.
		if reader == nil || readFull(reader, old[:n], off) != nil || !bytes.Equal(old[:n], zeroes[:n]) {
			if err := writeFull(dev, zeroes[:n], off); err != nil {
				return err
			}
		}
		off, size = off+n, size-n
	}
	return nil
}
