// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf_test

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/drbdconf"
)

const text = `
resource r0 {
  protocol C;
  syncer { rate 125M; }
  disk { disk-timeout 100; md-flushes no; }
  on alpha { device /dev/drbd0; disk /dev/vg1/mirror0; meta-disk internal; address 192.0.2.2:7788; }
  on beta  { device /dev/drbd0; disk /dev/vg1/mirror0; meta-disk internal; address 192.0.2.3:7788; }
}`

// A program reads its part of a file. What is left to be opened are the disk and the
// connection: blockdev.Open(disk.Path), transport.NewTCP(node.TCP).
func ExampleResource_Node() {
	config, err := drbdconf.Parse("drbd.conf", text) // or Load("/etc/drbd.conf")
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := config.Resource("r0")
	if err != nil {
		fmt.Println(err)
		return
	}
	node, err := res.Node("alpha") // who am I: os.Hostname, or what --node says
	if err != nil {
		fmt.Println(err)
		return
	}
	var cfg replica.Config = node.Config
	fmt.Println(cfg.Name, cfg.Volumes[0].MetaDisk, cfg.Volumes[0].Resync.Rate>>20, "MiB/s")
	fmt.Println(node.Disks[0].Path, node.TCP.Local, "->", node.Peer, node.TCP.Remote)
	for _, p := range node.Problems {
		fmt.Println(p)
	}
	// Output:
	// r0 internal 125 MiB/s
	// /dev/vg1/mirror0 192.0.2.2:7788 -> beta 192.0.2.3:7788
	// drbd.conf:5:28: disk md-flushes: no effect: metadata is always flushed
}

// Everything that is wrong in a file is reported, with its place.
func ExampleParse_errors() {
	_, err := drbdconf.Parse("drbd.conf", "resource r0 {\n  net { timeout 1000; cram-alg sha1; }\n}")
	fmt.Println(err)
	// Output:
	// drbd.conf:2:17: invalid: timeout: 1000 is out of range, want 1 to 600
	// drbd.conf:2:23: invalid: there is no option cram-alg in a section net
}

// Dump writes what drbdadm dump does.
func ExampleConfig_Dump() {
	config, err := drbdconf.Parse("drbd.conf", text)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(config.Dump(drbdconf.DRBD84))
	// Output:
	// resource r0 {
	//     on alpha {
	//         device           /dev/drbd0 minor 0;
	//         disk             /dev/vg1/mirror0;
	//         meta-disk        internal;
	//         address          ipv4 192.0.2.2:7788;
	//     }
	//     on beta {
	//         device           /dev/drbd0 minor 0;
	//         disk             /dev/vg1/mirror0;
	//         meta-disk        internal;
	//         address          ipv4 192.0.2.3:7788;
	//     }
	//     net {
	//         protocol           C;
	//     }
	//     disk {
	//         resync-rate      125M;
	//         disk-timeout     100;
	//         md-flushes        no;
	//     }
	// }
}
