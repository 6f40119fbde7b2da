// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"
)

// The text form of "drbdsetup status" (spec: behaviour 9.3).

// lineWidth is where a line of statistics is wrapped.
const lineWidth = 80

// wrapped appends words to b, behind first, and wraps them with indent.
func wrapped(b *strings.Builder, first, indent string, words []string) {
	line := first
	fresh := true
	for _, w := range words {
		if !fresh && len(line)+1+len(w) > lineWidth {
			b.WriteString(line + "\n")
			line, fresh = indent, true
		}
		if !fresh || (line != indent && line != "" && !strings.HasSuffix(line, " ")) {
			line += " "
		}
		line += w
		fresh = false
	}
	b.WriteString(line + "\n")
}

// Text writes the resource as "drbdsetup status" does, with an empty line at the end.
func (s *Status) Text(verbose, statistics bool) string {
	var b strings.Builder
	line := s.Name + " role:" + s.Role
	if verbose || s.Suspended {
		line += " suspended:" + s.suspendedBy()
	}
	b.WriteString(line + "\n")
	if statistics {
		b.WriteString("    write-ordering:" + s.WriteOrdering + "\n")
	}
	many := len(s.Devices) != 1 || verbose
	for i := range s.Devices {
		s.Devices[i].text(&b, many, verbose, statistics)
	}
	for i := range s.Connections {
		s.Connections[i].text(&b, many, verbose, statistics)
	}
	b.WriteByte('\n')
	return b.String()
}

// suspendedBy returns no, or the reasons.
func (s *Status) suspendedBy() string {
	var why []string
	if s.SuspendedUser {
		why = append(why, "user")
	}
	if s.SuspendedNoData {
		why = append(why, "no-data")
	}
	if s.SuspendedFencing {
		why = append(why, "fencing")
	}
	if len(why) == 0 {
		return "no"
	}
	return strings.Join(why, ",")
}

func (d *DeviceStat) text(b *strings.Builder, many, verbose, statistics bool) {
	line := "  "
	if many {
		line += fmt.Sprintf("volume:%d ", d.Volume)
	}
	if verbose {
		line += fmt.Sprintf("minor:%d ", d.Minor)
	}
	b.WriteString(line + "disk:" + d.DiskState + "\n")
	if statistics {
		wrapped(b, "      ", "      ", d.statistics())
	}
}

func (d *DeviceStat) statistics() []string {
	return []string{
		fmt.Sprintf("size:%d", d.Size), fmt.Sprintf("read:%d", d.Read), fmt.Sprintf("written:%d", d.Written),
		fmt.Sprintf("al-writes:%d", d.ALWrites), fmt.Sprintf("bm-writes:%d", d.BMWrites),
		fmt.Sprintf("upper-pending:%d", d.UpperPending), fmt.Sprintf("lower-pending:%d", d.LowerPending),
		"al-suspended:" + yesOrNo(d.ALSuspended), "blocked:" + d.blocked(),
	}
}

func (d *DeviceStat) blocked() string {
	switch {
	case d.BlockedUpper && d.BlockedLower:
		return "upper,lower"
	case d.BlockedUpper:
		return "upper"
	case d.BlockedLower:
		return "lower"
	}
	return "no"
}

func (c *ConnStat) text(b *strings.Builder, many, verbose, statistics bool) {
	line := "  " + c.Name
	connected := c.ConnectionState == "Connected"
	if verbose || !connected {
		line += " connection:" + c.ConnectionState
	}
	if verbose || connected {
		line += " role:" + c.PeerRole
	}
	if statistics {
		line += " congested:" + yesOrNo(c.Congested)
	}
	b.WriteString(line + "\n")
	for i := range c.PeerDevices {
		c.PeerDevices[i].text(b, many, verbose, statistics, connected)
	}
}

func (p *PeerStat) text(b *strings.Builder, many, verbose, statistics, connected bool) {
	if !connected && !verbose && !statistics {
		return
	}
	words := []string{}
	if many {
		words = append(words, fmt.Sprintf("volume:%d", p.Volume))
	}
	if verbose || p.ReplicationState != "Established" {
		words = append(words, "replication:"+p.ReplicationState)
	}
	words = append(words, "peer-disk:"+p.PeerDiskState)
	if p.HasSyncDetails || p.HasVerifyDetails {
		words = append(words, fmt.Sprintf("done:%.2f", p.done()))
	}
	if verbose || p.ResyncSuspended != "no" {
		words = append(words, "resync-suspended:"+p.ResyncSuspended)
	}
	wrapped(b, "    ", "        ", words)
	if statistics {
		wrapped(b, "        ", "        ", p.statistics())
	}
}

// done returns the percentage that status shows: of the volume for a resync, of the
// work for a verify.
func (p *PeerStat) done() float64 {
	if p.HasVerifyDetails && p.SyncStat != nil {
		return p.PercentDone
	}
	return p.PercentInSync
}

func (p *PeerStat) statistics() []string {
	return []string{
		fmt.Sprintf("received:%d", p.Received), fmt.Sprintf("sent:%d", p.Sent), fmt.Sprintf("out-of-sync:%d", p.OutOfSync),
		fmt.Sprintf("pending:%d", p.Pending), fmt.Sprintf("unacked:%d", p.Unacked),
	}
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
