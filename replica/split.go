// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// splitWindow is how many pieces of a large request are in flight at one time.
const splitWindow = 8

// transfer performs a request of any length. It returns how many bytes from off on
// were done without a gap; less than n only with an error.
func (v *Volume) transfer(ctx context.Context, kind core.IOKind, buf []byte, off, n int64, flags ioFlags) (int64, error) {
	limit := int64(core.MaxIOBytes)
	if kind == core.IODiscard || kind == core.IOZero {
		limit = core.MaxDiscardBytes
	}
	if n <= limit {
		if err := v.do(ctx, kind, buf, off, n, flags); err != nil {
			return 0, err
		}
		return n, nil
	}
	return v.pipeline(ctx, kind, buf, off, n, limit, flags)
}

// pipeline performs a large request in pieces, several at a time. After an error
// no further piece is begun; those that have begun are waited for.
func (v *Volume) pipeline(ctx context.Context, kind core.IOKind, buf []byte, off, n, limit int64, flags ioFlags) (int64, error) {
	var window [splitWindow]*call
	var done, begun int64 // bytes from off on
	var first error
	for head, count := 0, 0; ; {
		if first == nil && ctx.Err() != nil {
			first = context.Cause(ctx)
		}
		for first == nil && begun < n && count < splitWindow {
			size := pieceLen(off+begun, n-begun, limit)
			var part []byte
			if buf != nil {
				part = buf[begun : begun+size]
			}
			c := v.newCall(kind, part, off+begun, size, flags)
			v.r.begin(c, false)
			window[(head+count)%splitWindow] = c
			count++
			begun += size
		}
		if count == 0 {
			return done, first
		}
		c := window[head]
		head, count = (head+1)%splitWindow, count-1
		err := v.r.end(ctx, c)
		if err == nil && first == nil {
			done += c.io.Len
		} else if first == nil {
			first = err
		}
		v.r.free(c)
	}
}

// pieceLen returns how much of n bytes at off the next piece takes: up to the next
// multiple of limit, so that no piece but the first and last is smaller, and none
// lies in two extents of the activity log.
func pieceLen(off, n, limit int64) int64 {
	return min(n, limit-off%limit)
}
