// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// checkResize moves internal metadata to where it belongs after the device has
// grown.
func (t *tool) checkResize() error {
	t.ignoreArguments(0)
	if t.loc != metadata.Internal() || t.version == metadata.V07 {
		return failf(exitNo, "Operation only supported for >= v8 internal meta data")
	}
	dev, err := t.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	sb, _, err := metadata.ReadVersion(dev, t.version, t.loc, dev.size)
	if err == nil { // nothing to move
		t.remember(dev.size, sb.DeviceUUID)
		return nil
	}
	last, err := t.lastSize()
	if err != nil {
		return failf(exitNo, "no suitable meta data found :( (%w)", err)
	}
	if _, _, err := metadata.ReadVersion(dev, t.version, t.loc, last); err != nil {
		return failf(exitNo, "no suitable meta data found :( (%w)", err)
	}
	t.complain("Moving the internal meta data to its proper location")
	opt := metadata.ResizeOptions{SetNew: t.opts.has("out-of-sync")}
	sb, _, err = metadata.Resize(dev, t.loc, last, dev.size, opt)
	if errors.Is(err, metadata.ErrDeviceTooSmall) {
		return failf(exitNo, "%w", err)
	}
	if err != nil {
		return err
	}
	t.remember(dev.size, sb.DeviceUUID)
	t.say("Internal drbd meta data successfully moved.")
	return nil
}
