// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// drbdadm84 reads files of 8.3 and 8.4; plain drbdadm reads those of 9.
const drbdadm84 = "/usr/lib/drbd/drbdadm-84"

// realDump returns what the real tool makes of a file. Without the tool the test is
// skipped, and fails in CI.
func realDump(t *testing.T, tool, file string) (string, error) {
	path, err := exec.LookPath(tool)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + tool)
	}
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing: install Debian's drbd-utils", tool)
		}
		t.Skipf("%s is missing: install Debian's drbd-utils to run this test", tool)
	}
	cmd := exec.Command(path, "-c", file, "dump", "all")
	cmd.Env = append(os.Environ(), "__DRBD_NODE__=a") // who it takes itself for
	out, err := cmd.Output()
	return string(out), err
}

// normal leaves out what differs on purpose: comments, white space, and the settings
// of the tool that it adds.
func normal(dump string) []string {
	var lines []string
	for _, line := range strings.Split(dump, "\n") {
		line = strings.Join(strings.Fields(line), " ")
		if line != "" && line[0] != '#' && !strings.HasPrefix(line, "cmd-timeout-") {
			lines = append(lines, line)
		}
	}
	return lines
}

func toolOf(file string) (string, Dialect) {
	if strings.Contains(filepath.Base(file), "drbd9") {
		return "drbdadm", DRBD9
	}
	return drbdadm84, DRBD84
}

// Whatever is in a file, the real tool reads the same in it.
func TestDumpEqualsDrbdadm(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Load(file)
			require.NoError(t, err)
			tool, dialect := toolOf(file)
			want, err := realDump(t, tool, file)
			if strings.Contains(file, "drbd07") {
				require.Error(t, err, "the tools do not know 0.7 any more")
				return
			}
			require.NoError(t, err)
			require.Equal(t, normal(want), normal(c.Dump(dialect)))
		})
	}
}

// A dump reads as the same, here and by the real tool.
func TestDumpReadsAgain(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	require.NoError(t, err)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Load(file)
			require.NoError(t, err)
			tool, dialect := toolOf(file)
			dump := c.Dump(dialect)
			again, err := Parse("dump", dump)
			require.NoError(t, err, dump)
			require.Equal(t, dump, again.Dump(dialect))
			if strings.Contains(file, "drbd07") {
				return
			}
			path := filepath.Join(t.TempDir(), filepath.Base(file))
			require.NoError(t, os.WriteFile(path, []byte(dump), 0o600))
			want, err := realDump(t, tool, path)
			require.NoError(t, err, dump)
			require.Equal(t, normal(want), normal(dump))
		})
	}
}
