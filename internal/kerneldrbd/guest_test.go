// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBoot(t *testing.T) {
	Require(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	begin := time.Now()
	g, err := Start(ctx, Options{})
	require.NoError(t, err)
	defer g.Close()
	t.Log("boot", time.Since(begin))
	for _, c := range []string{"cat /proc/drbd; true", "dmesg | tail -30", "lsmod", "ip a; ip r", "ls /dev", "time true"} {
		begin := time.Now()
		out, err := g.Run(ctx, c)
		t.Log(c, time.Since(begin), err, "\n"+out)
	}
	t.Log(g.Console())
	lines, err := g.Log(ctx, 0)
	t.Log(len(lines), lines[len(lines)-1], err)
}
