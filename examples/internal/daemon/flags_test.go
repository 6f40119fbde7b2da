// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMistakes: what is wrong with a command line is said in a way that helps.
func TestMistakes(t *testing.T) {
	l := newLab(t)
	for want, change := range map[string]func(*Config){
		"-tls-cert, -tls-key and -tls-ca": func(c *Config) { c.Cert = "x" },
		"-web-cert and -web-key":          func(c *Config) { c.Web, c.WebCA = "127.0.0.1:0", "x" },
		"-web wants HOST:PORT":            func(c *Config) { c.Web = "nonsense" },
		"-nbd wants HOST:PORT":            func(c *Config) { c.NBD = "203.0.113.1:1" },
		"-shared-port 70000":              func(c *Config) { c.SharedPort = 70000 },
		"-conf: ":                         func(c *Config) { c.Conf = l.path("missing") },
	} {
		cfg := Config{Node: "alpha", Socket: l.path("s"), Web: Off, NBD: Off, Log: &syncBuffer{}}
		change(&cfg)
		require.ErrorContains(t, Run(t.Context(), cfg, nil), want)
	}
	require.ErrorContains(t, CreateMD([]string{l.path("d")}, io.Discard), "with -size 400M it is made")
	for _, bad := range []string{"-size=", "-size=1X", "-size=-1M", "-size=100", "-size=9999999999G"} {
		require.ErrorContains(t, CreateMD([]string{bad, l.path("d")}, io.Discard), "as 400M")
	}
	require.NoError(t, CreateMD([]string{"-size=1m", l.path("d")}, io.Discard))
	info, err := os.Stat(l.path("d"))
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, info.Size())
	require.ErrorContains(t, CreateMD([]string{l.path("d")}, io.Discard), "-force")
	require.NoError(t, CreateMD([]string{"-force", l.path("d")}, io.Discard))
}
