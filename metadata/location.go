// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"strconv"
)

// locationKind is where the metadata lies. The zero value is the usual case.
type locationKind uint8

const (
	kindInternal locationKind = iota
	kindInternalFixed
	kindFlexExternal
	kindIndexed
)

// maxIndex is the largest slot number the tool takes (spec: on-disk 1).
const maxIndex = 255

// Location says where on its device the metadata lies (spec: on-disk 1, 2.1).
// The zero value is Internal(). Locations compare with ==.
type Location struct {
	kind  locationKind
	index uint8
}

// Internal is metadata at the end of the backing device, sized for it ("internal"
// of v08 and v09, "flex-internal" of v07; DRBD's index -3).
func Internal() Location { return Location{} }

// InternalFixed is metadata in the last 128 MiB of the backing device ("internal"
// of v07; DRBD's index -1). Only v07 has it.
func InternalFixed() Location { return Location{kind: kindInternalFixed} }

// FlexExternal is metadata that has a device of its own to itself
// ("flex-external"; DRBD's index -2).
func FlexExternal() Location { return Location{kind: kindFlexExternal} }

// Indexed is metadata in the 128 MiB slot n, 0 to 255, of a meta device that
// several backing devices share. Other values of n give a location whose layout
// is refused with ErrInvalidLocation.
func Indexed(n int) Location {
	if n < 0 || n > maxIndex {
		return Location{kind: kindIndexed + 1}
	}
	return Location{kind: kindIndexed, index: uint8(n)}
}

// IsInternal reports whether the metadata shares the device with the data.
func (l Location) IsInternal() bool {
	return l.kind == kindInternal || l.kind == kindInternalFixed
}

// Index returns DRBD's number for the location: the slot number, or -1 for
// InternalFixed, -2 for FlexExternal, -3 for Internal (spec: on-disk 1).
func (l Location) Index() int {
	switch l.kind {
	case kindInternal:
		return -3
	case kindInternalFixed:
		return -1
	case kindFlexExternal:
		return -2
	case kindIndexed:
		return int(l.index)
	}
	return -4
}

// String returns the location as v08 and v09 command lines and configuration
// files spell it; v07's fixed kind is "internal-fixed", which no tool reads.
func (l Location) String() string {
	switch l.kind {
	case kindInternal:
		return "internal"
	case kindInternalFixed:
		return "internal-fixed"
	case kindFlexExternal:
		return "flex-external"
	case kindIndexed:
		return strconv.Itoa(int(l.index))
	}
	return "invalid"
}

// ParseLocation reads a location as drbdmeta's command line spells it:
// "internal" (InternalFixed for V07, else Internal), "flex-internal",
// "flex-external" or a decimal slot number 0 to 255. It returns
// ErrInvalidLocation for anything else.
func ParseLocation(s string, v Version) (Location, error) {
	switch s {
	case "internal":
		if v == V07 {
			return InternalFixed(), nil
		}
		return Internal(), nil
	case "flex-internal":
		return Internal(), nil
	case "flex-external":
		return FlexExternal(), nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return Location{}, fmt.Errorf("%w %q: use internal, flex-internal, flex-external or a slot number 0..%d",
			ErrInvalidLocation, s, maxIndex)
	}
	return Indexed(int(n)), nil
}

// check refuses locations that the version cannot have.
func (l Location) check(v Version) error {
	if l.kind > kindIndexed || (l.kind == kindInternalFixed && v != V07) {
		return fmt.Errorf("%w: %s metadata cannot be %s", ErrInvalidLocation, v, l)
	}
	return nil
}
