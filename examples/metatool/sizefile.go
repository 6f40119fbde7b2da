// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// defaultStateDir is where the size files are.
const defaultStateDir = "/var/lib/drbd"

// sizeFile remembers how large the device of a minor was, because internal metadata
// cannot be found any more after the device has grown (spec: on-disk 9.3).
func (t *tool) sizeFile() string {
	return filepath.Join(t.stateDir, fmt.Sprintf("drbd-minor-%d.lkbd", t.minor))
}

// remember updates the size file after metadata was written. Without a minor
// number there is none; other than internal metadata does not move.
func (t *tool) remember(size int64, deviceUUID uint64) {
	if t.minor < 0 {
		return
	}
	if !t.loc.IsInternal() {
		t.forget()
		return
	}
	text := fmt.Sprintf("%d\t%s\n", size, t.path)
	if deviceUUID != 0 {
		text += fmt.Sprintf("uuid:\t%016X\n", deviceUUID)
	}
	// The file is a help, no more: the metadata is written in any case.
	tmp := t.sizeFile() + ".new"
	err := os.WriteFile(tmp, []byte(text), 0o644)
	if err == nil {
		err = os.Rename(tmp, t.sizeFile())
	}
	if err != nil {
		t.complain("cannot remember the size of the device: %v", err)
	}
}

// forget removes the size file.
func (t *tool) forget() {
	if t.minor < 0 {
		return
	}
	if err := os.Remove(t.sizeFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.complain("cannot remove the size file: %v", err)
	}
}

// lastSize returns the size of the device when its metadata was last written.
func (t *tool) lastSize() (int64, error) {
	if t.opts.has("last-size") {
		n, err := t.opts.number("last-size", 0, 1<<62, 0)
		return int64(n), err
	}
	if t.minor < 0 {
		return 0, errors.New("without a minor number the last size must be given: --last-size BYTES")
	}
	f, err := os.Open(t.sizeFile())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	if !s.Scan() {
		return 0, fmt.Errorf("%s is empty", t.sizeFile())
	}
	first, _, _ := strings.Cut(s.Text(), "\t")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: %q is not a size", t.sizeFile(), first)
	}
	return n, nil
}
