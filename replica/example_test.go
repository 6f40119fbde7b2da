// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"context"
	"fmt"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// Two nodes in one process, with disks and a network in memory. Errors are left
// out for brevity.
func Example() {
	ctx := context.Background()
	network := transporttest.NewNetwork(1)
	open := func(name, peer string) *replica.Resource {
		disk := blockdev.NewMemory(16 << 20)
		replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{})
		res, _ := replica.Open(ctx, replica.Config{
			Name:    "r0",
			Volumes: []replica.VolumeConfig{{ID: 0, Disk: disk}},
			Peers:   []replica.PeerConfig{{Name: peer, Transport: network.Transport(name, peer)}},
		})
		res.Connect(ctx)
		return res
	}
	alpha, beta := open("alpha", "beta"), open("beta", "alpha")
	alpha.WaitConnected(ctx)
	alpha.Promote(ctx, replica.Force()) // the first time: alpha's data counts, beta is filled from it

	alpha.Volume(0).WriteAt(make([]byte, 4096), 0) // returns when it is on both disks
	alpha.WaitSync(ctx)
	fmt.Println(alpha.Status().Role(), alpha.Status().Volumes[0].State.PeerDisk)

	alpha.Close()
	beta.Promote(ctx)
	fmt.Println(beta.Status().Role(), beta.Status().Volumes[0].State.Disk)
	beta.Close()
	// Output:
	// Primary UpToDate
	// Primary UpToDate
}

// A program follows what happens to a resource.
func ExampleResource_Events() {
	ctx := context.Background()
	disk := blockdev.NewMemory(16 << 20)
	replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{})
	res, err := replica.Open(ctx, replica.Config{Name: "r0", Volumes: []replica.VolumeConfig{{Disk: disk}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	events := res.Events(ctx) // from here on
	res.Promote(ctx, replica.Force())
	res.Close()
	for ev := range events {
		fmt.Println(ev)
	}
	// Output:
	// volume 0: role( Secondary -> Primary ) disk( Inconsistent -> UpToDate )
	// volume 0: role( Primary -> Secondary )
	// volume 0: disk( UpToDate -> Failed )
	// volume 0: disk( Failed -> Diskless )
}

// The status of a resource prints as /proc/drbd does.
func ExampleStatus_String() {
	ctx := context.Background()
	disk := blockdev.NewMemory(16 << 20)
	replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{})
	res, err := replica.Open(ctx, replica.Config{Name: "r0", Volumes: []replica.VolumeConfig{{Disk: disk}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Close()
	fmt.Print(res.Status())
	// Output:
	// version: 8.4.11 (api:1/proto:86-101)
	// srcversion: blockmirror
	//  0: cs:StandAlone ro:Secondary/Unknown ds:Inconsistent/DUnknown   r-----
	//     ns:0 nr:0 dw:0 dr:0 al:0 bm:1 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:16344
}
