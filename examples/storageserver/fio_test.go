// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFio writes and verifies through NBD with blocks of all sizes while the cable
// between the nodes is pulled out at random. Afterwards both nodes hold the same.
func TestFio(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	need(t, "fio", "nbdcopy", "qemu-img")
	l := newLab(t, 128<<20)
	alpha, beta := l.server("alpha", 0), l.server("beta", 1)
	c := newCable(l, alpha, beta)
	alpha.start()
	beta.start()
	alpha.ok("wait-connect 0", "primary 0 --force")
	alpha.inSync()

	seed := uint64(time.Now().UnixNano())
	t.Logf("cuts after the seed %d", seed)
	ctx, stop := context.WithCancel(context.Background())
	cuts := make(chan int, 1)
	defer stop()
	go func() {
		random, n := rand.New(rand.NewPCG(seed, 0)), 0
		pause := func(most time.Duration) bool {
			select {
			case <-time.After(time.Duration(random.Int64N(int64(most)))):
				return true
			case <-ctx.Done():
				return false
			}
		}
		for pause(2 * time.Second) {
			c.cut()
			n++
			pause(500 * time.Millisecond)
			c.mend()
		}
		cuts <- n
	}()
	for _, j := range []struct{ bs, io string }{
		{"512", "512k"}, {"1k", "1M"}, {"2k", "2M"}, {"4k", "8M"}, {"8k", "16M"}, {"16k", "24M"}, {"32k", "32M"},
		{"64k", "48M"}, {"128k", "64M"}, {"256k", "64M"}, {"512k", "96M"}, {"1M", "96M"}, {"512-1M", "64M"},
	} {
		begin, bs := time.Now(), j.bs
		if !strings.Contains(bs, "-") {
			bs += "-" + bs
		}
		args := []string{"--name=t", "--ioengine=nbd", "--uri=" + alpha.uri(), "--rw=randwrite", "--iodepth=16", "--size=96M",
			"--io_size=" + j.io, "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_dump=0", "--fsync=64",
			"--randseed=" + strconv.FormatUint(seed, 10), "--bsrange=" + bs}
		cmd := exec.Command("fio", args...)
		cmd.Dir = l.dir // fio leaves its state there
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "blocks of %s\n%s", j.bs, out)
		t.Logf("blocks of %s: %s written and verified in %v", j.bs, j.io, time.Since(begin).Round(10*time.Millisecond))
	}
	stop()
	t.Logf("%d cuts", <-cuts)
	c.mend()
	alpha.inSync()
	beta.inSync()
	command(t, "nbdcopy", alpha.uri(), l.path("alpha.copy"))
	alpha.ok("secondary 0")
	beta.ok("primary 0")
	command(t, "nbdcopy", beta.uri(), l.path("beta.copy"))
	command(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", l.path("alpha.copy"), l.path("beta.copy"))
}
