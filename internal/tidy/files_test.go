// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// tracked returns the paths of the repository's files, relative to root, with
// slashes: those git tracks, or, in an unpacked archive, those that are there.
func tracked(t *testing.T) []string {
	t.Helper()
	var files []string
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil && len(out) > 0 {
		for _, f := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
			files = append(files, filepath.ToSlash(f))
		}
		return files
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.Type().IsRegular():
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	require.NoError(t, err)
	return files
}

// read returns a tracked file's bytes, nil if it has just been removed.
func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	return b
}

// goFiles returns the Go files that go builds: none below a testdata folder.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, f := range tracked(t) {
		if strings.HasSuffix(f, ".go") && !strings.Contains("/"+f, "/testdata/") {
			files = append(files, f)
		}
	}
	require.NotEmpty(t, files)
	return files
}

func TestLicenceHeaders(t *testing.T) {
	const header = "// Copyright The blockmirror Authors\n// SPDX-License-Identifier: Apache-2.0\n\n"
	for _, f := range goFiles(t) {
		if b := read(t, f); b != nil && !bytes.HasPrefix(b, []byte(header)) {
			t.Errorf("%s: does not begin with the licence header:\n%s", f, header)
		}
	}
}

func TestFileLength(t *testing.T) {
	const limit, long = 800, 600
	for _, f := range goFiles(t) {
		switch n := bytes.Count(read(t, f), []byte("\n")); {
		case n > limit:
			t.Errorf("%s has %d lines: split it by concern, %d is the limit", f, n, limit)
		case n > long:
			t.Logf("%s has %d lines: would a new reader find their way?", f, n)
		}
	}
}

// The repository stands alone: no file names a place outside it.
func TestNoForeignPaths(t *testing.T) {
	words := []string{"/wor" + "k/", "../shar" + "ed", "/tmp/bri" + "ef", ".libr" + "ary/"}
	for _, f := range tracked(t) {
		b := read(t, f)
		if bytes.IndexByte(b, 0) >= 0 {
			continue // not text
		}
		for i, line := range strings.Split(string(b), "\n") {
			for _, word := range words {
				if strings.Contains(line, word) {
					t.Errorf("%s:%d names %s, a place outside the repository", f, i+1, word)
				}
			}
		}
	}
}

func TestNoWorkflowFiles(t *testing.T) {
	for _, f := range tracked(t) {
		if strings.HasPrefix(f, ".github/") {
			t.Errorf("%s: what CI does stands in .ci/run alone", f)
		}
	}
}
