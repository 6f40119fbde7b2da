// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// ResizeOptions are those of resize.
type ResizeOptions struct {
	Size                            string // sectors with DRBD's suffixes; empty for as large as the disks allow
	AssumeClean, AssumePeerHasSpace bool
}

// Resize looks at the disks of both nodes again and changes the volume's size (resize).
// Errors: *Error, 130 during a resync, 131 without a Primary.
func (n *Node) Resize(ctx context.Context, minor string, o ResizeOptions) error {
	res, v, err := n.opened(minor)
	if v != nil && v.backing == nil {
		return failure(CodeNoDisk, "attach one first")
	}
	if err != nil {
		return err
	}
	size := DiskOptions["size"]
	want := Options{}
	if o.Size != "" {
		norm, err := size.normal("size", o.Size)
		if err != nil {
			return err
		}
		want["size"] = norm
	}
	st, _ := v.Status()
	switch conn := st.State.Conn; {
	case conn > protocol.Connected && conn != protocol.VerifyS && conn != protocol.VerifyT:
		return failure(CodeResizeInResync, "%s", conn)
	case st.State.Role != protocol.Primary && st.State.Peer != protocol.Primary:
		return failure(CodeResizeNoPrimary, "promote one node")
	}
	var opts []replica.ResizeOption
	if o.AssumeClean {
		opts = append(opts, replica.AssumeClean())
	}
	if o.AssumePeerHasSpace {
		opts = append(opts, replica.AssumePeerHasSpace())
	}
	v.r.admin.Lock()
	defer v.r.admin.Unlock()
	return v.r.reconfigure(func(*replica.Resource) error {
		return res.Volume(v.id).Resize(ctx, DiskOptions.number(want, "size")*metadata.SectorSize, opts...)
	}, func() {
		changed := maps.Clone(v.options)
		if changed == nil {
			changed = Options{}
		}
		delete(changed, "size")
		if want["size"] != "" && want["size"] != "0" {
			changed["size"] = want["size"]
		}
		v.options = changed
	})
}
