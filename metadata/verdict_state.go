// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "fmt"

// DiskState is a disk state as the verdict sees it. The numbers are DRBD's own, on
// the wire too, and their order is meant: higher is better (spec: behaviour 1.4).
type DiskState uint8

// The disk states. Beware: DiskUnknown sorts above DiskOutdated.
const (
	DiskDiskless     DiskState = 0 // no backing disk
	DiskAttaching    DiskState = 1 // metadata is being read
	DiskFailed       DiskState = 2 // failed or being detached, Diskless next
	DiskNegotiating  DiskState = 3 // attached to a live connection; the handshake decides
	DiskInconsistent DiskState = 4 // blocks of different ages
	DiskOutdated     DiskState = 5 // consistent, known to be older than the peer's
	DiskUnknown      DiskState = 6 // the peer's disk, without a connection
	DiskConsistent   DiskState = 7 // consistent; UpToDate or Outdated is not yet known
	DiskUpToDate     DiskState = 8 // good data
)

var diskStateNames = [...]string{
	"Diskless", "Attaching", "Failed", "Negotiating", "Inconsistent",
	"Outdated", "DUnknown", "Consistent", "UpToDate",
}

// String returns DRBD's name of the state.
func (d DiskState) String() string {
	if int(d) < len(diskStateNames) {
		return diskStateNames[d]
	}
	return fmt.Sprintf("DiskState(%d)", uint8(d))
}
