// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const diskBytes = 16 << 20

// withTimeout bounds what a test waits for. Emulation on a busy machine is slow.
func withTimeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// startGuest boots a guest with three disks of diskBytes; /dev/vdc has a fault. Its log is shown if the test fails.
func startGuest(t testing.TB) (*Guest, []string) {
	Require(t)
	var disks []string
	opts := Options{}
	for _, name := range []string{"a", "b", "c"} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Truncate(path, diskBytes))
		disks = append(disks, path)
		opts.Disks = append(opts.Disks, Disk{Path: path})
		if name == "c" {
			opts.Disks[2].FailSector = 1000
		}
	}
	g, err := Start(withTimeout(t), opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			lines, err := g.Log(withTimeout(t), 0)
			t.Logf("kernel log (%v):\n%s\nconsole:\n%s", err, strings.Join(lines[max(0, len(lines)-100):], "\n"), g.Console())
		}
		require.NoError(t, g.Close())
	})
	return g, disks
}

func TestGuest(t *testing.T) {
	g, disks := startGuest(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Guest, []string)
	}{
		{"Run", testRun},
		{"RunTimeout", testRunTimeout},
		{"Log", testLog},
		{"Disks", testDisks},
		{"FailingDisk", testFailingDisk},
		{"Pause", testPause},
		{"Monitor", testMonitor},
		{"Resource", testResource},
		{"KernelDials", testKernelDials},
		{"KernelIsDialled", testKernelIsDialled},
		{"Crash", testCrash}, // last: restarts the guest
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, g, disks) })
	}
}

func testRun(t *testing.T, g *Guest, _ []string) {
	ctx := withTimeout(t)
	out, err := g.Run(ctx, "echo one\nfor i in two; do\necho $i\ndone; printf '\\000\\377' >&2")
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\n\x00\xff", out)
	out, err = g.Run(ctx, "echo no; exit 7")
	var exit *ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.Status)
	require.Equal(t, "no\n", out)
	out, err = g.Run(ctx, "head -c 300000 /dev/zero")
	require.NoError(t, err)
	require.Equal(t, string(make([]byte, 300000)), out)
}

func testRunTimeout(t *testing.T, g *Guest, _ []string) {
	ctx := withTimeout(t)
	for range 2 * commandPorts { // more than there are ports: they become free again
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		_, err := g.Run(short, "sleep 1000")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		out, err := g.Run(ctx, "echo fine")
		require.NoError(t, err)
		require.Equal(t, "fine\n", out)
	}
}

func testLog(t *testing.T, g *Guest, _ []string) {
	ctx := withTimeout(t)
	mark, err := g.Mark(ctx)
	require.NoError(t, err)
	_, err = g.Run(ctx, "echo '<4>needle one' >/dev/kmsg; echo '<4>needle two' >/dev/kmsg")
	require.NoError(t, err)
	line, after, err := g.WaitLog(ctx, mark, regexp.MustCompile("^needle"))
	require.NoError(t, err)
	require.Equal(t, "needle one", line)
	line, _, err = g.WaitLog(ctx, after, regexp.MustCompile("^needle"))
	require.NoError(t, err)
	require.Equal(t, "needle two", line)
	lines, err := g.Log(ctx, mark)
	require.NoError(t, err)
	lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "needle") }) // the kernel writes when it likes
	require.Equal(t, []string{"needle one", "needle two"}, lines)
	all, err := g.Log(ctx, 0)
	require.NoError(t, err)
	require.Contains(t, all, "drbd: initialized. Version: 8.4.11 (api:1/proto:86-101)")
}

// testDisks: the order of the disks, and that both sides see what the other writes.
func testDisks(t *testing.T, g *Guest, disks []string) {
	ctx := withTimeout(t)
	out, err := g.Run(ctx, "cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial; echo; blockdev --getsize64 /dev/vda; blockdev --getsize64 /dev/vdb")
	require.NoError(t, err)
	require.Equal(t, []string{"disk0", "disk1", "16777216", "16777216"}, strings.Fields(out))
	data := make([]byte, 5*512)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	f, err := os.OpenFile(disks[1], os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(data, 3*512)
	require.NoError(t, err)
	require.NoError(t, g.Copy(ctx, "/dev/vda", 7*512, "/dev/vdb", 3*512, 5*512, 5*512))
	got, err := os.ReadFile(disks[0])
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got[7*512:12*512]))
	_, err = g.Run(ctx, "blkdiscard /dev/vda")
	require.NoError(t, err)
	got, err = os.ReadFile(disks[0])
	require.NoError(t, err)
	require.Equal(t, make([]byte, diskBytes), got)
}

func testFailingDisk(t *testing.T, g *Guest, _ []string) {
	ctx := withTimeout(t)
	require.NoError(t, g.Copy(ctx, "/dev/vdc", 992*512, "/dev/vda", 0, 4096, 4096))
	var exit *ExitError
	require.ErrorAs(t, g.Copy(ctx, "/dev/vdc", 1000*512, "/dev/vda", 0, 4096, 4096), &exit)
	require.NoError(t, g.Copy(ctx, "/dev/vdc", 1000*512, "/dev/vda", 0, 4096, 4096), "only once")
}

func testPause(t *testing.T, g *Guest, _ []string) {
	ctx := withTimeout(t)
	require.NoError(t, g.Pause())
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	_, err := g.Run(short, "true")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	require.NoError(t, g.Resume())
	_, err = g.Run(ctx, "true")
	require.NoError(t, err)
}

// newResource makes fresh metadata and attaches /dev/vda.
func newResource(t *testing.T, g *Guest) *Resource {
	ctx := withTimeout(t)
	r := &Resource{Guest: g, Name: "r0", Port: 7788, Volumes: []Volume{{Disk: "/dev/vda"}}}
	require.NoError(t, r.Down(ctx))
	require.NoError(t, r.CreateMetadata(ctx))
	require.NoError(t, r.Up(ctx))
	return r
}

func testResource(t *testing.T, g *Guest, disks []string) {
	ctx := withTimeout(t)
	r := newResource(t, g)
	m, err := r.WaitState(ctx, "StandAlone Secondary/Unknown Inconsistent/DUnknown")
	require.NoError(t, err)
	require.Equal(t, "r----s", m.Flags, "all is out of sync, so the activity log is not needed")
	usable := m.OutOfSync()
	require.Positive(t, usable)
	require.Less(t, usable, int64(diskBytes))
	require.NoError(t, r.Primary(ctx, "--force"))
	_, err = r.WaitState(ctx, "StandAlone Primary/Unknown UpToDate/DUnknown")
	require.NoError(t, err)
	require.NoError(t, r.Guest.Copy(ctx, r.Volumes[0].Device(), 512, "/dev/vdb", 0, 8192, 4096))
	a, err := os.ReadFile(disks[0])
	require.NoError(t, err)
	b, err := os.ReadFile(disks[1])
	require.NoError(t, err)
	require.True(t, bytes.Equal(a[512:512+8192], b[:8192]))
	err = r.Connect(ctx, 1, "--protocol=X")
	var exit *ExitError
	require.ErrorAs(t, err, &exit)
	require.NoError(t, r.Secondary(ctx))
	require.NoError(t, r.Down(ctx))
	m, err = r.State(ctx, r.Volumes[0])
	require.NoError(t, err)
	require.Equal(t, "Unconfigured", m.State())
	require.NoError(t, r.Down(ctx))
}

// testCrash: what was written is there after a power failure, what DRBD was is not.
func testCrash(t *testing.T, g *Guest, _ []string) {
	ctx := withTimeout(t)
	r := newResource(t, g)
	require.NoError(t, r.Primary(ctx, "--force"))
	require.NoError(t, r.Guest.Copy(ctx, r.Volumes[0].Device(), 0, "/dev/vdb", 0, 4096, 4096))
	require.NoError(t, g.Crash())
	_, err := g.Run(ctx, "true")
	require.ErrorIs(t, err, ErrDown)
	require.NoError(t, g.Restart(ctx))
	m, err := r.State(ctx, r.Volumes[0])
	require.NoError(t, err)
	require.Equal(t, "Unconfigured", m.State())
	require.NoError(t, r.Up(ctx))
	_, err = r.WaitState(ctx, "StandAlone Secondary/Unknown UpToDate/DUnknown")
	require.NoError(t, err)
	_, err = g.Run(ctx, "echo b >/proc/sysrq-trigger; sleep 1000")
	require.ErrorIs(t, err, ErrDown)
	require.NoError(t, g.Restart(ctx))
	_, err = g.Run(ctx, "true")
	require.NoError(t, err)
}

// testMonitor: a disk gets another size, and one answers no more for a while.
func testMonitor(t *testing.T, g *Guest, disks []string) {
	ctx := withTimeout(t)
	require.NoError(t, g.ResizeDisk(ctx, 1, diskBytes/2))
	info, err := os.Stat(disks[1])
	require.NoError(t, err)
	require.EqualValues(t, diskBytes/2, info.Size())
	require.Error(t, g.Copy(ctx, "/dev/vdb", diskBytes/2, "/dev/vda", 0, 4096, 4096))
	require.NoError(t, g.ResizeDisk(ctx, 1, diskBytes))
	require.NoError(t, g.Copy(ctx, "/dev/vdb", diskBytes/2, "/dev/vda", 0, 4096, 4096))
	require.ErrorContains(t, g.ResizeDisk(ctx, 9, 4096), "disk9")

	require.NoError(t, g.FreezeDisk(ctx, 1))
	wrote := make(chan error, 1)
	go func() { wrote <- g.Copy(ctx, "/dev/vdb", 0, "/dev/vda", 0, 64<<10, 4096) }()
	_, err = g.Run(ctx, "usleep 300000")
	require.NoError(t, err)
	require.Empty(t, wrote)
	require.NoError(t, g.ThawDisk(ctx, 1))
	require.NoError(t, <-wrote)
}
