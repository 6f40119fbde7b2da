// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"fmt"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// A write to a cold extent waits for one transaction; the next ones to the same
// extent cost nothing.
func ExampleLog() {
	g := activitylog.Geometry{Stripes: 1, StripeSize4k: 8}
	disk := make([]byte, g.Bytes())
	for i := range g.Blocks() {
		activitylog.InitBlock((*[activitylog.BlockSize]byte)(disk[activitylog.BlockSize*i:]))
	}
	l := activitylog.New(activitylog.DefaultExtents, g)

	first, last := activitylog.ExtentRange(8190, 8) // 4 KiB across a border of extents
	fmt.Println(first, last, l.TryHoldRange(first, last))

	var block [activitylog.BlockSize]byte
	t, evicted, ok := l.Prepare(&block, nil)
	fmt.Println(ok, "transaction", t.Number, "with", t.NUpdates, "changes; evicted", len(evicted))
	// Here: write the bitmap pages of the evicted extents, then flush.
	copy(disk[t.Offset():], block[:]) // and make it durable
	l.Commit()

	fmt.Println("granted:", l.Granted(first, last))
	// Here: write the data, send it to the peer, wait for both.
	l.ReleaseRange(first, last)

	fmt.Println(l.TryHold(0))

	// After a crash:
	res, err := activitylog.Replay(bytes.NewReader(disk), 0, g)
	fmt.Println(res.Hot, err)
	// Output:
	// 0 1 pending
	// true transaction 0 with 2 changes; evicted 0
	// granted: true
	// hot
	// [0 1] <nil>
}

// Read whatever form of log a crashed Primary left.
func ExampleReplayFormat() {
	raw, err := readImage("v08-internal-al83") // metadata of an 8.3 node
	if err != nil {
		fmt.Println(err)
		return
	}
	const (
		areaOffset     = 4096
		superblockType = 0x8374026B
		alNrExtents    = 257
	)
	r := bytes.NewReader(raw)
	f, err := activitylog.DetectFormat(r, areaOffset, activitylog.Geometry{}, superblockType)
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := activitylog.ReplayFormat(f, r, areaOffset, activitylog.Geometry{}, alNrExtents)
	if err != nil {
		fmt.Println(err) // the whole volume has to be taken as out of sync
		return
	}
	fmt.Println(f, res.Hot)
	fmt.Println(res.Warnings[0])
	// Output:
	// sectors [5 9]
	// 3 of 6 sectors are invalid or were never used
}
