// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Command quickstart mirrors a disk between two processes on this machine, breaks
// the link, kills the Primary, and proves that nothing was lost. See the README.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// timeLimit ends a run that hangs.
const timeLimit = 5 * time.Minute

// minSize leaves room for a file system and for the areas that are written to.
const minSize = 16 << 20

// options are the program's flags.
type options struct {
	size    int64  // bytes of each disk
	image   string // file to begin with; "" makes an ext4 image
	dir     string // of the disks; "" for a temporary one
	keep    bool   // do not remove the temporary one
	verbose bool   // show the nodes' logs
}

func main() {
	// The program starts itself again, twice, to be the two nodes.
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		os.Exit(nodeMain(os.Args[2:]))
	}
	opts := options{size: 256 << 20}
	flag.Var((*byteSize)(&opts.size), "size", "`bytes` of each disk, as 256MiB or 1GiB")
	flag.StringVar(&opts.image, "image", "", "`file` that the volume is filled with, at most 3/4 of its size (default: an ext4 image made for it)")
	flag.StringVar(&opts.dir, "dir", "", "`folder` for the disks, which stay there (default: a temporary one)")
	flag.BoolVar(&opts.keep, "keep", false, "keep the temporary folder")
	flag.BoolVar(&opts.verbose, "v", false, "show the logs of both nodes")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "quickstart: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	os.Exit(mainStatus(opts))
}

// mainStatus runs the program and returns its exit status. A second Ctrl-C ends it at once.
func mainStatus(opts options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := run(ctx, opts, os.Stdout, isTerminal(os.Stdout))
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		return 1
	}
	return 0
}

// run tells the story in a folder that it makes and removes.
func run(ctx context.Context, opts options, out io.Writer, terminal bool) error {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	if opts.size < minSize || opts.size%blockSize != 0 {
		return fmt.Errorf("-size %d: want at least 16MiB, in multiples of 4 KiB", opts.size)
	}
	dir, err := workFolder(opts)
	if err != nil {
		return err
	}
	err = newStory(opts, dir, newReport(out, terminal)).tell(ctx)
	if opts.dir != "" || opts.keep {
		fmt.Fprintf(out, "\nThe disks are in %s\n", dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// workFolder returns the folder for the disks.
func workFolder(opts options) (string, error) {
	if opts.dir == "" {
		return os.MkdirTemp("", "blockmirror-quickstart-")
	}
	dir, err := filepath.Abs(opts.dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// byteSize is a flag with a unit.
type byteSize int64

// String implements flag.Value.
func (b *byteSize) String() string { return mib(int64(*b)) }

// Set implements flag.Value.
func (b *byteSize) Set(text string) error {
	number, unit := text, int64(1)
	for suffix, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = n, bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > 1<<40/unit {
		return errors.New("want a number of bytes up to 1 TiB, as 256MiB or 1GiB")
	}
	*b = byteSize(n * unit)
	return nil
}
