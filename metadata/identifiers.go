// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrIdentifiers says that a string given to [Superblock.SetGI] is malformed.
var ErrIdentifiers = errors.New("metadata: invalid generation identifiers")

// giField is one field of the one-line form of the generation identifiers.
type giField struct {
	uuid    *UUID   // 64 bits, hexadecimal
	counter *uint32 // decimal
	word    *uint32 // flags, of which mask is this one
	mask    uint32
}

func flagField(f *Flags, mask Flags) giField {
	return giField{word: (*uint32)(f), mask: uint32(mask)}
}

// giFields lists the fields in their order (spec: on-disk 8). node is the peer's
// node id for v09 and not looked at else.
func (sb *Superblock) giFields(node int) ([]giField, error) {
	switch sb.Version {
	case V07:
		c := &sb.Counters
		return []giField{
			flagField(&sb.Flags, Consistent),
			{counter: &c.Human}, {counter: &c.Timeout}, {counter: &c.Connected}, {counter: &c.Arbitrary},
			flagField(&sb.Flags, PrimaryInd), flagField(&sb.Flags, ConnectedInd), flagField(&sb.Flags, FullSync),
		}, nil
	case V08:
		fields := []giField{{uuid: &sb.Current}, {uuid: &sb.Bitmap}, {uuid: &sb.History[0]}, {uuid: &sb.History[1]}}
		for _, f := range []Flags{Consistent, WasUpToDate, PrimaryInd, ConnectedInd, FullSync, PeerOutdated, CrashedPrimary} {
			fields = append(fields, flagField(&sb.Flags, f))
		}
		return fields, nil
	case V09:
		if node < 0 || node >= PeerRecords {
			return nil, fmt.Errorf("%w: %d is not in 0..%d", ErrNodeID, node, PeerRecords-1)
		}
		peer := &sb.Peers[node]
		fields := []giField{{uuid: &sb.Current}, {uuid: &peer.BitmapUUID}, {uuid: &sb.History[0]}, {uuid: &sb.History[1]}}
		for _, f := range []Flags{Consistent, WasUpToDate, PrimaryInd, CrashedPrimary, ALClean, ALDisabled, PrimaryLostQuorum} {
			fields = append(fields, flagField(&sb.Flags, f))
		}
		for _, f := range []PeerFlags{PeerConnected, PeerIsOutdated, PeerFencing, PeerFullSync, PeerDeviceSeen} {
			fields = append(fields, giField{word: (*uint32)(&peer.Flags), mask: uint32(f)})
		}
		return fields, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownVersion, sb.Version)
}

// GI returns the generation identifiers and flags in one line, as get-gi prints
// them (spec: on-disk 8). node is the peer's node id for v09, which has a bitmap
// UUID and flags for each, and is not looked at for v07 and v08. It returns
// ErrNodeID or ErrUnknownVersion.
func (sb *Superblock) GI(node int) (string, error) {
	fields, err := sb.giFields(node)
	if err != nil {
		return "", err
	}
	var t appender
	for i, f := range fields {
		if i > 0 {
			t.text(":")
		}
		switch {
		case f.uuid != nil:
			t.hexDigits(uint32(*f.uuid >> 32)).hexDigits(uint32(*f.uuid))
		case f.counter != nil:
			t.num(int64(int32(*f.counter))) // the tool prints them as signed
		case *f.word&f.mask != 0:
			t.text("1")
		default:
			t.text("0")
		}
	}
	return string(t), nil
}

// SetGI changes generation identifiers and flags as set-gi does (spec: on-disk 8).
// s is a line like [Superblock.GI] returns; empty fields, and those missing at the
// end, keep their value; UUIDs may begin with 0x. On an error, ErrIdentifiers,
// ErrNodeID or ErrUnknownVersion, nothing is changed.
//
// Of v08, AL_CLEAN cannot be changed this way, of v09 it can.
func (sb *Superblock) SetGI(node int, s string) error {
	changed := *sb
	fields, err := changed.giFields(node)
	if err != nil {
		return err
	}
	parts := strings.Split(s, ":")
	if len(parts) > len(fields) {
		return fmt.Errorf("%w: %d fields, %s has %d", ErrIdentifiers, len(parts), sb.Version, len(fields))
	}
	for i, part := range parts {
		if part == "" {
			continue
		}
		if err := fields[i].parse(part); err != nil {
			return err
		}
	}
	*sb = changed
	return nil
}

func (f *giField) parse(s string) error {
	switch {
	case f.uuid != nil:
		v, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
		if err != nil {
			return fmt.Errorf("%w: %q is not a UUID of up to 16 hexadecimal digits", ErrIdentifiers, s)
		}
		*f.uuid = UUID(v)
	case f.counter != nil:
		v, err := strconv.ParseInt(s, 0, 64)
		if err != nil || v < math.MinInt32 || v > math.MaxUint32 {
			return fmt.Errorf("%w: %q is not a counter of 0..%d", ErrIdentifiers, s, uint32(math.MaxUint32))
		}
		*f.counter = uint32(v)
	case s == "1":
		*f.word |= f.mask
	case s == "0":
		*f.word &^= f.mask
	default:
		return fmt.Errorf("%w: %q is not 0 or 1", ErrIdentifiers, s)
	}
	return nil
}
