// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/bits"
)

// Content is what a device seems to hold already.
type Content struct {
	Kind ContentKind
	Name string // "ext2/ext3/ext4 filesystem", "swap space", ...

	// Bytes is how much of the device the content uses, 0 if that is not known.
	Bytes uint64
}

// ContentKind tells how much is known about a Content.
type ContentKind uint8

const (
	// ContentNone says that the beginning of the device is all zero.
	ContentNone ContentKind = iota
	// ContentUnknown says that there is data of no known kind.
	ContentUnknown
	// ContentKnown says that it was recognised.
	ContentKnown
)

// ContentVerdict is what new metadata would mean for a Content.
type ContentVerdict uint8

const (
	// ContentHarmless says that there is nothing to lose.
	ContentHarmless ContentVerdict = iota
	// ContentAsk says that someone who knows should confirm.
	ContentAsk
	// ContentRefuse says that data would be destroyed.
	ContentRefuse
)

// contentProbe is how much of the beginning of a device is looked at.
const contentProbe = MinDeviceBytes

// DetectContent looks at the beginning of a device for data (spec: on-disk 6.1
// step 2). It returns dev's errors; a device that is shorter than what it wants to
// see is no error.
func DetectContent(dev io.ReaderAt) (Content, error) {
	head := make([]byte, contentProbe)
	n, err := dev.ReadAt(head, 0)
	if n < len(head) && err != nil && !errors.Is(err, io.EOF) {
		return Content{}, err
	}
	return detect(head), nil // what could not be read is zero
}

// detect needs contentProbe bytes.
func detect(head []byte) Content {
	for _, sign := range contentSigns {
		if bytes.HasPrefix(head[sign.at:], []byte(sign.magic)) {
			c := Content{Kind: ContentKnown, Name: sign.name}
			if sign.size != nil {
				c.Bytes = sign.size(head)
			}
			return c
		}
	}
	for _, b := range head {
		if b != 0 {
			return Content{Kind: ContentUnknown, Name: "some data"}
		}
	}
	return Content{}
}

// contentSigns are the signatures of known content.
var contentSigns = [...]struct {
	at    int
	magic string
	name  string
	size  func(head []byte) uint64 // bytes in use; nil = cannot be told
}{
	{4096 - 10, "SWAP-SPACE", "swap space", nil},
	{4096 - 10, "SWAPSPACE2", "swap space", nil},
	{8192 - 10, "SWAP-SPACE", "swap space", nil},
	{8192 - 10, "SWAPSPACE2", "swap space", nil},
	{0x218, "LVM2", "LVM2 physical volume", nil},
	{0x438, "\x53\xef", "ext2/ext3/ext4 filesystem", sizeExt},
	{0, "XFSB", "xfs filesystem", sizeXFS},
	{0x8000, "JFS1", "jfs filesystem", sizeJFS},
	{0x10034, "ReIsErFs", "reiserfs filesystem", sizeReiser},
	{0x10034, "ReIsEr2Fs", "reiserfs filesystem", sizeReiser},
}

// blocks multiplies without overflow.
func blocks(count, size uint64) uint64 {
	if high, low := bits.Mul64(count, size); high == 0 {
		return low
	}
	return math.MaxUint64
}

func sizeExt(head []byte) uint64 {
	const super, feature64Bit = 1024, 0x80
	le := binary.LittleEndian
	count := uint64(le.Uint32(head[super+4:]))
	if le.Uint32(head[super+0x60:])&feature64Bit != 0 {
		count |= uint64(le.Uint32(head[super+0x150:])) << 32
	}
	return blocks(count, 1024<<(le.Uint32(head[super+24:])&31))
}

func sizeXFS(head []byte) uint64 {
	be := binary.BigEndian
	return blocks(be.Uint64(head[8:]), uint64(be.Uint32(head[4:])))
}

func sizeJFS(head []byte) uint64 {
	const super = 0x8000
	le := binary.LittleEndian
	return blocks(le.Uint64(head[super+8:]), uint64(le.Uint32(head[super+24:])))
}

func sizeReiser(head []byte) uint64 {
	const super = 0x10000
	le := binary.LittleEndian
	return blocks(uint64(le.Uint32(head[super:])), uint64(le.Uint16(head[super+44:])))
}

// Verdict tells whether metadata of layout l may be created on the device the
// content was found on (spec: on-disk 6.1): never on a meta device that holds
// something known, nor where that would be truncated or its size is not known;
// only with confirmation next to something that fits, or over unknown data.
func (c Content) Verdict(l Layout) ContentVerdict {
	switch {
	case c.Kind == ContentNone:
		return ContentHarmless
	case c.Kind == ContentUnknown:
		return ContentAsk
	case !l.Location.IsInternal() || c.Bytes == 0 || c.Bytes > l.UsableSectors*SectorSize:
		return ContentRefuse
	}
	return ContentAsk
}
