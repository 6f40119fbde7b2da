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

// zeroInstead writes zeroes where the disk has refused a discard, which is not held
// against it. The peer's disk may have done it, and both are to read the same.
func (v *volume) zeroInstead(o *Op) bool {
	if o.Err == nil || o.Kind != OpDiscard || !v.hasDisk() {
		return false
	}
	v.logf(LogWarn, "discard of %d bytes at %d: %v: zeroes are written instead", o.Len, o.Off, o.Err)
	z := v.c.op()
	z.Kind, z.Volume, z.vol, z.Off, z.Len, z.FUA = OpZero, v.idx, v, o.Off, o.Len, o.FUA
	z.req, z.peer, z.IO, z.done = o.req, o.peer, o.IO, o.done
	v.c.issue(z)
	return true
}
