// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/go-blockmirror/blockmirror/metadata"

// applyAL makes metadata clean after a crash or an ordinary stop.
func (t *tool) applyAL() error {
	t.ignoreArguments(0)
	return t.view(func(f *found) error {
		res, err := metadata.ApplyAL(f.dev, t.loc, f.dev.size)
		for _, line := range res.Messages(err) {
			t.complain("%s", line)
		}
		if err != nil {
			return failf(exitNo, "%w", err)
		}
		t.remember(f.dev.size, f.sb.DeviceUUID)
		return nil
	})
}
