// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNBDClients: a Secondary refuses clients, a Primary with clients stays it, and over
// the network only who has a certificate gets in.
func TestNBDClients(t *testing.T) {
	need(t, "nbdinfo", "nbdfuse", "umount", "qemu-img")
	l := newLab(t, 16<<20)
	port := newLab(t, 0).ports[0]
	require.NoError(t, run([]string{"gen-certs", "-dir", l.path("certs"), "alpha=127.0.0.1", "client"}))
	require.NoError(t, run([]string{"gen-certs", "-dir", l.path("other"), "client"}))
	certs := l.path("certs/alpha/")
	alpha := l.server("alpha", 0, "-nbd", port, "-tls-cert", certs+"/server-cert.pem", "-tls-key", certs+"/server-key.pem", "-tls-ca", certs+"/ca-cert.pem")
	alpha.start()
	info := func(uri string) string {
		out, err := exec.Command("nbdinfo", "--size", uri).CombinedOutput()
		if err != nil {
			return "refused: " + string(out)
		}
		return strings.TrimSpace(string(out))
	}
	out, err := exec.Command("qemu-img", "info", alpha.uri()).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "the node is Secondary")
	alpha.ok("primary 0 --force")
	size := info(alpha.uri())
	require.Regexp(t, "^[0-9]+$", size)
	require.Equal(t, size, info("nbds://"+port+"/r0/0?tls-certificates="+l.path("certs/client")))
	require.Contains(t, info("nbds://"+port+"/r0?tls-certificates="+l.path("other/client")), "refused")
	require.Contains(t, info("nbd://"+port+"/r0"), "refused")
	require.Contains(t, info("nbd+unix:///elsewhere?socket="+alpha.nbd()), "refused")

	fuse := l.path("fuse")
	command(t, "mkdir", fuse)
	client := exec.Command("nbdfuse", fuse+"/nbd", alpha.uri())
	require.NoError(t, client.Start())
	alpha.await("status --json", func(_ int, out string) bool { return strings.Contains(out, `"open": true`) })
	code, text := alpha.setup("secondary 0")
	require.Equal(t, 11, code)
	require.Contains(t, text, "0: State change failed: (-12) Device is held open by someone")
	require.NoError(t, client.Process.Kill())
	_ = client.Wait()
	_ = exec.Command("umount", "-l", fuse).Run()
	alpha.await("secondary 0", func(code int, _ string) bool { return code == 0 })
}

// TestAutoPromote: the node that a client comes to becomes Primary, as long as it stays.
func TestAutoPromote(t *testing.T) {
	need(t, "nbdcopy", "qemu-img")
	l := newLab(t, 16<<20)
	alpha, beta := l.server("alpha", 0, "-auto-promote"), l.server("beta", 1, "-auto-promote")
	alpha.start()
	beta.start()
	alpha.ok("wait-connect 0", "primary 0 --force")
	alpha.inSync()
	alpha.ok("secondary 0")
	secondary := func(_ int, out string) bool { return out == "Secondary/Secondary\n" }
	for _, s := range []*server{alpha, beta, alpha} {
		command(t, "nbdcopy", s.uri(), l.path("copy"))
		s.await("role 0", secondary)
	}
	alpha.ok("primary 0") // by hand: it stays
	command(t, "nbdcopy", alpha.uri(), l.path("copy"))
	alpha.await("status --json", func(_ int, out string) bool { return strings.Contains(out, `"open": false`) })
	require.Equal(t, "Primary/Secondary\n", alpha.ok("role 0"))
	out, err := exec.Command("qemu-img", "info", beta.uri()).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "Multiple primaries not allowed by config")
}
