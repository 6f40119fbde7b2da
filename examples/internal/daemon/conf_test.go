// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// write makes a file of the lab.
func (l *lab) write(name, text string, mode os.FileMode) string {
	p := l.path(name)
	require.NoError(l.t, os.WriteFile(p, []byte(text), mode))
	return p
}

// TestConf brings two nodes up from one drbd.conf, with two volumes, options and
// handlers, and restarts one.
func TestConf(t *testing.T) {
	l := newLab(t)
	ports := l.ports(2)
	for _, d := range []string{"alpha0", "alpha1", "beta0", "beta1"} {
		l.disk(d+".img", 4<<20)
	}
	calls := l.path("calls")
	handler := l.write("handler", "#!/bin/sh\necho \"$1 $DRBD_RESOURCE $DRBD_VOLUME $DRBD_MINOR $DRBD_LL_DISK $DRBD_PEER $DRBD_PEER_AF\" >> "+calls+"\n", 0o755)
	host := func(name string, i int) string {
		return fmt.Sprintf("on %s { address %s; volume 0 { device /dev/drbd0; disk %s; meta-disk internal; } volume 1 { device minor 1; disk %s; meta-disk internal; } }\n",
			name, ports[i], l.path(name+"0.img"), l.path(name+"1.img"))
	}
	file := l.write("drbd.conf", "global { usage-count no; }\n"+
		"common { net { connect-int 1; ping-timeout 20; socket-check-timeout 1; } disk { c-min-rate 0; } }\n"+
		"resource r0 {\n handlers { after-resync-target \""+handler+" 'hello world'\"; }\n startup { wfc-timeout 5; }\n"+
		host("alpha", 0)+host("beta", 1)+"}\n"+
		"resource elsewhere { on gamma { address 127.0.0.1:1; device /dev/drbd7; disk /x; meta-disk internal; } "+
		"on delta { address 127.0.0.1:2; device /dev/drbd7; disk /x; meta-disk internal; } }\n", 0o644)
	with := func(c *Config) { c.Conf = file }
	alpha, beta := l.start("alpha", with), l.start("beta", with)
	alpha.ok("wait-connect 0", "primary 0 --force")
	inSync := func() {
		for _, minor := range []string{"0", "1"} {
			for _, d := range []*instance{alpha, beta} {
				d.waitFor("dstate "+minor, "UpToDate/UpToDate\n")
				d.waitFor("cstate "+minor, "Connected\n")
			}
		}
	}
	inSync()
	require.Contains(t, alpha.ok("status"), "  beta role:Secondary\n")
	require.Contains(t, alpha.ok("show r0"), "ping-timeout            20;")
	require.Contains(t, alpha.log.String(), "resource elsewhere is not on alpha")
	require.Contains(t, alpha.log.String(), "wfc-timeout has no effect here")
	beta.logged("handler returned")
	_, body := beta.get("/readyz")
	require.Equal(t, "ok\n", body)

	t.Run("handlers", func(t *testing.T) {
		l.t = t
		defer func() { l.t = t }()
		events := l.follow(beta, "events2", "r0")
		events.until("exists -")
		alpha.ok("invalidate-remote 1")
		events.until("call helper name:r0 peer-node-id:0 conn-name:alpha volume:1 minor:1 helper:after-resync-target")
		events.until("response helper name:r0 peer-node-id:0 conn-name:alpha volume:1 minor:1 helper:after-resync-target status:0")
		text, err := os.ReadFile(calls)
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		require.Equal(t, "hello world r0 1 1 "+l.path("beta1.img")+" alpha ipv4", lines[len(lines)-1])
	})
	l.t = t

	beta.end()
	alpha.waitFor("cstate 0", "WFConnection\n")
	beta = l.start("beta", with)
	inSync()

	beta.ok("down r0")
	beta.refused(10, "Failure: (158) Unknown resource", "up r1")
	beta.ok("up r0", "up all")
	inSync()
}

// TestConfErrors: a file that cannot be is an error with its place; a disk that is not
// there is no reason for the others not to come up.
func TestConfErrors(t *testing.T) {
	l := newLab(t)
	err := Run(t.Context(), Config{Node: "alpha", Socket: l.path("s"), Web: Off, NBD: Off,
		Conf: l.write("bad.conf", "resource r0 {\n  disk { al-extents many; }\n", 0o644), Log: &syncBuffer{}}, nil)
	require.ErrorContains(t, err, filepath.Base("bad.conf")+":")

	l.disk("good.img", 4<<20)
	resource := func(name, disk string, minor int) string {
		return fmt.Sprintf("resource %s { device minor %d; meta-disk internal; on alpha { address %s; disk %s; } on beta { address %s; disk /%s; } }\n",
			name, minor, l.ports(1)[0], disk, l.ports(1)[0], name)
	}
	d := l.start("alpha", func(c *Config) {
		c.Conf = l.write("drbd.conf", resource("r0", l.path("good.img"), 0)+resource("r1", l.path("missing.img"), 1), 0o644)
	})
	require.Equal(t, "Inconsistent/DUnknown\n", d.ok("dstate 0"))
	require.Equal(t, "Diskless/DUnknown\n", d.ok("dstate 1"))
	code, body := d.get("/readyz")
	require.Equal(t, 503, code)
	require.Contains(t, body, "missing.img")
}
