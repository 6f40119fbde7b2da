// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// String returns the status in the layout of /proc/drbd of DRBD 8.4, which
// people and scripts know how to read (spec: behaviour 9.1).
func (s Status) String() string { return ProcDRBD(s) }

// ProcDRBD writes the state of several resources as /proc/drbd would: all
// volumes by minor, with an empty line where minors are not consecutive. The
// second line, in which DRBD names its build, says "blockmirror".
//
// [ProcDRBDAs] has the layouts of older versions.
func ProcDRBD(list ...Status) string { return ProcDRBDAs(Proc84, list...) }

// byMinor returns all volumes by minor.
func byMinor(list []Status) []*VolumeStatus {
	var volumes []*VolumeStatus
	for i := range list {
		for j := range list[i].Volumes {
			volumes = append(volumes, &list[i].Volumes[j])
		}
	}
	slices.SortStableFunc(volumes, func(a, b *VolumeStatus) int { return a.Minor - b.Minor })
	return volumes
}

// writeProc writes the lines of one volume.
func (v *VolumeStatus) writeProc(b *strings.Builder) {
	s := v.State
	if s.Conn == protocol.StandAlone && s.Disk == protocol.Diskless && s.Role == protocol.Secondary {
		fmt.Fprintf(b, "%2d: cs:Unconfigured\n", v.Minor)
		return
	}
	letter, wo := v.procLetters()
	fmt.Fprintf(b, "%2d: cs:%v ro:%v/%v ds:%v/%v %s %s\n"+
		"    ns:%d nr:%d dw:%d dr:%d al:%d bm:%d lo:%d pe:%d ua:%d ap:%d ep:%d wo:%c oos:%d\n",
		v.Minor, s.Conn, s.Role, s.Peer, s.Disk, s.PeerDisk, letter, v.procFlags(),
		v.Sent>>10, v.Received>>10, v.Written>>10, v.Read>>10, v.ALWrites, v.BitmapWrites,
		v.LocalPending, v.Pending, v.Unacked, v.AppPending, v.Epochs, wo, v.OutOfSync>>10)
	switch s.Conn {
	case protocol.SyncSource, protocol.SyncTarget, protocol.VerifyS, protocol.VerifyT:
		if v.Resync != nil {
			v.Resync.writeProc(b, s.Conn, s.Conn == protocol.SyncTarget || s.Conn == protocol.VerifyS)
		}
	}
}

// procLetters are the protocol, a blank without network configuration, and the write
// ordering.
func (v *VolumeStatus) procLetters() (letter string, wo byte) {
	letter, wo = " ", v.WriteOrdering
	if v.State.Conn != protocol.StandAlone {
		letter = v.Protocol.String()
	}
	if wo == 0 {
		wo = 'f'
	}
	return letter, wo
}

// procFlags returns the six flag characters.
func (v *VolumeStatus) procFlags() string {
	s := v.State
	f := []byte("r-----")
	if s.Susp || s.SuspNoData || s.SuspFencing {
		f[0] = 's'
	}
	if s.AftrISP {
		f[1] = 'a'
	}
	if s.PeerISP {
		f[2] = 'p'
	}
	if s.UserISP {
		f[3] = 'u'
	}
	switch {
	case v.DiskCongested && v.NetCongested:
		f[4] = 'a'
	case v.DiskCongested:
		f[4] = 'b'
	case v.NetCongested:
		f[4] = 'n'
	}
	if v.ActivityLogSuspended {
		f[5] = 's'
	}
	return string(f)
}

// writeProc writes the two progress lines. The arithmetic is DRBD's, with its
// coarse steps of 4 MiB. Who asks for the data also tells the speed it wants.
func (s *ResyncStatus) writeProc(b *strings.Builder, conn protocol.ConnState, want bool) {
	total, left := uint64(s.Total)/blockBytes, uint64(s.Left)/blockBytes
	left, perMille := procProgress(left, total)
	x := int(perMille / 50)
	b.WriteString("\t[")
	b.WriteString(strings.Repeat("=", max(x-1, 0)))
	b.WriteByte('>')
	b.WriteString(strings.Repeat(".", 20-x))
	what := "sync'ed"
	if conn == protocol.VerifyS || conn == protocol.VerifyT {
		what = "verified"
	}
	fmt.Fprintf(b, "] %s:%3d.%d%% ", what, perMille/10, perMille%10)
	if total > 4<<30/blockBytes {
		fmt.Fprintf(b, "(%d/%d)M\n", left*blockBytes>>20, total*blockBytes>>20)
	} else {
		fmt.Fprintf(b, "(%d/%d)K\n", left*blockBytes>>10, total*blockBytes>>10)
	}
	fmt.Fprintf(b, "\tfinish: %s speed: %s (%s)", clockTime(s.Finish), commas(s.Rate>>10), commas(s.Average>>10))
	if want {
		fmt.Fprintf(b, " want: %s", commas(s.Wanted>>10))
	}
	b.WriteString(" K/sec")
	if s.Stalled {
		b.WriteString(" (stalled)")
	}
	b.WriteByte('\n')
}

// procProgress returns the blocks left, at most total, and the part that is done
// in per mille.
func procProgress(left, total uint64) (uint64, uint64) {
	switch {
	case left > total:
		if total == 0 {
			return 0, 1000
		}
		return total, 0
	case total >= 1<<32:
		return left, 1000 - (left>>16)*1000/(1+total>>16)
	}
	return left, 1000 - (left>>10)*1000/(1+total>>10)
}

// clockTime writes hours, minutes and seconds as 0:01:07.
func clockTime(d time.Duration) string {
	sec := int64(max(d, 0) / time.Second)
	return fmt.Sprintf("%d:%02d:%02d", sec/3600, sec/60%60, sec%60)
}

// commas writes a number with a comma before every three digits.
func commas(n int64) string {
	s := strconv.FormatInt(max(n, 0), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// InSync reports whether the volume is connected, both disks are UpToDate and no
// block is known to differ.
func (v *VolumeStatus) InSync() bool {
	return v.State.Conn == protocol.Connected && v.State.Disk == protocol.UpToDate &&
		v.State.PeerDisk == protocol.UpToDate && v.OutOfSync == 0
}
