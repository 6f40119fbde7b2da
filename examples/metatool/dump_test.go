// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/metadata"
)

func TestDumpAndRestore(t *testing.T) {
	b := newBench(t)
	b.blank("d", 16*mib)
	b.acceptFiles = true
	b.want("7 v08 @d internal create-md --effective-size 16M", exitInvalid, "effective size")
	b.want("7 v08 @d internal create-md --effective-size 8M --uptodate", 0)
	b.write("d", bytes.Repeat([]byte{0xff}, 100), 16*mib-72*512-4096)
	text := b.want("7 v08 @d internal dump-md", 0,
		"# DRBD meta data dump\n# 2024-01-31 12:00:00 +0000 [1706702400]\n# alpha> metatool 7 v08 "+b.file("d")+" internal dump-md\n#\n\nversion \"v08\";\n",
		"flags 0x00000091;", "la-size-sect 16384;", "times 0xFFFFFFFFFFFFFFFF;").out
	b.write("text", []byte(text), 0)
	b.want("- v08 @d internal verify-dump @text", 0, "input file parsed ok")
	b.want("- v09 @d internal verify-dump @text", exitInvalid, "dump is 'v08' you requested 'v09'")
	b.want("- v08 @d internal verify-dump @none", exitUsage, "open of")

	b.want("7 v08 @d internal restore-md @text", exitNo, "overwrite?")
	b.blank("e", 32*mib)
	b.want("7 v08 @e internal restore-md @text --al-stripes 2 --al-stripe-size-kB 64", 0, "Successfully restored")
	got := b.want("7 v08 @e internal dump-md", 0, "al-stripes 2;", "al-stripe-size-4k 16;").out
	if strings.Split(got, "bm {")[1] != strings.Split(text, "bm {")[1] {
		t.Errorf("bitmap: %s", got)
	}
	b.blank("small", 2*mib)
	b.want("7 v08 @small internal restore-md @text", 0, "# la-size-sect was too big (16384), truncated (4016)!")
	b.write("many", []byte(strings.Replace(text, "bm {", "bm { 600 times 0x0000000000000001;", 1)), 0)
	b.want("--force 7 v08 @d internal restore-md @many", 0, "Bitmap info too large, truncated!")
	b.write("bad", []byte(strings.Replace(text, "bm {", "bm { oops", 1)), 0)
	b.want("--force 7 v08 @d internal restore-md @bad", exitInvalid, "line 2")

	b.stdin = text
	b.want("- v08 @d internal verify-dump", 0)
}

// TestDumpOfUnclean: shown with --force only, and not good for restoring.
func TestDumpOfUnclean(t *testing.T) {
	b := newBench(t)
	b.acceptFiles = true
	b.blank("d", 16*mib)
	b.want("- v08 @d flex-external create-md", 0)
	b.write("d", []byte{0x6c}, 63)
	if r := b.want("- v08 @d flex-external dump-md", exitNo, "please apply-al first"); r.out != "" {
		t.Errorf("dumped all the same: %s", r.out)
	}
	text := b.want("--force - v08 @d flex-external dump-md", 0, "This_is_an_unclean_meta_data_dump").out
	b.write("text", []byte(text), 0)
	b.want("--force - v08 @d flex-external restore-md @text", exitInvalid, "apply-al")
	b.want("- v08 @d flex-external apply-al", 0)
	b.want("- v08 @d flex-external dump-md", 0)
}

func TestClippedSize(t *testing.T) {
	b := newBench(t)
	b.blank("d", mib)
	b.want("--force - v08 @d flex-external create-md", 0)
	b.write("d", []byte{0, 0, 1}, 0)
	b.want("--force - v08 @d flex-external get-gi", 0, "# la-size-sect was too big (1099511627776), truncated (64749568)!")
	b.want("--force - v08 @d flex-external invalidate", 0)
	if sb := b.superblock("d", metadata.FlexExternal()); sb.EffectiveSize != 64749568 {
		t.Errorf("stored %d", sb.EffectiveSize)
	}
	b.want("--force - v08 @d flex-external show-gi", 0, "last agreed size: 31 GB (64749568 sectors)")
}

func TestCheckResize(t *testing.T) {
	b := newBench(t)
	b.blank("d", 64*mib)
	b.want("--force 5 v09 @d internal create-md 3 --effective-size 32M", 0)
	b.want("--force 5 v09 @d internal check-resize", 0)
	bits := []byte("\x01\x02\x03 some bits")
	b.write("d", bits, 64*mib-4096-32768-8192)
	b.resize("d", 400*mib)
	b.want("--force - v09 @d internal check-resize", exitNo, "--last-size")
	b.want("--force 6 v09 @d internal check-resize", exitNo, "no suitable meta data")
	b.want("--force 6 v09 @d internal check-resize --last-size 65536K", 0, "successfully moved")
	b.want("--force 5 v09 @d internal get-gi --node-id 0", 0)
	l, err := metadata.NewLayout(metadata.V09, metadata.Internal(), 400*mib, metadata.Geometry{MaxPeers: 3})
	if err != nil {
		t.Fatal(err)
	}
	all := b.content("d")
	if got := all[l.BitmapOffset:][:len(bits)]; !bytes.Equal(got, bits) {
		t.Errorf("first bytes of the bitmap: %q", got)
	}
	if got := all[l.BitmapOffset+8192 : l.ActivityLogOffset]; len(bytes.Trim(got, "\x00")) > 0 {
		t.Error("the new part of the bitmap is not zero")
	}

	// Shrinking before the device shrinks works as well; size 5 is stale by now.
	b.want("--force 6 v09 @d internal check-resize", 0)
	b.want("--force 6 v09 @d flex-external check-resize", exitNo, "Operation only supported")
	b.resize("d", 800*mib)
	b.want("--force 5 v09 @d internal check-resize", exitNo)
	b.want("--force 6 v09 @d internal check-resize --out-of-sync", 0)
	b.want("--force 6 v09 @d internal wipe-md", 0)
	b.want("--force 6 v09 @d internal check-resize --last-size 1", exitNo)
}

func TestSizeFile(t *testing.T) {
	b := newBench(t)
	b.blank("d", 64*mib)
	b.want("--force /dev/drbd9 v08 @d internal create-md", 0)
	if got := string(b.content("drbd-minor-9.lkbd")); got != "67108864\t"+b.file("d")+"\n" {
		t.Errorf("got %q", got)
	}
	for _, damaged := range []string{"", "x\ty\n", "-5\ty\n"} {
		tl := &tool{stateDir: b.dir, minor: 8}
		b.blank("drbd-minor-8.lkbd", 0)
		b.write("drbd-minor-8.lkbd", []byte(damaged), 0)
		if n, err := tl.lastSize(); err == nil {
			t.Errorf("%q is taken as %d", damaged, n)
		}
	}
	b.want("--force --state-dir @none 9 v08 @d internal invalidate", 0, "cannot remember the size")
	b.want("--force 9 v08 @d internal wipe-md", 0)
	b.want("--force 9 v08 @d flex-external create-md", 0)
	b.want("--force 9 v08 @d internal check-resize", exitNo)
}
