// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// CreateMD writes fresh internal metadata to disks: create-md [-size BYTES] [-force]
// FILE... With a size, files that do not exist are created.
func CreateMD(args []string, out io.Writer) error {
	f := flag.NewFlagSet("create-md", flag.ContinueOnError)
	f.SetOutput(out)
	size := f.Int64("size", 0, "create the files with this many `BYTES`")
	force := f.Bool("force", false, "overwrite metadata that exists; what is out of sync is forgotten")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("create-md: name the disks")
	}
	for _, path := range f.Args() {
		if err := createMD(path, *size, *force); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: new drbd meta data block successfully created.\n", path)
	}
	return nil
}

func createMD(path string, size int64, force bool) (err error) {
	var disk *blockdev.File
	if size > 0 {
		disk, err = blockdev.Create(path, size, blockdev.Options{})
	} else {
		disk, err = blockdev.Open(path, blockdev.Options{})
	}
	if err != nil {
		return fmt.Errorf("create-md: %w", err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	var opts []replica.CreateOption
	if force {
		opts = append(opts, replica.Force())
	}
	return replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{}, opts...)
}
