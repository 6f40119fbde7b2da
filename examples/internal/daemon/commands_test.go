// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// TestCommands goes through the life of a pair with drbdsetup's commands alone.
func TestCommands(t *testing.T) {
	l := newLab(t)
	alpha, beta := l.pair(8<<20, nil)

	require.Equal(t, "Primary/Secondary\n", alpha.ok("role 0"))
	require.Equal(t, "Connected\n", alpha.ok("cstate /dev/drbd0"))
	beta.ok("wait-sync 0")
	require.Equal(t, "UpToDate/UpToDate\n", beta.ok("dstate minor-0"))
	require.Equal(t, "r0 role:Primary\n  disk:UpToDate\n  peer role:Secondary\n    peer-disk:UpToDate\n\n", alpha.ok("status r0"))
	require.Contains(t, alpha.ok("status --proc"), " 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n")
	require.Regexp(t, "^([0-9A-F]{16}:){4}1:1:1:1:0:0:0\n$", alpha.ok("get-gi 0"))
	require.Contains(t, alpha.ok("show-gi 0"), "Current data generation UUID")

	l.run("refusals", func(t *testing.T) {
		beta.refused(11, "0: State change failed: (-1) Multiple primaries not allowed by config", "primary 0")
		alpha.refused(10, "7: Failure: (127) Device minor not allocated", "primary 7")
		alpha.refused(10, "1: Failure: (158) Unknown resource", "new-minor r9 1 1")
		alpha.refused(10, "r9: No such resource", "status r9")
		alpha.ok("down r9", "new-resource r0")
		alpha.refused(10, "Failure: (124) Device is attached to a disk (use detach first)", "attach 0 "+l.path("alpha.img")+" internal internal")
		alpha.refused(10, "Failure: (125) Device has a net-config (use disconnect first)", "connect r0")
		alpha.refused(10, "Failure: (160) Minor still configured", "del-minor 0")
		alpha.refused(10, "Failure: (125) Device has a net-config", "del-resource r0")
		alpha.refused(10, "Failure: (161) Minor or volume exists already", "new-minor r0 0 0")
		alpha.refused(10, "Failure: (135) Sync-pause flag is already cleared", "resume-sync 0")
		alpha.refused(20, "'frobnicate' is an unknown command", "frobnicate 0")
		alpha.refused(20, "USAGE", "primary")
		alpha.refused(20, "out of range", "disk-options 0 --al-extents=1")
		alpha.refused(20, "unrecognized option '--force'", "secondary 0 --force")
		code, out, _ := alpha.setup("role 7")
		require.Equal(t, 10, code)
		require.Equal(t, "Unconfigured\n", out)
	})

	l.run("switch", func(t *testing.T) {
		alpha.ok("secondary 0")
		beta.ok("primary 0")
		require.Equal(t, "Secondary/Primary\n", alpha.ok("role 0"))
		beta.ok("secondary 0")
		alpha.ok("primary 0")
	})

	l.run("detach", func(t *testing.T) {
		alpha.ok("detach 0")
		require.Equal(t, "Diskless/UpToDate\n", alpha.ok("dstate 0"))
		beta.refused(17, "State change failed: (-2) Need access to UpToDate data", "detach 0")
		alpha.ok("attach 0")
		alpha.inSync()
	})

	l.run("pause", func(t *testing.T) {
		beta.inSync()
		beta.ok("pause-sync 0")
		beta.refused(10, "Failure: (134) Sync-pause flag is already set", "pause-sync 0")
		alpha.ok("invalidate-remote 0")
		beta.waitFor("cstate 0", "PausedSyncT\n")
		require.Contains(t, beta.ok("status --verbose --statistics"), "resync-suspended:user")
		beta.ok("resume-sync 0", "wait-sync 0")
		alpha.ok("suspend-io 0")
		require.Contains(t, alpha.ok("status"), "suspended:user")
		alpha.ok("resume-io 0")
	})

	l.run("disconnect", func(t *testing.T) {
		show := alpha.ok("show r0")
		require.Contains(t, show, "resource r0 {\n")
		require.Contains(t, show, "resync-rate             204800k;")
		alpha.ok("disconnect r0")
		require.Equal(t, "StandAlone\n", alpha.ok("cstate 0"))
		alpha.refused(10, "Failure: (162) Invalid configuration request", "disconnect r0")
		alpha.ok("wait-connect 0") // returns at once when StandAlone
		beta.refused(5, "timeout", "wait-connect 0 --wfc-timeout=1")
		alpha.refused(10, "Failure: (123) --discard-my-data not allowed when primary.", "connect r0 --discard-my-data")
		alpha.ok("connect r0", "wait-connect 0")
	})

	l.run("options", func(t *testing.T) {
		alpha.inSync()
		alpha.refused(11, "State change failed: (-14) Need a verify algorithm to start online verify", "verify 0")
		alpha.ok("net-options r0 --verify-alg=crc32c --protocol=B", "disk-options 0 --al-extents=257 --c-max-rate=300M")
		require.Contains(t, alpha.ok("status --proc"), "ds:UpToDate/UpToDate B r")
		beta.waitFor("status --proc", strings.Replace(beta.ok("status --proc"), "UpToDate C r", "UpToDate B r", 1))
		require.Contains(t, alpha.ok("show"), "al-extents              257;")
		beta.ok("net-options r0 --verify-alg=crc32c")
		alpha.ok("net-options r0 --protocol=C", "disconnect r0", "connect r0", "wait-connect 0")
		alpha.inSync() // a verify algorithm counts from the next connection on
		alpha.ok("verify 0")
		alpha.logged(`"msg":"verify ended","node":"alpha","resource":"r0","volume":0,"complete":true`)
		alpha.inSync()
		alpha.ok("repair 0")
	})

	alpha.ok("down r0")
	beta.ok("down r0")
	require.Equal(t, "# No currently configured DRBD found.\n", beta.ok("status"))
}

// TestStatusJSON holds the keys of the output to DRBD 9's.
func TestStatusJSON(t *testing.T) {
	l := newLab(t)
	alpha, _ := l.pair(4<<20, nil)
	var got []map[string]any
	text := alpha.ok("status --json")
	require.NoError(t, json.Unmarshal([]byte(text), &got))
	require.Len(t, got, 1)
	require.Equal(t, "Primary", got[0]["role"])
	order := []string{"name", "node-id", "role", "suspended", "suspended-user", "suspended-no-data", "suspended-fencing",
		"suspended-quorum", "force-io-failures", "write-ordering", "devices", "volume", "minor", "disk-state", "client", "open",
		"quorum", "size", "read", "written", "al-writes", "bm-writes", "upper-pending", "lower-pending", "connections",
		"peer-node-id", "connection-state", "congested", "peer-role", "tls", "ap-in-flight", "rs-in-flight", "paths",
		"this_host", "remote_host", "established", "peer_devices", "replication-state", "peer-disk-state", "peer-client",
		"resync-suspended", "received", "sent", "out-of-sync", "pending", "unacked", "has-sync-details",
		"has-online-verify-details", "percent-in-sync"}
	at := 0
	for _, key := range order {
		i := strings.Index(text[at:], "\""+key+"\":")
		require.GreaterOrEqual(t, i, 0, "key %s is missing or not in DRBD's order in\n%s", key, text)
		at += i
	}
	var st []node.Status
	require.NoError(t, json.Unmarshal([]byte(text), &st))
	require.Equal(t, "Connected", st[0].Connections[0].ConnectionState)
	require.Equal(t, "Established", st[0].Connections[0].PeerDevices[0].ReplicationState)
}

// TestEvents2 follows a resource from its creation to its end.
func TestEvents2(t *testing.T) {
	l := newLab(t)
	alpha := l.start("alpha", nil)
	follow := l.follow(alpha, "events2", "--statistics")
	follow.until("exists -")
	alpha.ok("new-resource r0", "new-minor r0 3 0")
	follow.until("create resource name:r0 role:Secondary suspended:no write-ordering:flush")
	follow.until("create device name:r0 volume:0 minor:3 disk:Diskless size:0")
	alpha.ok("attach 3 " + l.disk("d.img", 4<<20) + " internal internal --size=2M")
	follow.until("change device name:r0 volume:0 minor:3 disk:Inconsistent")
	alpha.ok("primary 3 --force")
	follow.until("change resource name:r0 role:Primary")
	now := alpha.ok("events2 --now r0")
	require.Equal(t, "exists resource name:r0 role:Primary suspended:no\nexists device name:r0 volume:0 minor:3 disk:UpToDate\nexists -\n", now)
	alpha.ok("down r0")
	follow.until("destroy device name:r0 volume:0 minor:3")
	follow.until("destroy resource name:r0")
}

// TestRefusals has the refusals of configurations that DRBD 8.4.11 was seen to give, with
// its codes and words.
func TestRefusals(t *testing.T) {
	l := newLab(t)
	a := l.start("alpha", nil)
	disk, other := l.disk("a.img", 8<<20), l.disk("b.img", 8<<20)
	raw := l.path("raw.img")
	require.NoError(t, os.WriteFile(raw, make([]byte, 8<<20), 0o600))
	a.ok("new-resource r0", "new-minor r0 0 0", "new-resource r1", "new-minor r1 1 0")
	for _, verb := range []string{"role", "cstate", "dstate"} {
		require.Equal(t, "Unconfigured\n", a.ok(verb+" 0"))
	}
	a.refused(1, "Device is unconfigured", "get-gi 0")
	a.refused(10, "0: Failure: (138) Device does not have a disk-config", "resize 0")
	a.refused(17, "0: State change failed: (-2) Need access to UpToDate data", "primary 0")
	a.refused(10, "0: Failure: (104) Can not open backing device.", "attach 0 "+l.path("none")+" internal internal")
	a.refused(10, "0: Failure: (105) Can not open meta device.", "attach 0 "+disk+" "+l.path("none")+" 0")
	a.refused(10, "0: Failure: (119) No valid meta-data signature found.", "attach 0 "+raw+" internal internal")
	a.refused(10, "0: Failure: (111) Low.dev. smaller than requested DRBD-dev. size.", "attach 0 "+disk+" internal internal --size=1G")
	a.ok("attach 0 " + disk + " internal internal")
	a.refused(10, "1: Failure: (114) Lower device is already claimed", "attach 1 "+disk+" internal internal")
	a.ok("attach 1 " + other + " internal internal")

	connect := "connect r0 ipv4:" + l.ports(1)[0] + " ipv4:" + l.ports(1)[0]
	for options, want := range map[string]string{
		" --allow-two-primaries --protocol=A":          "(139) Protocol C required",
		" --on-congestion=pull-ahead":                  "(155) on-congestion policy pull-ahead only with prot A allowed",
		" --verify-alg=nosuch":                         "(146) VERIFYAlgNotAvail",
		" --csums-alg=nosuch":                          "(144) CSUMSAlgNotAvail",
		" --data-integrity-alg=nosuch":                 "(141) The 'data-integrity-alg' you specified is not known",
		" --cram-hmac-alg=nosuch --shared-secret=word": "(120) The 'cram-hmac-alg' you specified is not known",
	} {
		a.refused(10, "r0: Failure: "+want, connect+options)
	}
	a.ok(connect)
	a.refused(10, "r1: Failure: (102) Local address(port) already in use.", strings.Replace(connect, "r0", "r1", 1))
	a.refused(10, "0: Failure: (133) This would cause a resync-after dependency cycle", "disk-options 0 --resync-after=0")
	a.ok("disk-options 0 --resync-after=9", "disk-options 0 --resync-after=1")
	a.refused(10, "1: Failure: (133)", "disk-options 1 --resync-after=0")
	a.ok("disk-options 0 --resync-after=-1", "disk-options 0 --fencing=resource-and-stonith")
	a.refused(10, "Failure: (154) Fencing policy resource-and-stonith only with prot B or C allowed", "net-options r0 --protocol=A")
	a.refused(11, "0: State change failed: (-15) Need a connection to start verify or resync", "verify 0")
	a.refused(11, "0: State change failed: (-15)", "invalidate-remote 0")
	a.refused(5, "0: State change failed: (-16) Disk state is lower than outdated", "outdate 0")
	a.refused(10, "0: Failure: (160) Minor still configured", "del-minor 0")
	a.refused(20, "Cannot determine minor device number of device", "new-minor r0 x 1")
	require.Equal(t, "exists -\n", a.ok("events2 --now r9"))
	a.ok("disconnect r0")
	a.refused(10, "Failure: (159) Resource still in use", "del-resource r0")
}

// TestNewPair makes a pair without an initial sync, and goes through the commands that are
// rare in everyday life.
func TestNewPair(t *testing.T) {
	l := newLab(t)
	ports := l.ports(2)
	up := func(name string, i int) *instance {
		d := l.start(name, nil)
		d.ok("new-resource r0 --on-no-data-accessible=suspend-io", "new-minor r0 0 0", "attach 0 "+l.disk(name+".img", 8<<20)+" internal internal"+diskFast,
			"connect r0 "+ports[i]+" "+ports[1-i]+fast)
		return d
	}
	alpha, beta := up("alpha", 0), up("beta", 1)
	alpha.ok("wait-connect 0")
	beta.ok("wait-connect 0")
	require.Equal(t, "Inconsistent/Inconsistent\n", alpha.ok("dstate 0"))
	alpha.ok("new-current-uuid 0 --clear-bitmap")
	alpha.inSync()
	beta.inSync()
	require.Contains(t, alpha.ok("status --statistics"), "received:0 sent:0 out-of-sync:0", "nothing was copied")
	alpha.ok("primary 0") // no --force: both are good
	require.Contains(t, alpha.ok("show"), "on-no-data-accessible   suspend-io;")
	alpha.refused(10, "Secondary and disconnected", "resource-options r0 --set-defaults")
	require.Empty(t, alpha.ok("explain"), "nothing is wrong")

	beta.ok("invalidate 0", "wait-sync 0")
	beta.inSync()
	alpha.inSync()

	alpha.ok("secondary 0", "disconnect r0")
	beta.waitFor("cstate 0", "WFConnection\n")
	beta.ok("disconnect r0", "outdate 0")
	require.Equal(t, "Outdated/DUnknown\n", beta.ok("dstate 0"))
	beta.refused(17, "State change failed: (-2) Need access to UpToDate data", "primary 0")
	beta.ok("resource-options r0 --on-no-data-accessible=io-error")
	require.NotContains(t, beta.ok("show"), "suspend-io")
	beta.ok("connect r0")
	alpha.ok("connect r0", "wait-connect 0", "primary 0")
	alpha.inSync()
	beta.inSync()

	beta.ok("detach 0 --force")
	alpha.waitFor("dstate 0", "UpToDate/Diskless\n")
	require.Equal(t, "Diskless/UpToDate\n", beta.ok("dstate 0"))
}
