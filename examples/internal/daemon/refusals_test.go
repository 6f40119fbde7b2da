// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// TestRefusedDisks: disks that do not fit, with DRBD's numbers (spec: behaviour 10.4).
func TestRefusedDisks(t *testing.T) {
	l := newLab(t)
	alpha, _ := l.pair(8<<20, nil)
	alpha.ok("new-resource r1", "new-minor r1 1 0")
	local := l.ports(1)[0]
	alpha.refused(10, "1: Failure: (116) Lower device / meta device / index combination invalid.",
		"attach 1 "+l.disk("one.img", 4<<20)+" "+l.disk("meta.img", 4<<20)+" 1000000")
	alpha.refused(10, "Failure: (104) Can not open backing device.", "attach 1 "+l.path("none.img")+" internal internal")
	alpha.refused(10, "Failure: (105) Can not open meta device.", "attach 1 "+l.path("one.img")+" "+l.path("none.img")+" flexible")
	alpha.refused(10, "Failure: (114) Lower device is already claimed.", "attach 1 "+l.path("alpha.img")+" internal internal")
	require.NoError(t, os.WriteFile(l.path("empty.img"), make([]byte, 4<<20), 0o600))
	alpha.refused(10, "Failure: (119) No valid meta-data signature found.", "attach 1 "+l.path("empty.img")+" internal internal")
	alpha.refused(10, "Failure: (111) Low.dev. smaller than requested DRBD-dev. size.", "attach 1 "+l.path("one.img")+" internal internal --size=1G")

	// A disk with good data on it that has become smaller.
	shrunk, meta := l.create("shrunk.img", 8<<20), l.create("shrunk.meta", 4<<20)
	require.NoError(t, replica.CreateMetadata(replica.Disk{Device: shrunk, MetaDisk: metadata.FlexExternal(), MetaDevice: meta},
		metadata.CreateOptions{EffectiveSize: 8 << 20 / 512, Current: 0x1234, Flags: metadata.Consistent | metadata.WasUpToDate}))
	require.NoError(t, shrunk.Close())
	require.NoError(t, meta.Close())
	require.NoError(t, os.Truncate(l.path("shrunk.img"), 4<<20))
	alpha.refused(10, "Failure: (170) Implicit device shrinking not allowed.", "attach 1 "+l.path("shrunk.img")+" "+l.path("shrunk.meta")+" flexible")

	alpha.ok("attach 1 " + l.path("one.img") + " internal internal")
	show := alpha.ok("show r0") // which has the address of r0's peer
	show = show[strings.Index(show, "_remote_host"):]
	remote := show[strings.Index(show, "127.0.0.1:"):strings.Index(show, ";")]
	alpha.refused(10, "Failure: (103) Remote address(port) already in use.", "connect r1 ipv4:"+local+" ipv4:"+remote)
	alpha.ok("down r1")

	// While a resync is under way, or paused, no resize.
	alpha.ok("pause-sync 0", "invalidate-remote 0")
	alpha.waitFor("cstate 0", "PausedSyncS\n")
	alpha.refused(10, "Failure: (130) Resize not allowed during resync.", "resize 0")
	alpha.ok("resume-sync 0")
	alpha.inSync()

	// A Primary that has lost its disk takes no other data than what its users have seen.
	alpha.ok("detach 0", "disconnect r0 --force")
	alpha.refused(10, "Failure: (150) Can only attach to the data we lost last", "attach 0 "+l.disk("other.img", 8<<20)+" internal internal"+diskFast)
}

// create makes an empty disk.
func (l *lab) create(name string, size int64) blockdev.Device {
	f, err := blockdev.Create(l.path(name), size, blockdev.Options{})
	require.NoError(l.t, err)
	return f
}
