// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/md5"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
)

// guest is a virtual machine whose kernel is the client.
type guest struct {
	t   *testing.T
	ctx context.Context
	g   *kerneldrbd.Guest
}

// startGuest boots a machine with the kernel's nbd module and nbd-client.
func startGuest(t *testing.T) *guest {
	t.Helper()
	kerneldrbd.Require(t)
	need(t, "nbd-client")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // software emulation, on a busy machine
	t.Cleanup(cancel)
	g, err := kerneldrbd.Start(ctx, kerneldrbd.Options{Programs: []string{"nbd-client"}})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			lines, _ := g.Log(context.WithoutCancel(ctx), 0)
			t.Logf("the guest's kernel:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
		require.NoError(t, g.Close())
	})
	v := &guest{t, ctx, g}
	v.run("insmod /modules/nbd.ko nbds_max=1")
	return v
}

// run runs a shell command that has to succeed.
func (v *guest) run(command string) string {
	v.t.Helper()
	out, err := v.g.Run(v.ctx, command)
	require.NoError(v.t, err, "%s\n%s", command, out)
	return strings.TrimSpace(out)
}

// connect makes a node's volume /dev/nbd0, over several connections.
func (v *guest) connect(addr string, connections int) (string, error) {
	_, port, err := net.SplitHostPort(addr)
	require.NoError(v.t, err)
	return v.g.Run(v.ctx, fmt.Sprintf("nbd-client %s %s /dev/nbd0 -N r0 -C %d", kerneldrbd.HostIP, port, connections))
}

// TestKernelClient: the Linux kernel's nbd, in a virtual machine, is the client of a pair
// whose Primary is killed while the kernel writes. What it was told is written is on the
// other node, to which it goes next.
func TestKernelClient(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	need(t, "nbdcopy")
	v := startGuest(t)
	l := newLab(t, 16<<20)
	ports := newLab(t, 0).ports
	alpha, beta := l.server("alpha", 0, "-nbd", ports[0]), l.server("beta", 1, "-nbd", ports[1])
	alpha.start()
	beta.start()
	alpha.ok("wait-connect 0", "primary 0 --force")
	alpha.inSync()

	out, err := v.connect(ports[1], 1)
	require.Error(t, err, "a Secondary lets nobody in:\n%s", out)
	out, err = v.connect(ports[0], 4)
	require.NoError(t, err, out)
	require.Equal(t, fmt.Sprint(volumeSize(t, alpha)/512), v.run("cat /sys/block/nbd0/size"))
	require.Equal(t, "write back", v.run("cat /sys/block/nbd0/queue/write_cache"), "the server says that it flushes")
	require.Equal(t, "1", v.run("cat /sys/block/nbd0/queue/fua"))
	require.NotEqual(t, "0", v.run("cat /sys/block/nbd0/queue/discard_max_bytes"))
	require.Equal(t, "512", v.run("cat /sys/block/nbd0/queue/logical_block_size"))

	// Every kind of request, and the same bytes on this side of it.
	v.run("head -c 1048576 /dev/urandom > /tmp/data")
	v.run("mke2fs -F -b 1024 /dev/nbd0 4096 2>&1")
	v.run("dd if=/tmp/data of=/dev/nbd0 bs=64k seek=64 conv=fsync 2>&1")
	v.run("dd if=/tmp/data of=/dev/nbd0 bs=512 count=16 seek=10243 oflag=direct 2>&1")
	v.run("blkdiscard -o 5242880 -l 65536 /dev/nbd0")
	v.run("echo 3 > /proc/sys/vm/drop_caches")
	const checked = 6 << 20
	read := fmt.Sprintf("head -c %d /dev/nbd0 | md5sum | cut -c1-32", checked)
	sum := v.run(read)
	command(t, "nbdcopy", alpha.uri(), l.path("alpha.copy"))
	copied, err := os.ReadFile(l.path("alpha.copy"))
	require.NoError(t, err)
	require.Equal(t, sum, fmt.Sprintf("%x", md5.Sum(copied[:checked])))

	// The Primary dies under the kernel's hands.
	done := make(chan error, 1)
	v.run("echo 0 > /tmp/acknowledged")
	go func() {
		_, err := v.g.Run(v.ctx, `i=0; while dd if=/tmp/data of=/dev/nbd0 bs=64k count=1 skip=$((i%16)) seek=$((128+i%16)) oflag=direct 2>/dev/null; do i=$((i+1)); echo $i > /tmp/a; mv /tmp/a /tmp/acknowledged; done`)
		done <- err
	}()
	v.run("while [ $(cat /tmp/acknowledged || echo 0) -lt 3 ]; do sleep 0.1; done")
	alpha.kill()
	require.NoError(t, <-done)
	t.Logf("the kernel had %s writes of 64 KiB acknowledged", v.run("cat /tmp/acknowledged"))
	v.run("nbd-client -d /dev/nbd0 || true")

	beta.await("primary 0", func(code int, _ string) bool { return code == 0 })
	out, err = v.connect(ports[1], 4)
	require.NoError(t, err, out)
	v.run("echo 3 > /proc/sys/vm/drop_caches")
	require.Equal(t, sum, v.run(read))
	// The blocks of the last round, up to where the acknowledgements ended.
	v.run(`n=$(cat /tmp/acknowledged); [ $n -lt 16 ] || n=16
		head -c $((n*65536)) /tmp/data | md5sum > /tmp/want
		dd if=/dev/nbd0 bs=64k skip=128 count=$n 2> /dev/null | md5sum | cmp - /tmp/want`)
	v.run("nbd-client -d /dev/nbd0")
	beta.await("status --json", func(_ int, out string) bool { return strings.Contains(out, `"open": false`) })
	beta.ok("secondary 0")
}
