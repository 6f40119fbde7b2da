// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockmirror_test

import (
	"context"
	"fmt"
	"log"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
)

// check ends a program that cannot go on.
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// One node of a pair. The other one has the addresses the other way round, and does
// not promote itself.
func Example() {
	ctx := context.Background()
	disk := blockdev.NewMemory(64 << 20)                                                // or blockdev.Open("/dev/vg0/r0", blockdev.Options{})
	check(replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{})) // once in a disk's life

	tcp, err := transport.NewTCP(transport.TCPConfig{Local: "127.0.0.1:7788", Remote: "127.0.0.1:7789"})
	check(err)
	res, err := replica.Open(ctx, replica.Config{
		Name:    "r0",
		Volumes: []replica.VolumeConfig{{ID: 0, Disk: disk}},
		Peers:   []replica.PeerConfig{{Name: "beta", Transport: tcp}},
	})
	check(err)
	defer res.Close()

	check(res.Connect(ctx))                  // looks for beta from now on, and again after every loss
	check(res.Promote(ctx, replica.Force())) // Force: a new pair, and this node's data counts
	vol := res.Volume(0)                     // an io.ReaderAt and io.WriterAt
	_, err = vol.WriteAt(make([]byte, 4096), 8192)
	check(err) // nil: it is on both nodes, or marked for the one that is away
	fmt.Println(res.Status().Role(), vol.Size())
	// Output: Primary 67067904
}
