// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pair is a resource that is complete but for what a test is about.
func pair(more string) string {
	return "resource r {\n" + more + "\n on a { device minor 0; disk /dev/a; meta-disk internal; address 192.0.2.1:1; }\n" +
		" on b { device minor 0; disk /dev/a; meta-disk internal; address 192.0.2.2:1; }\n}\n"
}

// What is wrong is named with its place.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		text, at string
		is       error
		message  string
	}{
		{"resource r {", "f:1:13", ErrSyntax, "a } is missing"},
		{"}", "f:1:1", ErrSyntax, "closes nothing"},
		{"global { usage-count no }", "f:1:25", ErrSyntax, "; is missing before }"},
		{"global { usage-count no; } ;", "f:1:28", ErrSyntax, "without a word"},
		{"global", "f:1:7", ErrSyntax, "; is missing"},
		{"common { net { shared-secret \"x\ny\"; } }", "f:1:30", ErrSyntax, "ends on its line"},
		{"common { net { shared-secret 'x y'; } }", "f:1:30", ErrSyntax, "double quotes"},
		{"common { net { shared-secret a@b; } }", "f:1:30", ErrSyntax, "double quotes"},
		{"skip { a { }", "f:1:13", ErrSyntax, "behind skip"},
		{strings.Repeat("a {", 10), "f:1:28", ErrSyntax, "braces"},
		{"bogus { }", "f:1:1", ErrInvalid, "no section bogus"},
		{"global x { }", "f:1:8", ErrSyntax, "one word too many"},
		{"global { } global { }", "f:1:12", ErrInvalid, "a second global"},
		{"include \"x.conf\";", "f:1:9", ErrInclude, "use Load"},
		{"include a b;", "f:1:1", ErrSyntax, "one name"},
		{"resource { }", "f:1:1", ErrSyntax, "needs a name"},
		{"resource r;", "f:1:1", ErrSyntax, "{ is missing"},
		{pair("bogus 1;"), "f:2:1", ErrInvalid, "no bogus in a resource"},
		{pair("net { bogus 1; }"), "f:2:7", ErrInvalid, "no option bogus in a section net"},
		{pair("net { timeout; }"), "f:2:7", ErrInvalid, "needs a value"},
		{pair("net { timeout 6 7; }"), "f:2:17", ErrInvalid, "one value"},
		{pair("net { timeout 60s; }"), "f:2:15", ErrInvalid, "out of range"},
		{pair("net { timeout six; }"), "f:2:15", ErrInvalid, "not a number"},
		{pair("net { use-rle maybe; }"), "f:2:15", ErrInvalid, "yes or no"},
		{pair("net { protocol D; }"), "f:2:16", ErrInvalid, "one of C, A, B"},
		{pair("net { no-tcp-cork yes; }"), "f:2:19", ErrInvalid, "no value"},
		{pair("net { timeout { } }"), "f:2:7", ErrInvalid, "no option timeout"},
		{pair("net { } net { }"), "f:2:9", ErrInvalid, "a second net"},
		{pair("disk { c-max-rate 1k; }"), "f:2:19", ErrInvalid, "out of range"},
		{pair("disk { resync-after x; }"), "f:2:8", ErrInvalid, "no resource \"x\""},
		{pair("syncer { bogus; }"), "f:2:10", ErrInvalid, "no option bogus in a section syncer"},
		{pair("volume 0 { }"), "f:3:2", ErrInvalid, "mixed"},
		{pair("volume 65536 { }"), "f:2:8", ErrInvalid, "0 to 65535"},
		{pair("on a { }"), "f:3:2", ErrInvalid, "a second section for a"},
		{pair("") + pair(""), "f:6:1", ErrInvalid, "a second resource r"},
		{pair("") + strings.ReplaceAll(pair(""), "resource r", "resource q"), "f:8:58", ErrInvalid, "the address 192.0.2.1:1 is used twice"},
		{"resource r { }", "f:1:1", ErrInvalid, "no hosts"},
		{"resource r { on a { } }", "f:1:14", ErrInvalid, "no address"},
		{"resource r { on a { address 192.0.2.1; } }", "f:1:21", ErrInvalid, "numeric address"},
		{"resource r { on a { address ipv6 192.0.2.1:5; } }", "f:1:21", ErrInvalid, "family ipv6"},
		{"resource r { on a { address 192.0.2.1:5; device minor 1; } }", "f:1:14", ErrInvalid, "no disk"},
		{"resource r { on a { address 192.0.2.1:5; device /dev/drbd_x; disk x; meta-disk internal; } }", "f:1:49", ErrInvalid, "add minor"},
		{"resource r { on a { address 192.0.2.1:5; device /dev/drbd1 minor 2; disk x; meta-disk internal; } }", "f:1:66", ErrInvalid, "number 1, not 2"},
		{"resource r { on a { address 192.0.2.1:5; device minor 2; disk x; meta-disk y[z]; } }", "f:1:76", ErrInvalid, "index"},
		{"resource r { on a { address 192.0.2.1:5; device minor 2; disk x; flexible-meta-disk y[1]; } }", "f:1:85", ErrInvalid, "has an index"},
		{pair("connection { host x; }"), "f:2:19", ErrInvalid, "no host \"x\""},
	} {
		_, err := Parse("f", test.text)
		require.ErrorIs(t, err, test.is, "%s", test.text)
		require.ErrorContains(t, err, test.at+": ", "%s", test.text)
		require.ErrorContains(t, err, test.message, "%s", test.text)
	}
}

// All that is wrong is reported at once, but not without end.
func TestManyErrors(t *testing.T) {
	_, err := Parse("f", pair("net { a; b; c; }"))
	require.Len(t, err.(interface{ Unwrap() []error }).Unwrap(), 3)
	var e *Error
	require.True(t, errors.As(err, &e))
	require.Equal(t, Pos{"f", 2, 7}, e.Pos)
	_, err = Parse("f", pair("net { "+strings.Repeat("a;", 1000)+" }"))
	require.Len(t, err.(interface{ Unwrap() []error }).Unwrap(), maxErrors)
}

func TestNumbers(t *testing.T) {
	for _, test := range []struct {
		s    string
		unit byte
		want int64
	}{
		{"0", 0, 0}, {"8k", 0, 8192}, {"8K", 0, 8192}, {"60s", 0, 30720}, {"125M", 'k', 128000}, {"250", 'k', 250},
		{"1M", 's', 2048}, {"100s", 's', 100}, {"100", 's', 100}, {"512", 's', 512}, {"10G", 's', 20971520}, {"1T", 'k', 1 << 30}, {"1s", 'k', 0},
	} {
		got, err := parseNumber(test.s, test.unit)
		require.NoError(t, err)
		require.Equal(t, test.want, got, "%s in %c", test.s, test.unit)
	}
	for _, s := range []string{"", "k", "1kk", "-1", "1.5", "0x10", "99999999999999999999", "9999999999P", "1 "} {
		_, err := parseNumber(s, 0)
		require.Error(t, err, s)
	}
}

func TestIncludes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	main := write("drbd.conf", "include \"d/global.conf\";\ninclude \"d/*.res\";\ninclude \"none/*\";\n")
	write("d/global.conf", "global { usage-count no; }")
	write("d/b.res", strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(pair(""), ":1;", ":2;"), "minor 0", "minor 1"), "resource r", "resource q"))
	a := write("d/a.res", strings.ReplaceAll(pair(""), "/dev/a", "/dev/b"))
	c, err := Load(main)
	require.NoError(t, err)
	require.Len(t, c.Resources, 2)
	require.Equal(t, "r", c.Resources[0].Name, "a.res comes first")
	require.Equal(t, Pos{a, 1, 1}, c.Resources[0].Pos)

	loop := write("loop.conf", "include \"./loop.conf\";")
	_, err = Load(loop)
	require.ErrorIs(t, err, ErrInclude)
	require.ErrorContains(t, err, "includes itself")
	_, err = Load(write("missing.conf", "\n  include missing;"))
	require.ErrorIs(t, err, ErrInclude)
	require.ErrorContains(t, err, "missing.conf:2:11")
	_, err = Load(filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// FuzzParse: any text gives a configuration or an error, and a configuration's dump
// is read as the same.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.conf")
	require.NoError(f, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(strings.ReplaceAll(string(text), "include", "# include"))
	}
	f.Add(pair("net { shared-secret \"\\\\\\\"\"; }"))
	f.Add("skip { } global { disable-ip-verification; }")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f", text)
		if err != nil {
			require.Nil(t, c)
			return
		}
		for _, d := range []Dialect{DRBD84, DRBD9} {
			dump := c.Dump(d)
			again, err := Parse("dump", dump)
			require.NoError(t, err, dump)
			require.Equal(t, dump, again.Dump(d))
		}
		for _, r := range c.Resources {
			for _, h := range r.Hosts {
				n, err := r.Node(h.Name())
				if err == nil {
					require.NotEmpty(t, n.Config.Volumes)
					require.Len(t, n.Disks, len(n.Config.Volumes))
				}
			}
		}
	})
}
