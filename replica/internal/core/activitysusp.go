// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// The activity log is not written (spec: behaviour 5.5)
//
//   - with al-updates no: the flag ALDisabled says so on disk, and after a crash as
//     Primary everything counts as out of sync;
//   - while it is suspended: every block is marked out of sync on disk already, and
//     without a connection no mark is cleared. "s" in /proc/drbd.

// logs reports whether a write has to be announced in the activity log.
func (v *volume) logs() bool {
	return v.hasDisk() && v.al.log != nil && !v.cfg.NoALUpdates && !v.alSuspended()
}

// allMarked reports whether every block is marked, and stays so.
func (v *volume) allMarked() bool {
	pd := v.pds[0]
	return v.hasDisk() && v.al.log != nil && pd.conn < protocol.Connected && pd.bm != nil && pd.bm.Len() > 0 && pd.bm.Count() == pd.bm.Len()
}

func (v *volume) alSuspended() bool {
	if v.al.susp && !v.allMarked() {
		v.al.susp = false
	}
	return v.al.susp
}

// suspendAL makes the marks durable if all are set, and does without the log then.
func (v *volume) suspendAL() {
	if v.al.susp || !v.allMarked() || !v.metaUsable() {
		return
	}
	log := v.al.log
	v.writeBitmap(nil, func(err error) {
		if err != nil || !v.metaUsable() {
			return
		}
		v.syncSuper(func(err error) { // with a flush in front of it
			if err == nil && v.al.log == log && v.allMarked() && v.bitmapOf().DirtyCount() == 0 && !v.bmw.running {
				v.al.susp = true
				v.logf(LogInfo, "suspended the activity log: everything is out of sync")
			}
		})
	})
}

// alAfter follows a state change.
func (v *volume) alAfter(o, n protocol.State) {
	switch {
	case n.Conn >= protocol.Connected:
		v.al.susp = false
	case n.Role == protocol.Primary && (o.Role != n.Role || o.Conn >= protocol.Connected || o.Disk != n.Disk):
		v.suspendAL()
	}
}

// alFlag keeps the flag ALDisabled in the superblock in step with al-updates.
func (v *volume) alFlag() {
	if v.cfg.NoALUpdates {
		v.sb.Flags |= metadata.ALDisabled
	} else {
		v.sb.Flags &^= metadata.ALDisabled
	}
	v.md.dirty = true
}
