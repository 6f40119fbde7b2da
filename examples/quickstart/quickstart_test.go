// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMain lets the test binary be a node, as the program itself can.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		os.Exit(nodeMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// small are the options of a quick run.
func small(t *testing.T) options {
	return options{size: minSize, dir: t.TempDir()}
}

// tell runs the whole story and returns what it printed.
func tell(t *testing.T, opts options) string {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), opts, &out, false)
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "✗") {
		t.Error("no error, but a step or a row has failed")
	}
	return out.String()
}

func wantLines(t *testing.T, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(out) {
			t.Errorf("nothing in the output matches %q", p)
		}
	}
}

// With an image that is given, nothing but Go is needed.
func TestStoryWithGivenImage(t *testing.T) {
	opts := small(t)
	opts.image = filepath.Join(t.TempDir(), "image")
	if err := writeNoise(opts.image, 3<<20); err != nil {
		t.Fatal(err)
	}
	// Odd, so that its last block is one in part, with a hole of zeroes before.
	if err := os.Truncate(opts.image, 5<<20+1001); err != nil {
		t.Fatal(err)
	}
	out := tell(t, opts)
	wantLines(t, out,
		`blocks in the initial sync +4086 +4086 +✓`,
		`blocks in the resync after the cut +\d+ to \d+ +\d+ +✓`,
		`acknowledged blocks lost +0 +0 +✓`,
		`blocks in the resync after the crash +\d+ to \d+ +\d+ +✓`,
		`blocks that differ, of 4086 +0 +0 +✓`,
		`blocks of the image that differ, of 1281 +0 +0 +✓`,
		`written blocks that differ, of \d+ +0 +0 +✓`)
	for _, name := range []string{"alpha.disk", "beta.disk"} {
		if _, err := os.Stat(filepath.Join(opts.dir, name)); err != nil {
			t.Error("with -dir the disks stay:", err)
		}
	}
}

// The same with a file system made for it, and looked at by the real tools.
func TestStoryWithFileSystem(t *testing.T) {
	for tool, pkg := range map[string]string{"mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "drbdmeta": "drbd-utils"} {
		if _, err := findTool(tool); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing: install %s", tool, pkg)
		}
		t.Skipf("%s is missing: install %s to run this with a file system", tool, pkg)
	}
	wantLines(t, tell(t, small(t)),
		`an ext4 file system of 12 MiB with the \d+ files of `,
		`e2fsck of alpha +clean +clean +✓`,
		`e2fsck of beta +clean +clean +✓`,
		`data generation by drbdmeta +[0-9A-F]{16} +[0-9A-F]{16} +✓`)
}

// However a run ends, its processes end too.
func TestNothingIsLeftRunning(t *testing.T) {
	s := newStory(small(t), t.TempDir(), newReport(&bytes.Buffer{}, false))
	s.opts.image = filepath.Join(s.dir, "image")
	if err := writeNoise(s.opts.image, 1<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.report.out = writerFunc(func(line string) {
		if strings.Contains(line, "initial sync of") {
			cancel() // as Ctrl-C does, with both nodes running
		}
	})
	if err := s.tell(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("the error is %v", err)
	}
	if len(s.children) != 3 {
		t.Errorf("%d processes were started, want alpha twice and beta", len(s.children))
	}
	for _, p := range s.children {
		select {
		case <-p.ended:
		default:
			t.Errorf("%s (process %d) still runs", p.name, p.cmd.Process.Pid)
		}
	}
}

// writerFunc calls a function with each line.
type writerFunc func(line string)

func (f writerFunc) Write(b []byte) (int, error) {
	f(string(b))
	return len(b), nil
}

// A node whose parent has vanished ends by itself.
func TestNodeEndsWithItsParent(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := createDisk(disk, minSize); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], nodeCommand, "-disk", disk, "-local", "127.0.0.1:1", "-remote", "127.0.0.1:1")
	cmd.Stdin = strings.NewReader("") // ends at once
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	taken := small(t)
	if err := os.WriteFile(filepath.Join(taken.dir, "alpha.disk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	large := small(t)
	large.image = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(large.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large.image, minSize); err != nil {
		t.Fatal(err)
	}
	missing := small(t)
	missing.image = filepath.Join(t.TempDir(), "image")
	for name, opts := range map[string]options{
		"too small":          {size: minSize - blockSize, dir: t.TempDir()},
		"no whole blocks":    {size: minSize + 512, dir: t.TempDir()},
		"a disk exists":      taken,
		"image is too large": large,
		"image is missing":   missing,
	} {
		if err := run(t.Context(), opts, &bytes.Buffer{}, false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]int64{"16MiB": 16 << 20, "1GiB": 1 << 30, "4096": 4096, "8KiB": 8 << 10, "1024GiB": 1 << 40} {
		var b byteSize
		if err := b.Set(text); err != nil || int64(b) != want {
			t.Errorf("%s gives %d, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "0", "16 MB", "1025GiB", "99999999999999999999"} {
		var b byteSize
		if err := b.Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
