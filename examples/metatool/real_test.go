// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// real runs the real tool with a line of arguments.
func (b *bench) real(line string) result {
	b.t.Helper()
	cmd := exec.Command("drbdmeta", b.words(line)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		b.t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

func needDrbdmeta(t *testing.T) {
	if _, err := exec.LookPath("drbdmeta"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("drbdmeta is missing: install drbd-utils")
		}
		t.Skip("drbdmeta is missing: install drbd-utils to compare with the real tool")
	}
}

// newQuickBench prefers memory: both tools sync after each command.
func newQuickBench(t *testing.T) *bench {
	dir, err := os.MkdirTemp("/dev/shm", "metatool-test-")
	if err != nil {
		return newBench(t)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &bench{t: t, dir: dir}
}

// onlyReads are the commands after which the devices need not be compared.
var onlyReads = regexp.MustCompile(`^(get-gi|show-gi|dstate|read-dev-uuid|dump-md|verify-dump)`)

// sameOutput are the commands whose output is compared.
var sameOutput = regexp.MustCompile(`^(get-gi|show-gi|set-gi|dstate|read-dev-uuid|dump-md|verify-dump|apply-al)`)

var (
	dumpHeader = regexp.MustCompile(`(?m)^# [0-9]{4}-[0-9-]{5} [0-9:]{8} [+-][0-9]{4} \[[0-9]+\]\n# \S+> .*$`)
	flagsLine  = regexp.MustCompile(`(?m)^    flags 0x[0-9A-F]{8};$`)
	fileNames  = regexp.MustCompile(`/\S*/(ours|theirs)`)
)

// comparable takes out what may differ: time, host and command line of a dump,
// and the flags of v08, which the tool prints as zero.
func comparable(version, text string) string {
	text = dumpHeader.ReplaceAllString(text, "# HEADER")
	if version == "v08" {
		text = flagsLine.ReplaceAllString(text, "    flags;")
	}
	return fileNames.ReplaceAllString(text, "FILE")
}

// The scripts: one device each, the same commands for both tools. A line
// "dump" dumps to a file, "restore" restores it.
var scripts = []struct {
	name, version, location string
	size                    int64
	lines                   string
}{
	{"v08 internal", "v08", "internal", 32*mib + 3*512, `
		get-gi
		create-md
		dump-md
		show-gi
		create-md --peer-max-bio-size 128K
		get-gi
		set-gi AABBCCDDEEFF0011:1122334455667788:99AABBCCDDEEFF00:0102030405060708:1:1:1:1:1:1:1
		show-gi
		dstate
		set-gi ::::2
		set-gi zz
		outdate
		dstate
		show-gi
		invalidate
		outdate
		show-gi
		write-dev-uuid DEADBEEF01020304
		read-dev-uuid
		dump-md
		apply-al
		verify-dump @nothing
		create-md --al-stripes 2
		wipe-md
		wipe-md
		create-md --al-stripes 2 --al-stripe-size-kB 64
		dump-md
		frobnicate`},
	// No check-resize: the real tool's answer depends on a file under /var/lib/drbd, which
	// all that run at the same time share.
	{"v08 flex-external", "v08", "flex-external", 8 * mib, `
		create-md --al-stripes 4 --al-stripe-size-kB 32 --peer-max-bio-size 1M
		dump-md
		set-gi 1:2:3:4:1:1
		dump
		create-md --al-stripes 4 --al-stripe-size-kB 32
		restore
		dump-md
		show-gi`},
	{"v08 indexed", "v08", "1", 130 * mib, `
		create-md
		dump-md
		invalidate
		show-gi
		wipe-md`},
	{"v09 internal", "v09", "internal", 20*mib + 512, `
		create-md
		create-md 0
		create-md 32
		create-md x
		create-md 3
		dump-md
		get-gi
		get-gi --node-id 32
		show-gi --node-id 31
		set-gi --node-id 1 AABBCCDDEEFF0011:1122334455667788:99AABBCCDDEEFF00:0102030405060708:1:1:0:0:1:0:0:1:0:0:0:1
		show-gi --node-id 1
		dstate
		outdate
		invalidate
		dump-md
		set-gi --node-id 3 :::::::::0
		apply-al
		forget-peer --node-id 1
		get-gi --node-id 1
		dump
		wipe-md
		create-md 3
		restore
		dump-md`},
	{"v09 with 31 peers", "v09", "flex-external", 4 * mib, `
		create-md 31
		dump-md
		set-gi --node-id 30 5::::1:1
		show-gi --node-id 30`},
	{"v07 internal", "v07", "internal", 130 * mib, `
		create-md
		get-gi
		show-gi
		set-gi 1:2:3:4:5:1:1:1
		show-gi
		dump-md
		invalidate
		outdate
		apply-al
		dump-md
		wipe-md`},
	{"v07 flex-internal", "v07", "flex-internal", 20 * mib, `
		create-md
		set-gi 1:2:3:4:5:0:0:0
		dump-md
		create-md`},
}

func TestSameAsRealTool(t *testing.T) {
	needDrbdmeta(t)
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			b := newQuickBench(t)
			b.blank("ours", s.size)
			b.blank("theirs", s.size)
			b.write("nothing", []byte("version"), 0)
			for line := range strings.Lines(s.lines) {
				if line = strings.TrimSpace(line); line != "" {
					b.sameStep(s.version, s.location, line)
				}
			}
		})
	}
}

// sameStep does one line with both tools and compares.
func (b *bench) sameStep(version, location, line string) {
	b.t.Helper()
	args := func(device, command string) string {
		return "--force - " + version + " @" + device + " " + location + " " + command
	}
	switch line {
	case "dump": // each restores what the other wrote
		b.write("ours.txt", []byte(b.run(args("ours", "dump-md")).out), 0)
		theirs := b.run(args("theirs", "dump-md")).out // the real one would lose v08's flags
		b.write("theirs.txt", []byte(theirs), 0)
		return
	case "restore":
		if r := b.real(args("theirs", "restore-md @ours.txt")); r.code != 0 {
			b.t.Fatalf("%s: %s%s", line, r.out, r.err)
		}
		b.want(args("ours", "restore-md @theirs.txt"), 0)
	default:
		ours, theirs := b.run(args("ours", line)), b.real(args("theirs", line))
		if ours.code != theirs.code {
			b.t.Fatalf("%s: exit status %d, the real tool's is %d\n%s%s---\n%s%s",
				line, ours.code, theirs.code, ours.out, ours.err, theirs.out, theirs.err)
		}
		if got, want := comparable(version, ours.out), comparable(version, theirs.out); got != want && sameOutput.MatchString(line) {
			b.t.Fatalf("%s:\n%s--- the real tool:\n%s", line, got, want)
		}
	}
	if onlyReads.MatchString(line) {
		return
	}
	if at := b.difference("ours", "theirs"); at >= 0 {
		b.t.Fatalf("%s: the devices differ in the MiB at %d", line, at)
	}
}

// difference compares two files of one size; -1 means that they are the same.
func (b *bench) difference(one, two string) int64 {
	b.t.Helper()
	var files [2]*os.File
	for i, name := range []string{one, two} {
		f, err := os.Open(b.file(name))
		if err != nil {
			b.t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	p, q := make([]byte, mib), make([]byte, mib)
	for at := int64(0); ; at += mib {
		n, err := files[0].ReadAt(p, at)
		m, _ := files[1].ReadAt(q, at)
		if !bytes.Equal(p[:n], q[:m]) {
			return at
		}
		if errors.Is(err, io.EOF) {
			return -1
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestConversionsAsRealTool compares what create-md makes of another version.
func TestConversionsAsRealTool(t *testing.T) {
	needDrbdmeta(t)
	b := newQuickBench(t)
	b.blank("ours", 20*mib)
	b.blank("theirs", 20*mib)
	for _, step := range []struct{ version, location, line string }{
		{"v07", "flex-internal", "create-md"},
		{"v07", "flex-internal", "set-gi 1:2:3:4:5:0:0:0"},
		{"v08", "internal", "create-md"},
		{"v08", "internal", "dump-md"},
		{"v08", "internal", "apply-al"},
		{"v08", "internal", "set-gi AABBCCDDEEFF0010:1122334455667788:99AABBCCDDEEFF00:0102030405060708:1:1:0:1:1:1:1"},
		{"v09", "internal", "create-md 3"},
		{"v09", "internal", "dump-md"},
		{"v09", "internal", "set-gi --node-id 0 ::::::::::::1:1:1"},
		{"v08", "internal", "create-md"},
		{"v08", "internal", "show-gi"},
	} {
		b.sameStep(step.version, step.location, step.line)
	}
}

// TestResizeAsRealTool lets the device grow; the real tool keeps the bitmap in the
// wrong place, so the superblock and the log alone are compared.
func TestResizeAsRealTool(t *testing.T) {
	needDrbdmeta(t)
	b := newQuickBench(t)
	b.blank("ours", 64*mib)
	b.want("--force 3 v08 @ours internal create-md --al-stripes 2", 0)
	b.want("--force 3 v08 @ours internal write-dev-uuid 1122334455667788", 0)
	if got := string(b.content("drbd-minor-3.lkbd")); got != "67108864\t"+b.file("ours")+"\nuuid:\t1122334455667788\n" {
		t.Fatalf("size file: %q", got)
	}
	b.resize("ours", 300*mib)
	if r := b.real("--force - v08 @ours internal get-gi"); r.code == 0 {
		t.Fatal("the real tool finds what should have been lost")
	}
	b.want("--force 3 v08 @ours internal check-resize", 0, "successfully moved")
	if r := b.real("--force - v08 @ours internal read-dev-uuid"); r.out != "1122334455667788\n" {
		t.Fatalf("the real tool: %+v", r)
	}
	b.want("--force 3 v08 @ours internal check-resize", 0)
	b.want("--force 3 v08 @ours internal wipe-md", 0)
	b.want("--force 3 v08 @ours internal check-resize", exitNo)
}
