// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "fmt"

// Version is the metadata format of a superblock. The values are DRBD's own
// format numbers (spec: on-disk 3).
type Version uint8

// The metadata formats. V07 belongs to DRBD 0.7 and is read, dumped and
// converted; V08 to DRBD 8.0 to 8.4; V09 to DRBD 9.
const (
	V07 Version = 7
	V08 Version = 8
	V09 Version = 9
)

// Superblock magics (spec: on-disk 1). Part of the disk format: do not change.
const (
	magicV07        = 0x8374026A
	magicV08        = 0x8374026B
	magicV08Unclean = 0x8374026C
	magicV09        = 0x8374026D
)

// String returns DRBD's spelling of the format: "v07", "v08" or "v09".
func (v Version) String() string {
	switch v {
	case V07:
		return "v07"
	case V08:
		return "v08"
	case V09:
		return "v09"
	}
	return fmt.Sprintf("Version(%d)", uint8(v))
}

// ParseVersion reads a format name as [Version.String] writes it. It returns
// ErrUnknownVersion for anything else, the historic "v06" included.
func ParseVersion(s string) (Version, error) {
	for _, v := range [...]Version{V07, V08, V09} {
		if s == v.String() {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w %q: use v07, v08 or v09", ErrUnknownVersion, s)
}

func (v Version) valid() bool { return v == V07 || v == V08 || v == V09 }
