// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestResize grows the disks of both nodes and then the volume, shrinks it, and finds the
// size again after a restart of the connection.
func TestResize(t *testing.T) {
	l := newLab(t)
	alpha, beta := l.pair(8<<20, nil)
	for _, disk := range []string{"alpha.img", "beta.img"} {
		require.NoError(t, os.Truncate(l.path(disk), 16<<20))
	}
	alpha.ok("resize 0")
	for _, d := range []*instance{alpha, beta} {
		d.inSync()
		require.Contains(t, d.ok("status --statistics"), "size:16344 ")
	}
	alpha.ok("resize 0 --size=6M")
	beta.inSync()
	require.Contains(t, beta.ok("status --statistics"), "size:6144 ")
	require.Contains(t, alpha.ok("show"), "size                    12288s;")
	alpha.refused(20, "is not a number", "resize 0 --size=large")
	alpha.ok("secondary 0")
	alpha.refused(10, "Failure: (131) Need one Primary node to resize.", "resize 0")
	alpha.ok("disconnect r0", "connect r0", "wait-connect 0")
	require.Contains(t, alpha.ok("status --statistics"), "size:6144 ")
}
