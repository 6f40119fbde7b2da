// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// TestSyncDetails: the keys of a resync and of an online verify, in DRBD 9's order
// (spec: behaviour 9.4).
func TestSyncDetails(t *testing.T) {
	rs := &replica.ResyncStatus{
		Total: 8 << 20, Left: 2 << 20, Failed: 4096, SameChecksum: 8192, Elapsed: 8 * time.Second, Paused: time.Second,
		Rate: 1 << 20, Average: 1 << 20, Wanted: 2 << 20, Finish: 2 * time.Second,
		Recent: [2]replica.Progress{{Bytes: 1 << 20, Time: time.Second}, {Bytes: 6 << 20, Time: 4 * time.Second}},
	}
	text := func(conn protocol.ConnState) string {
		v := &replica.VolumeStatus{Size: 16 << 20, OutOfSync: 2 << 20, Resync: rs}
		v.State.Conn = conn
		out, err := json.Marshal(peerStat(v))
		require.NoError(t, err)
		return string(out)
	}
	require.Contains(t, text(protocol.SyncSource), `"has-sync-details":true,"has-online-verify-details":false,"percent-in-sync":87.5,`+
		`"rs-total":8192,"rs-dt-start-ms":8000,"rs-paused-ms":1000,`+
		`"rs-dt0-ms":1000,"rs-db0-sectors":2048,"rs-dt1-ms":4000,"rs-db1-sectors":12288,"rs-failed":4,"rs-same-csum":8,`+
		`"want":2,"db0/dt0 [MiB/s]":1,"db1/dt1 [MiB/s]":1.5,"estimated-seconds-to-finish":2,"db/dt [MiB/s]":1,"percent-resync-done":75}`)

	rs.Verify = &replica.VerifyRange{From: 1 << 20, To: 9 << 20, At: 7 << 20}
	require.Contains(t, text(protocol.VerifyS), `"has-sync-details":false,"has-online-verify-details":true,"percent-in-sync":87.5,`+
		`"rs-total":8192,"rs-dt-start-ms":8000,"rs-paused-ms":1000,`+
		`"rs-dt0-ms":1000,"rs-db0-sectors":2048,"rs-dt1-ms":4000,"rs-db1-sectors":12288,`+
		`"ov-start-sector":2048,"ov-stop-sector":18432,"ov-position":14336,"ov-left":2048,"ov-skipped":0,"want":2,`)
}
