// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"strings"
)

// GenerationIDs are the four identifiers a disk keeps towards its peer (spec:
// behaviour 3.1). It is a plain value: methods return the changed tuple and leave
// the receiver alone, == compares exactly, SameIdentity ignores PrimaryBit.
//
// A changed tuple has to be on stable storage before what it promises becomes
// visible: see the event methods.
type GenerationIDs struct {
	// Current names the data generation on this disk. Two disks with equal
	// Current hold the same generation.
	Current UUID
	// Bitmap is UUIDNone while in sync. Otherwise it is the generation the peer
	// had when this node's bitmap began to record: a peer whose Current equals
	// it can be brought up to date with that bitmap.
	Bitmap UUID
	// History has former bitmap identifiers, the younger first. A peer found
	// here is older than the bitmap can help.
	History [2]UUID
}

// JustCreated returns the identifiers of fresh metadata, 4:0:0:0.
func JustCreated() GenerationIDs { return GenerationIDs{Current: UUIDJustCreated} }

// String returns the four identifiers, separated by colons, as DRBD logs them.
func (g GenerationIDs) String() string {
	return g.Current.String() + ":" + g.Bitmap.String() + ":" + g.History[0].String() + ":" + g.History[1].String()
}

// ParseGenerationIDs reads "CURRENT:BITMAP:HISTORY0:HISTORY1"; further fields
// after a colon, as get-gi prints them, are ignored. Errors match ErrInvalidUUID.
func ParseGenerationIDs(s string) (GenerationIDs, error) {
	fields := strings.SplitN(s, ":", 5)
	if len(fields) < 4 {
		return GenerationIDs{}, fmt.Errorf("%w: %q: want four, separated by colons", ErrInvalidUUID, s)
	}
	var ids [4]UUID
	for i := range ids {
		var err error
		if ids[i], err = ParseUUID(fields[i]); err != nil {
			return GenerationIDs{}, err
		}
	}
	return GenerationIDs{Current: ids[0], Bitmap: ids[1], History: [2]UUID{ids[2], ids[3]}}, nil
}

// SameIdentity reports whether all four identifiers are equal without PrimaryBit.
func (g GenerationIDs) SameIdentity(o GenerationIDs) bool {
	return g.Current.Equal(o.Current) && g.Bitmap.Equal(o.Bitmap) &&
		g.History[0].Equal(o.History[0]) && g.History[1].Equal(o.History[1])
}

// IsJustCreated reports whether the current identifier is that of fresh
// metadata: the disk holds no data anybody vouches for.
func (g GenerationIDs) IsJustCreated() bool { return g.Current.Equal(UUIDJustCreated) }

// pushHistory makes u the younger history entry; the older one is forgotten.
func (g GenerationIDs) pushHistory(u UUID) GenerationIDs {
	g.History = [2]UUID{u, g.History[0]}
	return g
}

// RotateBitmap stores v as the bitmap identifier; a former one other than
// UUIDNone enters the history (spec: behaviour 3.3, rotate).
func (g GenerationIDs) RotateBitmap(v UUID) GenerationIDs {
	if g.Bitmap != UUIDNone {
		g = g.pushHistory(g.Bitmap)
	}
	g.Bitmap = v
	return g
}

// RotateCurrent stores v as the current identifier; a former one other than
// UUIDNone enters the history (spec: behaviour 3.3, rotate).
func (g GenerationIDs) RotateCurrent(v UUID) GenerationIDs {
	if g.Current != UUIDNone {
		g = g.pushHistory(g.Current)
	}
	g.Current = v
	return g
}

// ClearBitmap moves the bitmap identifier to the history: "in sync from here
// on". Without one nothing happens (spec: behaviour 3.3, clearB).
func (g GenerationIDs) ClearBitmap() GenerationIDs {
	if g.Bitmap == UUIDNone {
		return g
	}
	g = g.pushHistory(g.Bitmap)
	g.Bitmap = UUIDNone
	return g
}

// DropBitmap forgets the bitmap identifier without a history entry: the second
// half of the skipped initial sync (spec: behaviour 3.4).
func (g GenerationIDs) DropBitmap() GenerationIDs {
	g.Bitmap = UUIDNone
	return g
}

// SetPrimary writes the role into the current identifier: on promotion, on
// demotion and at attach (spec: behaviour 3.1).
func (g GenerationIDs) SetPrimary(primary bool) GenerationIDs {
	g.Current = g.Current.WithPrimary(primary)
	return g
}

// NewCurrent begins a data generation: the current identifier becomes the bitmap
// identifier, random the current one, with PrimaryBit by role (spec: behaviour
// 3.3, newCurrent). The tuple must be durable before the first write of the new
// generation completes.
//
// A bitmap identifier that is still set is overwritten, and with it the knowledge
// what the bitmap is relative to. Only a forced promotion may do that; every other
// caller asks BirthOnPromotion or BirthOnLoss first.
func (g GenerationIDs) NewCurrent(random UUID, primary bool) GenerationIDs {
	g.Bitmap = g.Current
	g.Current = random.fresh().WithPrimary(primary)
	return g
}
