// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// result is what a run of the program gave.
type result struct {
	out, err string
	code     int
}

// bench runs the program against files in a folder of its own.
type bench struct {
	t     *testing.T
	dir   string
	stdin string // what a person at the terminal types; "" = nobody there

	acceptFiles bool // commands without --force work on files
}

func newBench(t *testing.T) *bench { return &bench{t: t, dir: t.TempDir()} }

// run runs metatool with a line of arguments. A word that begins with @ is a file
// in the bench's folder.
func (b *bench) run(line string) result {
	b.t.Helper()
	var out, errOut bytes.Buffer
	tl := &tool{
		stdin: strings.NewReader(b.stdin), stdout: &out, stderr: &errOut,
		interactive: b.stdin != "",
		now:         func() time.Time { return time.Unix(1706702400, 0).UTC() },
		hostname:    "alpha", stateDir: b.dir, acceptFiles: b.acceptFiles,
	}
	code := tl.run(append([]string{"/usr/sbin/metatool"}, b.words(line)...))
	return result{out.String(), errOut.String(), code}
}

func (b *bench) words(line string) []string {
	words := strings.Fields(line)
	for i, w := range words {
		if name, ok := strings.CutPrefix(w, "@"); ok {
			words[i] = b.file(name)
		}
	}
	return words
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// blank makes a sparse file of zeroes.
func (b *bench) blank(name string, size int64) {
	b.t.Helper()
	if err := os.WriteFile(b.file(name), nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.resize(name, size)
}

func (b *bench) resize(name string, size int64) {
	b.t.Helper()
	if err := os.Truncate(b.file(name), size); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) write(name string, content []byte, off int64) {
	b.t.Helper()
	f, err := os.OpenFile(b.file(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, off); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) content(name string) []byte {
	b.t.Helper()
	p, err := os.ReadFile(b.file(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// want runs a line and checks the exit status, and that each text is part of the
// output or the complaints.
func (b *bench) want(line string, code int, texts ...string) result {
	b.t.Helper()
	r := b.run(line)
	if r.code != code {
		b.t.Fatalf("%s: exit status %d, want %d\n%s%s", line, r.code, code, r.out, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			b.t.Fatalf("%s: lacks %q:\n%s%s", line, text, r.out, r.err)
		}
	}
	return r
}

// superblock reads the metadata of a file.
func (b *bench) superblock(name string, loc metadata.Location) metadata.Superblock {
	b.t.Helper()
	f, err := os.Open(b.file(name))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.t.Fatal(err)
	}
	sb, _, err := metadata.Read(f, loc, info.Size())
	if err != nil {
		b.t.Fatal(err)
	}
	return sb
}

const mib = 1 << 20

func TestUsage(t *testing.T) {
	b := newBench(t)
	b.blank("d", mib)
	for line, text := range map[string]string{
		"":                                  "USAGE",
		"--force - v08":                     "Too few arguments",
		"--force - v06 @d 0 get-gi":         "Unknown format 'v06'",
		"--force - v08 @d 256 get-gi":       "not a valid index",
		"--force - v08 @d internal":         "command missing",
		"--force - v08 @d internal bogus":   "Unknown command 'bogus'",
		"--force x v08 @d internal get-gi":  "minor number",
		"--frob - v08 @d internal get-gi":   "Unknown option",
		"--force - v08 @none 0 get-gi":      "open(",
		"- v08 @d internal get-gi":          "not a block device",
		"- v08 @d 0 get-gi --frob":          "Unknown option",
		"- v09 @d 0 get-gi --node-id":       "needs a value",
		"- v08 @d 0 dump-md --out-of-sync=": "Unknown option",
	} {
		b.want(line, exitUsage, text)
	}
	for _, c := range commands {
		b.want("", exitUsage, "  "+c.name)
	}
}

func TestNotFound(t *testing.T) {
	b := newBench(t)
	b.blank("d", mib)
	for _, command := range []string{
		"dump-md", "apply-al", "show-gi", "get-gi", "set-gi 1", "dstate", "outdate", "invalidate",
		"read-dev-uuid", "write-dev-uuid 1", "check-resize --last-size 70000",
	} {
		b.want("--force - v08 @d internal "+command, exitNo)
	}
	b.want("--force - v08 @d internal wipe-md", 0, "no drbd meta data to wipe")
	b.blank("small", 4096)
	b.want("--force - v08 @small internal get-gi", exitInvalid, "too small")
}

func TestOptionNumbers(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "7": 7, "1K": 1024, "3M": 3 << 20, "2G": 2 << 30, "1T": 1 << 40, "1P": 1 << 50, "8s": 4096,
	} {
		o := options{named: map[string]string{"x": s}}
		if n, err := o.number("x", 0, 1<<62, 9); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "K", "-1", "1Q", "1KK", "99999999999999999999", "9999999P", "1.5M"} {
		o := options{named: map[string]string{"x": s}}
		if n, err := o.number("x", 0, 1<<62, 9); err == nil {
			t.Errorf("%q is taken as %d", s, n)
		}
	}
	if n, err := (&options{}).number("x", 0, 1, 9); n != 9 || err != nil {
		t.Errorf("absent: %d, %v", n, err)
	}
}

func TestQuestions(t *testing.T) {
	b := newBench(t)
	b.blank("d", 16*mib)
	b.want("--force - v08 @d internal create-md", 0)
	tl := func(stdin string, interactive bool) (bool, string) {
		var errOut bytes.Buffer
		tl := &tool{stdin: strings.NewReader(stdin), stderr: &errOut, interactive: interactive}
		return tl.confirm("Really?"), errOut.String()
	}
	for _, c := range []struct {
		stdin       string
		interactive bool
		want        bool
		text        string
	}{
		{"yes\n", true, true, "need to type 'yes'"},
		{"yes", true, true, "need to type 'yes'"},
		{"y\n", true, false, "need to type 'yes'"},
		{"", true, false, "need to type 'yes'"},
		{"yes\n", false, false, "not a TTY"},
	} {
		got, text := tl(c.stdin, c.interactive)
		if got != c.want || !strings.Contains(text, c.text) || !strings.Contains(text, "Really?") {
			t.Errorf("%+v: %v %q", c, got, text)
		}
	}
}

func TestCommandTable(t *testing.T) {
	names := map[string]bool{}
	for _, c := range commands {
		if names[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		names[c.name] = true
	}
	for _, n := range []string{"create-md", "dump-md", "restore-md", "apply-al", "show-gi", "get-gi", "set-gi", "wipe-md",
		"outdate", "invalidate", "check-resize", "read-dev-uuid", "write-dev-uuid", "verify-dump", "dstate", "forget-peer"} {
		if !slices.ContainsFunc(commands, func(c command) bool { return c.name == n }) {
			t.Errorf("%s is missing", n)
		}
	}
}
