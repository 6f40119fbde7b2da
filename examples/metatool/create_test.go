// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/metadata"
)

func TestCreateOptions(t *testing.T) {
	b := newBench(t)
	b.blank("d", 64*mib)
	b.want("--force - v09 @d internal create-md 5 --bitmap-block-size 64K --al-stripes=2 --al-stripe-size-kB 64 "+
		"--peer-max-bio-size 128K --effective-size 10M --diskful-peers 1,4 --initial-current-uuid 0xAABB --uptodate", 0)
	sb := b.superblock("d", metadata.Internal())
	want := metadata.Superblock{
		Version: metadata.V09, EffectiveSize: 20480, Current: 0xAABA, Flags: metadata.ALClean | metadata.Consistent | metadata.WasUpToDate,
		MDSizeSectors: sb.MDSizeSectors, ALOffset: -256, BMOffset: sb.BMOffset, ALExtents: 257,
		BytesPerBit: 65536, PeerMaxBioSize: 131072, ALStripes: 2, ALStripeSize4k: 16, MaxPeers: 5, NodeID: -1,
	}
	for i := range want.Peers {
		want.Peers[i].BitmapIndex = metadata.Unassigned
	}
	want.Peers[1].Flags, want.Peers[4].Flags = metadata.PeerDeviceSeen, metadata.PeerDeviceSeen
	if sb != want {
		t.Errorf("got %+v\nwant %+v", sb, want)
	}

	b.want("--force - v09 @d internal wipe-md", 0)
	b.want("--force - v08 @d internal create-md --initial-current-uuid generate --consistent --peers-outdated", 0)
	sb = b.superblock("d", metadata.Internal())
	if sb.Current <= metadata.UUIDJustCreated || sb.Current&1 != 0 || sb.Flags != metadata.ALClean|metadata.Consistent|metadata.PeerOutdated {
		t.Errorf("got %+v", sb)
	}
	for _, args := range []string{
		"--al-stripes 0", "--al-stripes x", "--al-stripes 4 --al-stripe-size-kB 4", "--al-stripes 1024 --al-stripe-size-kB 64",
		"--peer-max-bio-size 2M", "--bitmap-block-size 8K", "--effective-size 1G", "--initial-current-uuid x",
	} {
		b.want("--force - v08 @d internal create-md "+args, exitInvalid)
	}
	b.want("--force - v09 @d internal create-md 1 --peers-outdated", exitUsage)
	b.want("--force - v09 @d internal create-md 1 --diskful-peers 32", exitInvalid)
}

// TestCreateAsks: what is declined leaves the device alone.
func TestCreateAsks(t *testing.T) {
	b := newBench(t)
	b.blank("d", 16*mib)
	b.acceptFiles = true
	b.want("- v08 @d internal create-md", 0)
	before := b.content("d")
	for _, line := range []string{
		"- v08 @d internal create-md", "- v09 @d internal create-md 2", "- v08 @d internal create-md --al-stripes 2", "- v08 @d internal wipe-md",
	} {
		b.want(line, exitNo, "Operation cancelled.", "not a TTY")
	}
	b.want("- v08 @d internal set-gi 77", 0, "Operation canceled.")
	if !bytes.Equal(before, b.content("d")) {
		t.Fatal("declined, and yet done")
	}
	b.want("--force - v08 @d internal create-md --al-stripes 2", exitUnimplemented)
	b.stdin = "yes\n"
	b.want("- v08 @d internal create-md", 0, "really want to overwrite")
	b.want("- v09 @d internal create-md 2", 0, "setting max_peers to 1 instead of 2")
	b.want("- v09 @d internal wipe-md", 0, "successfully wiped")
	b.want("- v09 @d internal create-md 2", 0)
	b.want("--force - v08 @d internal create-md", exitInvalid, "one bitmap slot")
}

func TestCreateRefusesContent(t *testing.T) {
	ext := make([]byte, 4096)
	binary.LittleEndian.PutUint16(ext[0x438:], 0xEF53)
	binary.LittleEndian.PutUint32(ext[0x404:], 8192) // blocks of 1 KiB
	whole := bytes.Clone(ext)
	binary.LittleEndian.PutUint32(whole[0x404:], 16384)
	swap := append(make([]byte, 4086), "SWAPSPACE2"...)

	for _, c := range []struct {
		name, location string
		content        []byte
		force          string
		code           int
		text           string
	}{
		{"fits", "internal", ext, "--force", 0, "unused space"},
		{"fits, declined", "internal", ext, "", exitNo, "unused space"},
		{"too large", "internal", whole, "--force", exitRefused, "16384 kB data area"},
		{"on a meta device", "flex-external", ext, "--force", exitRefused, "Operation refused"},
		{"on an indexed meta device", "0", ext, "--force", exitRefused, "Operation refused"},
		{"swap", "internal", swap, "--force", exitRefused, "swap"},
		{"unknown", "internal", []byte("hello"), "--force", 0, "might destroy"},
		{"unknown, declined", "internal", []byte("hello"), "", exitNo, "might destroy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.acceptFiles = true
			b.blank("d", 16*mib)
			b.write("d", c.content, 0)
			before := b.content("d")
			b.want(c.force+" - v08 @d "+c.location+" create-md", c.code, c.text)
			if c.code != 0 && !bytes.Equal(before, b.content("d")) {
				t.Fatal("refused, and yet done")
			}
			if c.code == exitRefused {
				b.want(c.force+" - v08 @d "+c.location+" create-md --ignore-sanity-checks", 0, "on user request")
			}
		})
	}
}

// TestCreateLeavesOneSuperblock: v07's other place is wiped when it is replaced.
func TestCreateLeavesOneSuperblock(t *testing.T) {
	b := newBench(t)
	b.blank("d", 130*mib)
	b.want("--force - v07 @d internal create-md", 0)
	b.want("--force - v07 @d flex-internal create-md", 0)
	b.want("--force - v07 @d flex-internal get-gi", 0, "0:1:1:1:1:0:0:0")
	b.want("--force - v07 @d internal get-gi", exitNo)
}

func TestConvertMovesFixedV07(t *testing.T) {
	b := newBench(t)
	b.blank("d", 130*mib)
	b.want("--force - v07 @d internal create-md", 0)
	bitmap := []byte("\xf0\x0f\xff\x01 and so on")
	b.write("d", bitmap, 2*mib+36864)
	b.want("--force - v08 @d internal create-md", 0, "Converting meta data...", "successfully created")
	sb := b.superblock("d", metadata.Internal())
	if sb.Current != 0x000100010002BABE || sb.History[0] != 0x000100010001BABE || !sb.NeedsApplyAL() {
		t.Errorf("got %+v", sb)
	}
	l, err := sb.Layout(metadata.Internal(), 130*mib)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.content("d")[l.BitmapOffset:][:len(bitmap)]; !bytes.Equal(got, bitmap) {
		t.Errorf("the bitmap was not moved: %q", got)
	}
	b.want("--force - v07 @d internal get-gi", exitNo)
}

func TestApplyALRefuses(t *testing.T) {
	b := newBench(t)
	b.blank("d", 16*mib)
	b.want("--force - v08 @d internal create-md", 0)
	b.want("--force - v08 @d internal set-gi ::::1:1:1", 0)
	b.write("d", bytes.Repeat([]byte{1}, 32768), 16*mib-4096-32768)
	b.write("d", []byte{0x6c}, 16*mib-4096+63) // as an attached device leaves it
	before := b.content("d")
	b.want("--force - v08 @d internal apply-al", exitNo, "No usable activity log found. Do you need to create-md?")
	if !bytes.Equal(before, b.content("d")) {
		t.Fatal("refused, and yet done")
	}
	b.want("--force - v08 @d internal set-gi ::::::0", 0)
	b.want("--force - v08 @d internal apply-al", 0, "Error ignored, no need to apply the AL")
	b.want("--force - v08 @d internal show-gi", 0, "meta-data: clean")
}

func TestForgetPeer(t *testing.T) {
	b := newBench(t)
	b.blank("d", 16*mib)
	b.want("--force - v09 @d flex-external create-md 2", 0)
	b.want("--force - v09 @d flex-external forget-peer", exitInvalid, "requires the --node-id option")
	b.want("--force - v09 @d flex-external set-gi --node-id 3 :5:::::::::::1:1:1", 0)
	b.want("--force - v09 @d flex-external forget-peer --node-id 3", 0)
	r := b.want("--force - v09 @d flex-external get-gi --node-id 3", 0)
	if want := "0000000000000004:0000000000000000:" + strings.Repeat("0", 16) + ":" + strings.Repeat("0", 16) + ":0:0:0:0:1:0:0:0:0:0:0:0\n"; r.out != want {
		t.Errorf("got %s", r.out)
	}
	b.want("--force - v08 @d flex-external create-md", exitInvalid)
}
