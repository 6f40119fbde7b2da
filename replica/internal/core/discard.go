// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

// discard says how this disk deallocates, so that both nodes' read the same afterwards:
// zeroes (spec: behaviour 5.11). A disk that promises that for whatever it discards is
// simply told. One that does not is trusted with whole units of its own, unless
// discard-zeroes-if-aligned says no: a disk ignores parts of units, and they would keep
// their old data on one node.
func (v *volume) discard(o *Op) {
	switch {
	case !v.limits.Discard, !v.limits.DiscardZeroes && v.cfg.NoDiscardZeroes:
		o.Kind, o.MayUnmap = OpZero, true
	default:
		o.Kind, o.MayUnmap, o.ZeroEdges = OpDiscard, false, !v.limits.DiscardZeroes
	}
}
