// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/binary"
	"io"
)

// An initialised block of the activity log: a magic, the type 0xFFFF, zeroes and
// the checksum they have (spec: on-disk 5.1). Part of the disk format: do not
// change.
const (
	alMagic     = 0x69CB65A2
	alInitCRC   = 0x709CC651
	alInitType  = 0xFFFF
	offALMagic  = 0
	offALCRC    = 8
	offALType   = 12
	alChunkSize = 64 // blocks written at once
)

// initActivityLog writes every block of the activity log as initialised; v07's
// log is all zero.
func initActivityLog(dev io.WriterAt, l Layout) error {
	if l.Version == V07 {
		return zeroRange(dev, l.ActivityLogOffset, l.ActivityLogSize)
	}
	chunk := make([]byte, min(l.ActivityLogSize, alChunkSize*BlockSize))
	be := binary.BigEndian
	for b := chunk; len(b) > 0; b = b[BlockSize:] {
		be.PutUint32(b[offALMagic:], alMagic)
		be.PutUint32(b[offALCRC:], alInitCRC)
		be.PutUint16(b[offALType:], alInitType)
	}
	for done := int64(0); done < l.ActivityLogSize; {
		n := min(l.ActivityLogSize-done, int64(len(chunk)))
		if err := writeFull(dev, chunk[:n], l.ActivityLogOffset+done); err != nil {
			return err
		}
		done += n
	}
	return nil
}
