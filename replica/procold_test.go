// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestProcOlderForms has the shapes of spec: behaviour 9.2, with numbers that fit together.
func TestProcOlderForms(t *testing.T) {
	const mib = 1024 * kiB
	sync := VolumeStatus{
		Minor: 0, Protocol: protocol.C, WriteOrdering: 'f', Epochs: 1,
		State: connected(protocol.Primary, protocol.Secondary, protocol.SyncSource, protocol.UpToDate, protocol.Inconsistent),
		Sent:  991232 * kiB, Read: 991232 * kiB, BitmapWrites: 60, OutOfSync: 671642 * mib,
		Resync: &ResyncStatus{Total: 672610 * mib, Left: 671642 * mib, Rate: 121260 * kiB, Average: 121324 * kiB,
			Finish: 9*time.Hour + 40*time.Minute + 13*time.Second},
	}
	waiting := VolumeStatus{
		Minor: 2, Protocol: protocol.A, Epochs: 1,
		State: connected(protocol.Secondary, protocol.RoleUnknown, protocol.WFConnection, protocol.Inconsistent, protocol.DUnknown),
	}
	none := VolumeStatus{Minor: 3, State: connected(protocol.Secondary, protocol.RoleUnknown, protocol.StandAlone, protocol.Diskless, protocol.DUnknown)}
	target := sync
	target.Minor, target.State = 4, connected(protocol.Secondary, protocol.Primary, protocol.SyncTarget, protocol.Inconsistent, protocol.UpToDate)
	target.State.PeerISP = true
	list := []Status{{Volumes: []VolumeStatus{target, waiting}}, {Volumes: []VolumeStatus{none, sync}}}

	progress := "\t[>....................] sync'ed:  0.2% (671642/672610)M\n\tfinish: 9:40:13 speed: 121,260 (121,324) K/sec\n"
	counts := "    ns:991232 nr:0 dw:0 dr:991232 al:0 bm:60 lo:0 pe:0 ua:0 ap:0"
	zeroes := "    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0"
	require.Equal(t, "version: 8.3.0 (api:88/proto:86-89)\nGIT-hash: blockmirror\n"+
		" 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r---\n"+counts+" ep:1 wo:f oos:687761408\n"+progress+"\n"+
		" 2: cs:WFConnection ro:Secondary/Unknown ds:Inconsistent/DUnknown A r---\n"+zeroes+" ep:1 wo:f oos:0\n"+
		" 3: cs:Unconfigured\n"+
		" 4: cs:SyncTarget ro:Secondary/Primary ds:Inconsistent/UpToDate C r-p-\n"+counts+" ep:1 wo:f oos:687761408\n"+progress,
		ProcDRBDAs(Proc83, list...))
	require.Equal(t, "version: 0.7.21 (api:79/proto:74)\nSVN Revision: blockmirror\n"+
		" 0: cs:SyncSource st:Primary/Secondary ld:Consistent\n"+counts+"\n"+progress+"\n"+
		" 2: cs:WFConnection st:Secondary/Unknown ld:Inconsistent\n"+zeroes+"\n"+
		" 3: cs:Unconfigured\n"+
		" 4: cs:SyncTarget st:Secondary/Primary ld:Inconsistent\n"+counts+"\n"+progress,
		ProcDRBDAs(Proc07, list...))
	for _, form := range []ProcForm{Proc84, 77} {
		require.Equal(t, ProcDRBD(list...), ProcDRBDAs(form, list...))
	}
}
