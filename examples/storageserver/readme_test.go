// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cleanup takes apart what the script has left, whatever became of it.
const cleanup = `set -eu
end() {
  code=$?; set +e; cd /
  kill -9 $(head -n 1 $DEMO/data/db/postmaster.pid 2> /dev/null) 2> /dev/null
  [ $code = 0 ] || tail -n 15 $DEMO/*.log $DEMO/run/log
  umount -l $DEMO/data
  losetup -n -l -O NAME,BACK-FILE | grep "$DEMO" | cut -d" " -f1 | xargs -r losetup -d # while their files have their names
  umount -l $DEMO/*.fuse
  kill -9 $(jobs -p); rm -rf $DEMO
  exit $code
} 2> /dev/null
trap end EXIT
`

// TestReadme types the tutorial and the way out of a split brain from ../README.md.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	need(t, "bash", "nbdfuse", "nbdcopy", "mkfs.ext4", "runuser", "initdb", "mount", "losetup", "pgrep")
	if os.Getuid() != 0 {
		missing(t, "mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, "there is no /dev/fuse")
	}
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	var script strings.Builder
	blocks := regexp.MustCompile("(?ms)^```bash\n(.*?)^```$").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, blocks, 9)
	script.WriteString(cleanup)
	for _, b := range blocks {
		script.WriteString(b[1])
	}
	text := script.String()
	a, b := newLab(t, 0), newLab(t, 0)
	for i, fixed := range []string{"7788", "7789", "7780", "7781"} {
		require.Contains(t, text, fixed)
		free := [...]string{a.ports[0], a.ports[1], b.ports[0], b.ports[1]}[i]
		text = strings.ReplaceAll(text, fixed, strings.TrimPrefix(free, "127.0.0.1:"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", text)
	cmd.Dir = "../.."
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{
		"beta has 10001 rows", "r0 role:Primary", "peer-disk:UpToDate",
		"Split brain: the two copies of the data have gone different ways", "drbdsetup connect r0 --discard-my-data", "StandAlone", "written on alpha",
	} {
		require.Contains(t, string(out), want)
	}
	t.Logf("%s", out)
}
