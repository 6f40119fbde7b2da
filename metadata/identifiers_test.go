// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestGIRoundTrip: setting what GI returns changes nothing, and makes any other
// superblock say the same.
func TestGIRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sb := drawSuperblock(t)
		node := rapid.IntRange(0, PeerRecords-1).Draw(t, "node")
		line, err := sb.GI(node)
		require.NoError(t, err)
		same := sb
		require.NoError(t, same.SetGI(node, line))
		require.Equal(t, sb, same)
		other := drawSuperblock(t)
		if other.Version == sb.Version {
			require.NoError(t, other.SetGI(node, line))
			got, err := other.GI(node)
			require.NoError(t, err)
			require.Equal(t, line, got)
		}
		text, err := sb.ShowGI(node)
		require.NoError(t, err)
		if sb.Version != V07 {
			require.Contains(t, text, line)
		}
	})
}

func TestSetGI(t *testing.T) {
	const before = "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0"
	for _, c := range []struct{ text, after string }{
		{"", before},
		{":::::", before},
		{"5", "0000000000000005" + before[16:]},
		{"0xAb", "00000000000000AB" + before[16:]},
		{"::::1:0:1", before[:68] + "1:0:1:0:0:0:0"},
		{"::::::::::1", before[:80] + "1"},
	} {
		sb := Superblock{Version: V08, Current: 4}
		require.NoError(t, sb.SetGI(9, c.text))
		got, err := sb.GI(9)
		require.NoError(t, err)
		require.Equal(t, c.after, got)
	}
	for _, text := range []string{
		"zz", "12345678901234567", "-1", " 1", "0x", "::::2", "::::-1", "::::01", ":::: 1", before + ":0", strings.Repeat(":", 11),
	} {
		sb := Superblock{Version: V08, Current: 4}
		require.ErrorIs(t, sb.SetGI(0, "7:"+text), ErrIdentifiers, "%q", text)
		require.Equal(t, Superblock{Version: V08, Current: 4}, sb, "%q", text)
	}
	old := Superblock{Version: V07}
	require.NoError(t, old.SetGI(0, "1:2:0x10:-1:4294967295:1:0:1"))
	require.Equal(t, Counters{2, 16, 1<<32 - 1, 1<<32 - 1}, old.Counters)
	require.ErrorIs(t, old.SetGI(0, ":4294967296"), ErrIdentifiers)
	line, err := old.GI(0)
	require.NoError(t, err)
	require.Equal(t, "1:2:16:-1:-1:1:0:1", line)

	nine := Superblock{Version: V09}
	for _, node := range []int{-1, 32} {
		require.ErrorIs(t, nine.SetGI(node, "1"), ErrNodeID)
		_, err := nine.GI(node)
		require.ErrorIs(t, err, ErrNodeID)
		_, err = nine.ShowGI(node)
		require.ErrorIs(t, err, ErrNodeID)
	}
	_, err = (&Superblock{}).GI(0)
	require.ErrorIs(t, err, ErrUnknownVersion)
}

func FuzzSetGI(f *testing.F) {
	f.Add(uint8(7), 0, "1:2:3:4:5:1:0:1")
	f.Add(uint8(8), 0, "AABBCCDDEEFF0011:1122334455667788:99AABBCCDDEEFF00:0102030405060708:1:1:0:0:0:0:0")
	f.Add(uint8(9), 3, ":0x5:::::::1:1:1:1:1:1:1:1")
	f.Fuzz(func(t *testing.T, v uint8, node int, text string) {
		sb := Superblock{Version: Version(v), Current: 4}
		before := sb
		if err := sb.SetGI(node, text); err != nil {
			require.Equal(t, before, sb)
			return
		}
		line, err := sb.GI(node)
		require.NoError(t, err)
		again := before
		require.NoError(t, again.SetGI(node, line))
		require.Equal(t, sb, again)
	})
}

func TestFormatSize(t *testing.T) {
	for kib, want := range map[uint64]string{
		0: "0 KB", 9999: "9999 KB", 10000: "10 MB", 10240: "10 MB", 50000: "49 MB", 1048576: "1024 MB",
		2097151: "2048 MB", 32374784: "31 GB", 1 << 40: "1024 TB", 1<<64 - 1: "16 ZB",
	} {
		require.Equal(t, want, FormatSize(kib))
	}
}

// TestShowGI has all the words once; the layout is compared with the real tool.
func TestShowGI(t *testing.T) {
	sb := Superblock{Version: V08, Flags: 0x1ff, EffectiveSize: 100000, PeerMaxBioSize: 4096}
	text, err := sb.ShowGI(0)
	require.NoError(t, err)
	require.Contains(t, text, "\nflags: crashed Primary, Connected, UpToDate, need full sync, peer Outdated\nmeta-data: clean\n"+
		"last agreed size: 49 MB (100000 sectors)\nlast agreed max bio size: 4096 Byte\n")
	sb = Superblock{Version: V08, Flags: Consistent}
	text, err = sb.ShowGI(0)
	require.NoError(t, err)
	require.Contains(t, text, "\nflags: Secondary, StandAlone, Outdated\nmeta-data: need apply-al\nzero size device -- never seen peer yet?\n")
	sb = Superblock{Version: V08}
	text, err = sb.ShowGI(0)
	require.NoError(t, err)
	require.Contains(t, text, "StandAlone, Inconsistent\n")
}
