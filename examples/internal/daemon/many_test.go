// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

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
		eachOf(many, func(n int) {
			disk := l.path(fmt.Sprintf("%s-%d.img", name, n))
			if create {
				if err := createMD(disk, 1<<20, false); err != nil {
					t.Error(err)
				}
			}
			for _, line := range []string{
				fmt.Sprintf("new-resource r%d", n), fmt.Sprintf("new-minor r%d %d 0", n, n),
				fmt.Sprintf("attach %d %s internal internal --al-extents=67", n, disk),
				fmt.Sprintf("connect r%d %s %s", n, ports[i], ports[1-i]) + fast,
			} {
				if code, _, e := d.setup(line); code != 0 {
					t.Errorf("drbdsetup %s: %s", line, e)
				}
			}
		})
		return d
	}
	wait := func(d *instance) { d.waitForAll(many, "cs:Connected") }
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
	alpha.waitForAll(many, "cs:WFConnection")
	beta = up("beta", 1, false)
	wait(alpha)
	wait(beta)
}

// eachOf calls f with 0 to n-1, some at a time: most of their time they wait for the disk.
func eachOf(n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// waitForAll waits until a text stands n times in what /proc/drbd would show.
func (d *instance) waitForAll(n int, text string) {
	d.l.t.Helper()
	f := d.l.follow(d, "events2")
	defer f.stop()
	limit := time.After(2 * time.Minute)
	for {
		seen := strings.Count(d.ok("status --proc"), text)
		if seen == n {
			return
		}
		select {
		case _, open := <-f.lines:
			require.True(d.l.t, open, "the daemon has ended")
		case <-limit:
			d.l.t.Fatalf("%s: %d of %d", text, seen, n)
		}
		for len(f.lines) > 0 { // look again once for all of them
			<-f.lines
		}
	}
}
