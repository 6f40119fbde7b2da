// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

func (t *tool) dstate() error {
	t.ignoreArguments(0)
	return t.view(func(f *found) error {
		t.say("%s", f.sb.DiskState())
		return nil
	})
}

func (t *tool) outdate() error {
	t.ignoreArguments(0)
	return t.change(func(sb *metadata.Superblock) error {
		err := sb.Outdate()
		switch {
		case errors.Is(err, metadata.ErrInconsistent):
			return failf(exitInconsistent, "Device is inconsistent.")
		case err != nil:
			return failf(exitInconsistent, "Can not outdate GC based meta data!")
		}
		return nil
	})
}

func (t *tool) invalidate() error {
	t.ignoreArguments(0)
	return t.change(func(sb *metadata.Superblock) error {
		sb.Invalidate()
		return nil
	})
}

func (t *tool) forgetPeer() error {
	t.ignoreArguments(0)
	node, err := t.nodeID("forget-peer")
	if err != nil {
		return err
	}
	return t.view(func(f *found) error {
		if err := metadata.ForgetPeer(f.dev, &f.sb, f.layout, node); err != nil {
			return err
		}
		t.remember(f.dev.size, f.sb.DeviceUUID)
		return nil
	})
}

func (t *tool) readDevUUID() error {
	t.ignoreArguments(0)
	return t.view(func(f *found) error {
		t.say("%016X", f.sb.DeviceUUID)
		return nil
	})
}

func (t *tool) writeDevUUID() error {
	arg, err := t.argument()
	if err != nil {
		return err
	}
	uuid, err := strconv.ParseUint(strings.TrimPrefix(arg, "0x"), 16, 64)
	if err != nil {
		return failf(exitInvalid, "'%s' is not a number of up to 16 hexadecimal digits.", arg)
	}
	return t.change(func(sb *metadata.Superblock) error {
		sb.DeviceUUID = uuid
		return nil
	})
}

// wipeMD removes the superblock. Having nothing to remove is fine.
func (t *tool) wipeMD() error {
	t.ignoreArguments(0)
	dev, err := t.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	_, l, err := metadata.ReadVersion(dev, t.version, t.loc, dev.size)
	if errors.Is(err, metadata.ErrNoMetadata) || errors.Is(err, metadata.ErrCorrupt) {
		t.complain("There appears to be no drbd meta data to wipe out?")
		return nil
	}
	if err != nil {
		return err
	}
	if !t.confirm("Do you really want to wipe out the DRBD meta data?") {
		return t.errDeclined()
	}
	t.say("Wiping meta data...")
	if err := metadata.Wipe(dev, l); err != nil {
		return err
	}
	t.forget()
	t.say("DRBD meta data block successfully wiped out.")
	return nil
}
