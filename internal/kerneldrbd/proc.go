// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package kerneldrbd

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Minor is what /proc/drbd says about one device (spec: behaviour 9.1).
type Minor struct {
	Number int
	// Conn is the connection state, as "SyncSource". Of a device that is
	// "Unconfigured" everything else is empty.
	Conn           string
	Role, Peer     string // as "Primary"
	Disk, PeerDisk string // as "UpToDate"
	// Protocol is A, B or C; it is empty without network configuration.
	Protocol string
	Flags    string // six characters, as "r-----"
	// Counters are ns, nr, dw, dr, al, bm, lo, pe, ua, ap, ep and oos by name. Those
	// of data and oos are KiB.
	Counters map[string]int64
	// WriteOrdering is b, f, d or n.
	WriteOrdering string
}

// State returns the first line's part on roles and states, as
// "Connected Primary/Secondary UpToDate/UpToDate".
func (m Minor) State() string {
	if m.Role == "" {
		return m.Conn
	}
	return fmt.Sprintf("%s %s/%s %s/%s", m.Conn, m.Role, m.Peer, m.Disk, m.PeerDisk)
}

// OutOfSync returns how much is out of sync, in bytes.
func (m Minor) OutOfSync() int64 { return m.Counters["oos"] << 10 }

var (
	procFirst   = regexp.MustCompile(`^ *(\d+): cs:(\w+)(?: ro:(\w+)/(\w+) ds:(\w+)/(\w+) ([ABC ]) (\S{6}))?$`)
	procCounter = regexp.MustCompile(`^    (?:\w+:\w+ ?)+$`)
)

// ParseProc reads the text of /proc/drbd. Lines that it does not know, as those on the
// progress of a resync, are skipped.
func ParseProc(text string) []Minor {
	var list []Minor
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := procFirst.FindStringSubmatch(line); m != nil {
			number, err := strconv.Atoi(m[1])
			if err != nil {
				continue
			}
			list = append(list, Minor{
				Number: number, Conn: m[2], Role: m[3], Peer: m[4], Disk: m[5], PeerDisk: m[6],
				Protocol: strings.TrimSpace(m[7]), Flags: m[8], Counters: map[string]int64{},
			})
		} else if len(list) > 0 && procCounter.MatchString(line) {
			list[len(list)-1].count(line)
		}
	}
	return list
}

// count reads the line of counters.
func (m *Minor) count(line string) {
	for _, field := range strings.Fields(line) {
		name, value, _ := strings.Cut(field, ":")
		if name == "wo" {
			m.WriteOrdering = value
		} else if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			m.Counters[name] = n
		}
	}
}
