// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// device is the file or block device that holds the metadata.
type device struct {
	*os.File
	size int64
}

// open opens the device for reading and writing. A regular file needs --force, as
// it is rarely what is meant. A block device is opened exclusively, so that nobody
// changes the metadata of one in use; indexed metadata shares its device.
func (t *tool) open() (*device, error) {
	info, err := os.Stat(t.path)
	if err != nil {
		return nil, failf(exitUsage, "open(%s) failed: %w", t.path, errors.Unwrap(err))
	}
	isDevice := info.Mode()&os.ModeDevice != 0
	if !isDevice && !t.force && !t.acceptFiles {
		return nil, failf(exitUsage, "'%s' is not a block device!", t.path)
	}
	flags := os.O_RDWR
	if isDevice && t.loc.Index() < 0 {
		flags |= exclusive
	}
	f, err := os.OpenFile(t.path, flags, 0)
	if err != nil {
		return nil, failf(exitUsage, "open(%s) failed: %w", t.path, errors.Unwrap(err))
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		_ = f.Close()
		return nil, failf(exitUsage, "size of %s: %w", t.path, err)
	}
	return &device{f, size}, nil
}

// found is metadata together with where it is.
type found struct {
	dev    *device
	sb     metadata.Superblock
	layout metadata.Layout
}

// read opens the device and reads its metadata. An agreed size that is too big is
// clipped, with a notice.
func (t *tool) read() (*found, error) {
	dev, err := t.open()
	if err != nil {
		return nil, err
	}
	sb, l, err := metadata.ReadVersion(dev, t.version, t.loc, dev.size)
	if err != nil {
		_ = dev.Close()
		if errors.Is(err, metadata.ErrNoMetadata) || errors.Is(err, metadata.ErrCorrupt) {
			return nil, failf(exitNo, "No valid meta data found (%w)", err)
		}
		return nil, err
	}
	if old, clipped := sb.ClipEffectiveSize(l); clipped {
		t.say("# la-size-sect was too big (%d), truncated (%d)!", old, sb.EffectiveSize)
	}
	return &found{dev, sb, l}, nil
}

// write stores the changed superblock.
func (t *tool) write(f *found) error {
	if err := metadata.WriteSuperblock(f.dev, f.layout, &f.sb); err != nil {
		return err
	}
	t.remember(f.dev.size, f.sb.DeviceUUID)
	return nil
}

// view runs a command that only reads.
func (t *tool) view(do func(f *found) error) error {
	f, err := t.read()
	if err != nil {
		return err
	}
	defer f.dev.Close()
	return do(f)
}

// change runs a command that changes the superblock, and writes it.
func (t *tool) change(do func(sb *metadata.Superblock) error) error {
	return t.view(func(f *found) error {
		if err := do(&f.sb); err != nil {
			return err
		}
		return t.write(f)
	})
}

// errDeclined ends a command whose question was not answered with yes.
func (t *tool) errDeclined() error {
	t.say("Operation cancelled.")
	return failf(exitNo, "")
}

// confirm asks a question. --force answers yes; nobody there to answer means no.
func (t *tool) confirm(question string) bool {
	_, _ = io.WriteString(t.stderr, "\n"+question+"\n")
	switch {
	case t.force:
		t.complain("*** confirmation forced via --force option ***")
		return true
	case !t.interactive:
		t.complain("stdin not a TTY, not waiting for confirmation")
		return false
	}
	_, _ = io.WriteString(t.stderr, "[need to type 'yes' to confirm] ")
	answer, _ := bufio.NewReader(t.stdin).ReadString('\n') // an error is no yes
	return strings.TrimSpace(answer) == "yes"
}
