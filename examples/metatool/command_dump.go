// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// dumpMD writes the metadata as text. That of unclean metadata is only good for
// looking at, and restore-md refuses it.
func (t *tool) dumpMD() error {
	t.ignoreArguments(0)
	return t.view(func(f *found) error {
		if f.sb.NeedsApplyAL() {
			t.complain("Found meta data is \"unclean\", please apply-al first")
			if !t.force {
				return failf(exitNo, "")
			}
		}
		now := t.now()
		w := bufio.NewWriter(t.stdout)
		for _, line := range []string{
			"# DRBD meta data dump",
			"# " + now.Format("2006-01-02 15:04:05 -0700") + " [" + strconv.FormatInt(now.Unix(), 10) + "]",
			"# " + t.hostname + "> " + strings.Join(t.argv, " "),
			"#", "",
		} {
			_, _ = w.WriteString(line + "\n") // Flush reports the error
		}
		if err := metadata.WriteDump(w, f.dev, &f.sb, f.layout, metadata.DumpOptions{}); err != nil {
			return err
		}
		return w.Flush()
	})
}

// parseDump reads the dump in the file that is the argument, or standard input, and
// checks its version.
func (t *tool) parseDump() (*metadata.Dump, error) {
	t.ignoreArguments(1)
	var input io.Reader = t.stdin
	if len(t.opts.rest) > 0 {
		f, err := os.Open(t.opts.rest[0])
		if err != nil {
			return nil, failf(exitUsage, "open of '%s' failed: %w", t.opts.rest[0], err)
		}
		defer f.Close()
		input = f
	}
	d, err := metadata.ParseDump(input)
	if err != nil {
		return nil, err
	}
	if v := d.Superblock.Version; v != t.version {
		return nil, failf(exitInvalid, "dump is '%s' you requested '%s'.", v, t.version)
	}
	return d, nil
}

func (t *tool) verifyDump() error {
	if _, err := t.parseDump(); err != nil {
		return err
	}
	t.say("input file parsed ok")
	return nil
}

func (t *tool) restoreMD() error {
	var opt metadata.RestoreOptions
	var err error
	if opt.ALStripes, opt.ALStripeSize4k, err = t.stripes(); err != nil {
		return err
	}
	dump, err := t.parseDump()
	if err != nil {
		return err
	}
	dev, err := t.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	_, _, err = metadata.ReadVersion(dev, t.version, t.loc, dev.size)
	switch {
	case err == nil:
		if !t.confirm("Valid meta-data in place, overwrite?") {
			return t.errDeclined()
		}
	case !errors.Is(err, metadata.ErrNoMetadata) && !errors.Is(err, metadata.ErrCorrupt):
		return err
	}
	g := dump.Superblock.Geometry()
	if opt.ALStripes != 0 {
		g.ALStripes = opt.ALStripes
	}
	if opt.ALStripeSize4k != 0 {
		g.ALStripeSize4k = opt.ALStripeSize4k
	}
	l, err := metadata.NewLayout(t.version, t.loc, dev.size, g)
	if err != nil {
		return err
	}
	if err := t.checkContent(dev, l); err != nil {
		return err
	}
	sb, res, err := dump.Restore(dev, t.loc, dev.size, opt)
	if err != nil {
		return err
	}
	if res.Clipped {
		t.say("# la-size-sect was too big (%d), truncated (%d)!", res.ClippedFrom, sb.EffectiveSize)
	}
	if res.Truncated {
		t.complain("Bitmap info too large, truncated!")
	}
	t.remember(dev.size, sb.DeviceUUID)
	t.say("Successfully restored meta data")
	return nil
}
