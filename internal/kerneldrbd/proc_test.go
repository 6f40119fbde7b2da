// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package kerneldrbd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const procSample = `version: 8.4.11 (api:1/proto:86-101)
srcversion: F73C670A7EC572DB9CF3E5B 
 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----
    ns:32 nr:0 dw:32 dr:33 al:9 bm:0 lo:0 pe:1 ua:0 ap:0 ep:1 wo:f oos:5544
	[=========>..........] sync'ed: 50.0% (5544/6952)K
	finish: 0:00:13 speed: 352 (352) want: 400 K/sec
 1: cs:StandAlone ro:Secondary/Unknown ds:UpToDate/DUnknown   s----s
    ns:0 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:d oos:0

 3: cs:Unconfigured
`

func TestParseProc(t *testing.T) {
	list := ParseProc(procSample)
	require.Len(t, list, 3)
	first := list[0]
	require.Equal(t, "SyncSource Primary/Secondary UpToDate/Inconsistent", first.State())
	require.Equal(t, "C", first.Protocol)
	require.Equal(t, "r-----", first.Flags)
	require.EqualValues(t, 5544<<10, first.OutOfSync())
	require.Equal(t, map[string]int64{
		"ns": 32, "nr": 0, "dw": 32, "dr": 33, "al": 9, "bm": 0, "lo": 0, "pe": 1, "ua": 0, "ap": 0, "ep": 1, "oos": 5544,
	}, first.Counters)
	require.Equal(t, "f", first.WriteOrdering)
	require.Equal(t, "StandAlone Secondary/Unknown UpToDate/DUnknown", list[1].State())
	require.Empty(t, list[1].Protocol)
	require.Equal(t, "s----s", list[1].Flags)
	require.Equal(t, "d", list[1].WriteOrdering)
	require.Equal(t, 3, list[2].Number)
	require.Equal(t, "Unconfigured", list[2].State())
	require.Empty(t, ParseProc(""))
}

func FuzzParseProc(f *testing.F) {
	f.Add(procSample)
	f.Add("99999999999999999999999: cs:Connected\n    ns:999999999999999999999\n")
	f.Fuzz(func(t *testing.T, text string) {
		list := ParseProc(text)
		require.LessOrEqual(t, len(list), strings.Count(text, "cs:"))
		for i := range list {
			require.NotEmpty(t, list[i].State())
			require.NotNil(t, list[i].Counters)
		}
	})
}

func ExampleParseProc() {
	for _, m := range ParseProc(procSample) {
		fmt.Println(m.Number, m.State(), m.OutOfSync())
	}
	// Output:
	// 0 SyncSource Primary/Secondary UpToDate/Inconsistent 5677056
	// 1 StandAlone Secondary/Unknown UpToDate/DUnknown 0
	// 3 Unconfigured 0
}
