// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// createDisk makes a backing file with fresh metadata at its end.
func createDisk(path string, size int64) error {
	disk, err := blockdev.Create(path, size, blockdev.Options{})
	if err != nil {
		return err
	}
	err = replica.CreateMetadata(replica.Disk{Device: disk, MetaDisk: metadata.Internal()}, metadata.CreateOptions{})
	return errors.Join(err, disk.Close())
}

// openDisk opens the disk of a node that has ended, for reading, and returns the
// size of the volume on it.
func openDisk(path string) (disk *blockdev.File, dataBytes int64, err error) {
	disk, err = blockdev.Open(path, blockdev.Options{ReadOnly: true})
	if err != nil {
		return nil, 0, err
	}
	sb, _, err := metadata.Read(disk, metadata.Internal(), disk.Size())
	if err != nil {
		return nil, 0, errors.Join(err, disk.Close())
	}
	return disk, int64(sb.EffectiveSize) * metadata.SectorSize, nil
}

// chunkSize is how much of two files is compared at a time.
const chunkSize = 1 << 20

// compareBlocks compares the first size bytes of two disks or files, and returns
// how many blocks there are and how many differ.
func compareBlocks(a, b io.ReaderAt, size int64) (blocks, differ int64, err error) {
	bufA, bufB := blockdev.AlignedBuffer(chunkSize), blockdev.AlignedBuffer(chunkSize)
	for off := int64(0); off < size; off += chunkSize {
		n := min(size-off, chunkSize)
		if _, err := a.ReadAt(bufA[:n], off); err != nil {
			return blocks, differ, err
		}
		if _, err := b.ReadAt(bufB[:n], off); err != nil {
			return blocks, differ, err
		}
		for at := int64(0); at < n; at += blockSize {
			end := min(at+blockSize, n)
			blocks++
			if !bytes.Equal(bufA[at:end], bufB[at:end]) {
				differ++
			}
		}
	}
	return blocks, differ, nil
}

// sectored is a file that is read in whole sectors: behind its end there are zeroes.
type sectored struct{ *os.File }

// ReadAt implements io.ReaderAt.
func (s sectored) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.File.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		return len(p), nil
	}
	return n, err
}

// checkFileSystem runs e2fsck, which changes nothing, on the file system at the
// beginning of a disk.
func checkFileSystem(ctx context.Context, e2fsck, disk string) string {
	if out, err := exec.CommandContext(ctx, e2fsck, "-fn", disk).CombinedOutput(); err != nil {
		return fmt.Sprintf("%v: %s", err, lastLine(out))
	}
	return "clean"
}

// dumpMetadata lets the real tool read a disk's metadata, which it does only if
// there is no activity log to be applied first. It returns the data generation, with
// the bitmap's identifier behind it unless that is zero, as it is after a resync.
func dumpMetadata(ctx context.Context, drbdmeta, disk string) (string, error) {
	out, err := exec.CommandContext(ctx, drbdmeta, "--force", "-", "v08", disk, "internal", "dump-md").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("drbdmeta dump-md %s: %w: %s", disk, err, lastLine(out))
	}
	uuids := regexp.MustCompile(`(?s)uuid \{\s*0x([0-9A-F]{16}); 0x([0-9A-F]{16});`).FindSubmatch(out)
	if uuids == nil {
		return "", fmt.Errorf("drbdmeta dump-md %s: no identifiers in %q", disk, out)
	}
	return strings.TrimSuffix(fmt.Sprintf("%s:%s", uuids[1], uuids[2]), ":0000000000000000"), nil
}

func lastLine(out []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return lines[len(lines)-1]
}
