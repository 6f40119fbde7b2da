// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// UUID is one generation identifier (spec: behaviour 3.1). Its lowest bit is not
// part of the identity: see PrimaryBit. The zero value names nothing.
// UUIDJustCreated, 4, is the current identifier of fresh metadata.
type UUID uint64

const (
	// UUIDNone is the identifier that names nothing.
	UUIDNone UUID = 0

	// PrimaryBit, in a current identifier, says that the node was Primary when
	// the identifier was written or sent. It travels along when the identifier
	// moves to the bitmap place or to the history, where the policies
	// discard-younger-primary and discard-older-primary read it (spec:
	// behaviour 4.3). Comparisons ignore it.
	PrimaryBit UUID = 1

	// SyncUUIDStep is what a sync source adds to its bitmap identifier to name
	// a resync (spec: behaviour 3.4). Part of the protocol: do not change.
	SyncUUIDStep UUID = 1 << 48
)

// ErrInvalidUUID says that a text is no generation identifier.
var ErrInvalidUUID = errors.New("metadata: not a generation identifier")

// Identity returns u without PrimaryBit: what comparisons see.
func (u UUID) Identity() UUID { return u &^ PrimaryBit }

// Equal reports whether u and v name the same generation; PrimaryBit is ignored.
func (u UUID) Equal(v UUID) bool { return u.Identity() == v.Identity() }

// IsPrimary reports whether PrimaryBit is set.
func (u UUID) IsPrimary() bool { return u&PrimaryBit != 0 }

// WithPrimary returns u with PrimaryBit set or cleared.
func (u UUID) WithPrimary(primary bool) UUID {
	if primary {
		return u | PrimaryBit
	}
	return u.Identity()
}

// reserved reports whether u has one of the two special identities, 0 and 4.
func (u UUID) reserved() bool {
	return u.Equal(UUIDNone) || u.Equal(UUIDJustCreated)
}

// fresh returns u, a random number, unless it has a special identity by chance;
// then its highest bit is flipped.
func (u UUID) fresh() UUID {
	if u.reserved() {
		return u ^ 1<<63
	}
	return u
}

// String returns 16 upper-case hexadecimal digits, as DRBD's tools and logs do.
func (u UUID) String() string { return fmt.Sprintf("%016X", uint64(u)) }

// ParseUUID reads what String writes. Shorter numbers, lower case and a leading
// "0x" are accepted too, as drbdmeta does (spec: on-disk 8). Anything else gives
// an error that matches ErrInvalidUUID.
func ParseUUID(s string) (UUID, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	// ParseUint alone would accept signs and underscores in no base-16 text,
	// but its message would not say what is wanted.
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %q: want up to 16 hexadecimal digits", ErrInvalidUUID, s)
	}
	return UUID(v), nil
}

// UUIDFlags is the flag word that travels with a node's identifiers in P_UUIDS
// (spec: wire 4.6, behaviour 3.7). Unknown bits are kept and ignored.
type UUIDFlags uint64

const (
	// FlagDiscardMyData says that the sender was told to give up its changes
	// if there is a split brain.
	FlagDiscardMyData UUIDFlags = 1
	// FlagCrashedPrimary says that the sender crashed as Primary and that the
	// two disks have not been UpToDate together since.
	FlagCrashedPrimary UUIDFlags = 2
	// FlagInconsistent says that the sender's disk will be Inconsistent. It has
	// a meaning only together with the disk state Negotiating.
	FlagInconsistent UUIDFlags = 4
	// FlagSkipInitialSync asks the receiver to adopt the current identifier
	// without a resync (from protocol 90 on; see GenerationIDs.AdoptSkipped).
	FlagSkipInitialSync UUIDFlags = 8
)

var uuidFlagNames = [...]string{"discard-my-data", "crashed-primary", "inconsistent", "skip-initial-sync"}

// String returns the names of the set bits joined with "|", bits without a name
// as their value; "0" if none is set.
func (f UUIDFlags) String() string {
	if f == 0 {
		return "0"
	}
	var names []string
	for i, name := range uuidFlagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := f &^ (1<<len(uuidFlagNames) - 1); rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint64(rest)))
	}
	return strings.Join(names, "|")
}
