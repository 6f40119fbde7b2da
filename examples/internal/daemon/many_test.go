// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestManyResources runs many resources over one port, restarts one of the daemons, and
// reports what an idle resource costs.
func TestManyResources(t *testing.T) {
	many := 200
	if testing.Short() || raceEnabled {
		many = 20
	}
	l := newLab(t)
	ports, shared := l.shared()
	use := func() (goroutines int, memory uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc + m.StackInuse
	}
	up := func(name string, i int, create bool) *instance {
		d := l.start(name, shared)
		for n := range many {
			disk := l.path(fmt.Sprintf("%s-%d.img", name, n))
			if create {
				l.disk(fmt.Sprintf("%s-%d.img", name, n), 1<<20)
			}
			d.ok(fmt.Sprintf("new-resource r%d", n), fmt.Sprintf("new-minor r%d %d 0", n, n),
				fmt.Sprintf("attach %d %s internal internal --al-extents=67", n, disk),
				fmt.Sprintf("connect r%d %s %s", n, ports[i], ports[1-i])+fast)
		}
		return d
	}
	wait := func(d *instance) {
		for n := range many {
			d.ok(fmt.Sprintf("wait-connect %d", n))
		}
		require.Equal(t, many, strings.Count(d.ok("status --proc"), "cs:Connected"))
	}
	g0, m0 := use()
	alpha := up("alpha", 0, true)
	beta := up("beta", 1, true)
	wait(alpha)
	wait(beta)
	g1, m1 := use()
	t.Logf("an idle, connected resource of one volume: %.1f goroutines, %d KiB of heap and stacks",
		float64(g1-g0)/float64(2*many), (int64(m1)-int64(m0))/int64(2*many)/1024)

	// One port serves all.
	if _, err := net.Listen("tcp", ports[0]); err == nil {
		t.Error("nobody listens on the shared port")
	}

	beta.end()
	for n := range many {
		alpha.waitFor(fmt.Sprintf("cstate %d", n), "WFConnection\n")
	}
	beta = up("beta", 1, false)
	wait(alpha)
	wait(beta)
}
