// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// image is what the volume is filled with.
type image struct {
	path string
	what string // in words
	ext4 bool   // made here, so that e2fsck has to be content with it
}

// makeImage returns the given file, or makes a file system of real files; where
// mkfs.ext4 is missing, a file of noise. It is at most size bytes long.
func makeImage(ctx context.Context, given, dir string, size int64) (image, error) {
	if given != "" {
		info, err := os.Stat(given)
		switch {
		case err != nil:
			return image{}, err
		case info.Size() > size:
			return image{}, fmt.Errorf("the image %s has %s, at most %s fit: choose a larger -size", given, mib(info.Size()), mib(size))
		}
		return image{path: given, what: fmt.Sprintf("%s, %s", given, mib(info.Size()))}, nil
	}
	path := filepath.Join(dir, "image")
	mkfs, err := findTool("mkfs.ext4")
	if err != nil {
		return image{path: path, what: "noise, because there is no mkfs.ext4"}, writeNoise(path, size)
	}
	tree, files := findTree(ctx, size/2)
	if tree == "" {
		return image{path: path, what: "noise, because no files were found to make a file system of"}, writeNoise(path, size)
	}
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-b", "4096", "-d", tree, path, fmt.Sprintf("%dk", size>>10))
	if out, err := cmd.CombinedOutput(); err != nil {
		return image{}, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return image{path: path, what: fmt.Sprintf("an ext4 file system of %s with the %d files of %s", mib(size), files, tree), ext4: true}, nil
}

// findTool finds a program that may lie where only administrators look.
func findTool(name string) (string, error) {
	for _, place := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(place); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// findTree looks for a tree of real files that is not larger than size: the largest
// part of the Go installation that fits, else the folder this was started in, else "".
func findTree(ctx context.Context, size int64) (tree string, files int) {
	var candidates []string
	if out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output(); err == nil {
		src := filepath.Join(strings.TrimSpace(string(out)), "src")
		for _, part := range []string{"", "crypto", "runtime", "net", "sort"} {
			candidates = append(candidates, filepath.Join(src, part))
		}
	}
	for _, tree := range append(candidates, ".") {
		if files, bytes, err := measure(tree); err == nil && bytes <= size {
			return tree, files
		}
	}
	return "", 0
}

// measure counts the files of a tree and the bytes that a file system needs for them.
func measure(tree string) (files int, bytes int64, err error) {
	return files, bytes, filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		bytes += blockSize // for the inode, or the folder
		if info.Mode().IsRegular() {
			files++
			bytes += (info.Size() + blockSize - 1) / blockSize * blockSize
		}
		return nil
	})
}

// writeNoise writes a file that nothing compresses.
func writeNoise(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for off := int64(0); off < size && err == nil; off += blockSize {
		_, err = f.Write(content(off, 1))
	}
	return errors.Join(err, f.Close())
}
