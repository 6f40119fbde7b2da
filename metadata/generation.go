// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

// GenerationIDs returns the identifiers of v08. Of v09, whose bitmap identifiers
// are those of its peers, it returns the current one and the youngest history; of
// v07 nothing.
func (sb *Superblock) GenerationIDs() GenerationIDs {
	return GenerationIDs{Current: sb.Current, Bitmap: sb.Bitmap, History: [2]UUID{sb.History[0], sb.History[1]}}
}

// SetGenerationIDs replaces the identifiers of v08.
func (sb *Superblock) SetGenerationIDs(g GenerationIDs) {
	sb.Current, sb.Bitmap = g.Current, g.Bitmap
	sb.History[0], sb.History[1] = g.History[0], g.History[1]
}
