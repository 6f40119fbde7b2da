// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// CreateMD writes fresh internal metadata to disks: create-md [-size BYTES] [-force]
// FILE... With a size, files that do not exist are created.
func CreateMD(args []string, out io.Writer) error {
	f := flag.NewFlagSet("create-md", flag.ContinueOnError)
	f.SetOutput(out)
	var size int64
	f.Func("size", "create the files, with this many `BYTES`; K, M, G and T are allowed", func(s string) (err error) {
		size, err = parseSize(s)
		return err
	})
	force := f.Bool("force", false, "overwrite metadata that exists; what is out of sync is forgotten")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("create-md: name the disks")
	}
	for _, path := range f.Args() {
		if err := createMD(path, size, *force); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: new drbd meta data block successfully created.\n", path)
	}
	return nil
}

// parseSize reads a number of bytes with a suffix K, M, G or T.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	if i := strings.IndexAny(s, "kKmMgGtT"); i >= 0 && i == len(s)-1 {
		digits, shift = s[:i], 10*(strings.IndexByte("kmgt", s[i]|0x20)+1)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift || n<<shift%metadata.SectorSize != 0 {
		return 0, fmt.Errorf("want a multiple of %d bytes, as 400M", metadata.SectorSize)
	}
	return n << shift, nil
}

func createMD(path string, size int64, force bool) (err error) {
	var disk *blockdev.File
	if size > 0 {
		disk, err = blockdev.Create(path, size, blockdev.Options{})
	} else {
		disk, err = blockdev.Open(path, blockdev.Options{})
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create-md: %s is not there; with -size 400M it is made: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("create-md: %w", err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	var opts []replica.CreateOption
	if force {
		opts = append(opts, replica.Force())
	}
	if err = replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{}, opts...); err != nil {
		return fmt.Errorf("create-md: %s: %w (Force: -force in front of the names)", path, err)
	}
	return nil
}
