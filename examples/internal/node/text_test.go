// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// sample is a resource in the middle of a resync.
func sample() *Status {
	return &Status{
		Name: "r0", Role: "Secondary", WriteOrdering: "flush",
		Devices: []DeviceStat{{DiskState: "UpToDate", Size: 32728, Read: 7000, Written: 8272, ALWrites: 11}},
		Connections: []ConnStat{{Name: "peer", ConnectionState: "Connected", PeerRole: "Secondary", PeerDevices: []PeerStat{{
			ReplicationState: "SyncSource", PeerDiskState: "Inconsistent", ResyncSuspended: "no",
			Sent: 4312, OutOfSync: 1192, PercentInSync: 96.36, HasSyncDetails: true,
		}}}},
	}
}

// TestText holds the text to what DRBD 8.4's tool prints (spec: behaviour 9.3).
func TestText(t *testing.T) {
	require.Equal(t, `r0 role:Secondary
  disk:UpToDate
  peer role:Secondary
    replication:SyncSource peer-disk:Inconsistent done:96.36

`, sample().Text(false, false))
	require.Equal(t, `r0 role:Secondary suspended:no
    write-ordering:flush
  volume:0 minor:0 disk:UpToDate
      size:32728 read:7000 written:8272 al-writes:11 bm-writes:0 upper-pending:0
      lower-pending:0 al-suspended:no blocked:no
  peer connection:Connected role:Secondary congested:no
    volume:0 replication:SyncSource peer-disk:Inconsistent done:96.36
        resync-suspended:no
        received:0 sent:4312 out-of-sync:1192 pending:0 unacked:0

`, sample().Text(true, true))
	away := sample()
	away.Connections[0].ConnectionState = "Connecting"
	require.Equal(t, "r0 role:Secondary\n  disk:UpToDate\n  peer connection:Connecting\n\n", away.Text(false, false))
}

func TestOptionValues(t *testing.T) {
	for _, row := range []struct{ name, in, want string }{
		{"resync-rate", "10M", "10240"},
		{"resync-rate", "250", "250"},
		{"resync-rate", "250K", "250"},
		{"c-fill-target", "1M", ""}, // the default
		{"c-fill-target", "100s", "100"},
		{"c-fill-target", "24k", "48"},
		{"size", "1G", "2097152"},
		{"al-extents", "3389", "3389"},
		{"disk-flushes", "no", "no"},
		{"disk-flushes", "yes", ""},
		{"resync-after", "3", "3"},
		{"on-io-error", "pass_on", "pass_on"},
	} {
		got, err := DiskOptions.Check(Options{row.name: row.in})
		require.NoError(t, err, "%s %s", row.name, row.in)
		require.Equal(t, row.want, got[row.name], "%s %s", row.name, row.in)
	}
	for name, bad := range map[string]string{
		"al-extents": "66", "resync-rate": "9999999999999999999", "c-plan-ahead": "2s", "size": "-5", "disk-flushes": "maybe",
		"on-io-error": "panic", "nothing": "1", "disk-timeout": "6001", "c-max-rate": "1",
	} {
		_, err := DiskOptions.Check(Options{name: bad})
		require.Error(t, err, "%s %s", name, bad)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:7788": "10.0.0.1:7788", "ipv4:10.0.0.1:7000": "10.0.0.1:7000", "10.0.0.1": "10.0.0.1:7788",
		"ipv6:[fe80::1]:7788": "[fe80::1]:7788", "[::1]": "[::1]:7788",
	} {
		got, err := parseAddress(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, bad := range []string{"", ":7788", "ssocks:10.0.0.1:7788", "10.0.0.1:0", "10.0.0.1:x", "[]:1"} {
		_, err := parseAddress(bad)
		require.Error(t, err, bad)
	}
}

// TestBlocked has the words of drbdsetup for what holds writes up.
func TestBlocked(t *testing.T) {
	for want, d := range map[string]DeviceStat{
		"no": {}, "upper": {BlockedUpper: true}, "lower": {BlockedLower: true}, "upper,lower": {BlockedUpper: true, BlockedLower: true},
	} {
		require.Contains(t, d.statistics(), "blocked:"+want)
	}
}
