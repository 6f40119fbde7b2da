// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"strings"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// ProcForm is a layout of /proc/drbd (spec: behaviour 9.1, 9.2), for scripts that were
// written for an older DRBD.
type ProcForm uint8

// The layouts.
const (
	// Proc84 is that of DRBD 8.4, and of [ProcDRBD].
	Proc84 ProcForm = iota
	// Proc83 is that of DRBD 8.3.0: four flags, and no wanted speed.
	Proc83
	// Proc07 is that of DRBD 0.7: the own disk's consistency under "ld:", and neither
	// protocol nor flags, epochs, write ordering or what is out of sync.
	Proc07
)

// procHead has the first two lines of each layout, the second of which names the build.
var procHead = [...]string{
	Proc84: fmt.Sprintf("version: 8.4.11 (api:1/proto:%d-%d)\nsrcversion: blockmirror\n", protocol.MinVersion, protocol.MaxVersion),
	Proc83: "version: 8.3.0 (api:88/proto:86-89)\nGIT-hash: blockmirror\n",
	Proc07: "version: 0.7.21 (api:79/proto:74)\nSVN Revision: blockmirror\n",
}

// ProcDRBDAs writes the state of several resources as [ProcDRBD] does, in the layout of an
// older DRBD. The version that it names is DRBD's, not what this node speaks. A form that
// does not exist counts as Proc84.
func ProcDRBDAs(form ProcForm, list ...Status) string {
	if form > Proc07 {
		form = Proc84
	}
	var b strings.Builder
	b.WriteString(procHead[form])
	next := 0
	for _, v := range byMinor(list) {
		if v.Minor > next {
			b.WriteByte('\n')
		}
		next = v.Minor + 1
		v.writeProcAs(&b, form)
	}
	return b.String()
}

// writeProcAs writes the lines of one volume.
func (v *VolumeStatus) writeProcAs(b *strings.Builder, form ProcForm) {
	s := v.State
	if form == Proc84 || s.Conn == protocol.StandAlone && s.Disk == protocol.Diskless && s.Role == protocol.Secondary {
		v.writeProc(b)
		return
	}
	letter, wo := v.procLetters()
	counts := fmt.Sprintf("    ns:%d nr:%d dw:%d dr:%d al:%d bm:%d lo:%d pe:%d ua:%d ap:%d",
		v.Sent>>10, v.Received>>10, v.Written>>10, v.Read>>10, v.ALWrites, v.BitmapWrites,
		v.LocalPending, v.Pending, v.Unacked, v.AppPending)
	switch form {
	case Proc07:
		data := "Inconsistent"
		if s.Disk > protocol.Inconsistent {
			data = "Consistent"
		}
		fmt.Fprintf(b, "%2d: cs:%v st:%v/%v ld:%s\n%s\n", v.Minor, s.Conn, s.Role, s.Peer, data, counts)
	default:
		fmt.Fprintf(b, "%2d: cs:%v ro:%v/%v ds:%v/%v %s %s\n%s ep:%d wo:%c oos:%d\n", v.Minor, s.Conn, s.Role, s.Peer, s.Disk, s.PeerDisk,
			letter, v.procFlags()[:4], counts, v.Epochs, wo, v.OutOfSync>>10)
	}
	switch s.Conn {
	case protocol.SyncSource, protocol.SyncTarget, protocol.VerifyS, protocol.VerifyT:
		if v.Resync != nil {
			v.Resync.writeProc(b, s.Conn, false)
		}
	}
}
